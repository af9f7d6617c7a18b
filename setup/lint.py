"""Every check of style and types, one after the other; tells all that fail, not only the first.

.venv/bin/python setup/lint.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
PACKAGES = (
    "hub/elara_hub",
    "spawner/elara_spawner",
    "remoting/elara_remoting",
    "extensions/jupyterlab-elara/jupyterlab_elara",
)
LAB = ROOT / "extensions" / "jupyterlab-elara"


def checks() -> list[tuple[str, list[str], Path]]:
    """Name, command and folder of each check."""
    sources = sorted(str(f.relative_to(ROOT)) for s in ("*.cpp", "*.h") for f in (ROOT / "remoting" / "csrc").rglob(s))
    present = [p for p in PACKAGES if (ROOT / p).is_dir()]
    listed = [
        ("ruff", [str(BIN / "ruff"), "check", "--quiet", "."], ROOT),
        ("ruff format", [str(BIN / "ruff"), "format", "--check", "--quiet", "."], ROOT),
        ("mypy", [str(BIN / "mypy"), *present], ROOT),
        ("mypy setup", [str(BIN / "mypy"), *sorted(str(f) for f in (ROOT / "setup").glob("*.py"))], ROOT),
        ("clang-format", [str(BIN / "clang-format"), "--dry-run", "-Werror", *sources], ROOT),
    ]
    listed.append(("file sizes", [sys.executable, "setup/sizes.py"], ROOT))
    if (LAB / "package.json").is_file():
        jlpm = str(BIN / "jlpm")
        if not (LAB / "node_modules").is_dir():
            listed.append(("jlpm install", [jlpm, "install", "--immutable"], LAB))
        listed += [("tsc", [jlpm, "tsc", "--noEmit"], LAB), ("eslint", [jlpm, "lint:check"], LAB)]
    return listed


def main() -> int:
    """Exit status 1 when a check fails."""
    failed = []
    for name, command, folder in checks():
        begun = time.monotonic()
        # The scripts of package.json call jlpm, which may be nowhere but in .venv.
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ.get('PATH', '')}"}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
        print(
            f"  {name:<14} {'ok' if done.returncode == 0 else 'FAILED'}  {time.monotonic() - begun:.0f} s", flush=True
        )
        if done.returncode != 0:
            failed.append(name)
            print((done.stdout + done.stderr).strip(), flush=True)
    if failed:
        print(f"Failed: {', '.join(failed)}. `ruff format .`, `clang-format -i` and `jlpm lint` mend most of it.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
