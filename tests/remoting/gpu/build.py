"""Builds the core in place against the installed PyTorch, unless one lies there that was built for this Python."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def built() -> Path | None:
    """The client's module of a core for this PyTorch and this Python, or None."""
    minor = "_".join(importlib.metadata.version("torch").split(".")[:2])
    folder = ROOT / "remoting" / "elara_remoting" / "_core" / f"torch_{minor}"
    for suffix in importlib.machinery.EXTENSION_SUFFIXES[:1]:
        if (folder / f"_client{suffix}").exists():
            return folder / f"_client{suffix}"
    return None


def main() -> int:
    # The entry point by which `import torch` starts the client; found beside the package when that is on the path.
    described = [sys.executable, "setup.py", "-q", "egg_info"]
    subprocess.run(described, cwd=ROOT / "remoting", env={**os.environ, "ELARA_DISABLE": "1"}, check=True)
    present = built()
    if present is not None and os.environ.get("ELARA_REBUILD") != "1":
        print(f"{present} is there already (ELARA_REBUILD=1 builds it again)")
        return 0
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=ROOT / "remoting",
        env={**os.environ, "ELARA_DISABLE": "1"},
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
