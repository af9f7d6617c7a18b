"""Writes images/*/requirements.txt from images/*/requirements.in: each package and what it needs, pinned.

    .venv/bin/python setup/lock_images.py [NAME...]

Versions are those of requirements/run.txt where that has the package, so that a container and local mode agree. An
image's lock leaves out what the image below it holds already. Nothing is installed; PyTorch is left out, since its
build is chosen in the Dockerfile.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "images"
LEAST_PYTHON = "3.11.2"
"""Debian 12's, which images are made with; this machine's own may be newer."""
BELOW = dict.fromkeys(("pytorch", "tensorflow", "jax"), "packages")
_HEAD = "# Written by setup/lock_images.py from requirements.in; do not edit by hand.\n"


def pins(file: Path) -> dict[str, str]:
    """Name to version of a lock file."""
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def resolve(source: Path, constraints: dict[str, str]) -> dict[str, str]:
    """What pip would install for `source` into an empty environment of this Python. Raises SystemExit."""
    with tempfile.TemporaryDirectory() as folder:
        limits, report = Path(folder) / "constraints.txt", Path(folder) / "report.json"
        limits.write_text("".join(f"{name}=={version}\n" for name, version in constraints.items()))
        command = [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"),
            *("--python-version", LEAST_PYTHON, "--target", str(Path(folder) / "none")),
            *("--only-binary", ":all:", "--report", str(report), "-r", str(source), "-c", str(limits)),
        ]
        if subprocess.run(command, check=False).returncode != 0:
            raise SystemExit(f"{source} cannot be resolved; pip says why above.")
        found = json.loads(report.read_text())["install"]
    return {canonicalize_name(p["metadata"]["name"]): p["metadata"]["version"].split("+")[0] for p in found}


def main() -> int:
    """Write the locks that were asked for, or all; an image comes after the one below it."""
    names = sorted((p.parent.name for p in FOLDER.glob("*/requirements.in")), key=lambda name: (name in BELOW, name))
    common = pins(ROOT / "requirements" / "run.txt")
    for name in names:
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        below = pins(FOLDER / BELOW[name] / "requirements.txt") if name in BELOW else {}
        versions = resolve(FOLDER / name / "requirements.in", {**common, **below})
        own = {k: v for k, v in versions.items() if k not in below}
        lines = "".join(f"{package}=={own[package]}\n" for package in sorted(own))
        (FOLDER / name / "requirements.txt").write_text(_HEAD + lines)
        print(f"{name}: {len(own)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
