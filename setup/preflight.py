"""Looks, before anything is installed, whether this machine can build and run Elara. Standard library only.

Run by `make`; also by hand: python3.11 setup/preflight.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED_PYTHON = (3, 11)
LEAST_FREE_GIB = 6
_APT = "sudo apt-get update && sudo apt-get install -y "

# Asking the compiler is the only question whose answer is right on every distribution.
_OPENSSL = "#include <openssl/ssl.h>\nint main() { return 0; }\n"
_CXX20 = "#include <concepts>\n#include <span>\nstatic_assert(std::integral<int>);\nint main() { return 0; }\n"


def problems(environment: dict[str, str] | None = None) -> list[str]:
    """Sentences, one for each thing in the way; empty when nothing is."""
    environment = dict(os.environ) if environment is None else environment
    if sys.version_info[:2] != NEEDED_PYTHON:
        return [_wrong_python()]
    found: list[str] = []
    missing: dict[str, str] = {}
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        missing["python3.11-venv"] = "Python's venv module"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        missing["python3.11-dev"] = "Python's headers (Python.h)"
    path = environment.get("PATH", "")
    for tool, package in (("make", "make"), ("git", "git")):
        if shutil.which(tool, path=path) is None:
            missing[package] = tool
    compiler = shutil.which(environment.get("CXX", "c++"), path=path) or shutil.which("g++", path=path)
    if compiler is None:
        missing["build-essential"] = "a C++ compiler"
    elif not _compiles(compiler, _CXX20, environment):
        found.append(
            f"The C++ compiler {compiler} does not know C++20. Install a newer one (GCC 11 and Clang 14 do) and name "
            f"it "
            "with CXX=..., for example: make up CXX=g++-12"
        )
    elif not _compiles(compiler, _OPENSSL, environment):
        missing["libssl-dev"] = "OpenSSL's headers"
    if missing:
        names = ", ".join(missing.values())
        verb = "is" if len(missing) == 1 else "are"
        found.append(f"{names} {verb} missing. On Debian or Ubuntu:\n    {_APT}{' '.join(missing)}")
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < LEAST_FREE_GIB and not (ROOT / ".venv").exists():
        found.append(
            f"Only {free:.1f} GiB are free on the disk of {ROOT}, and the environment needs up to {LEAST_FREE_GIB} "
            f"GiB. "
            "Free some space, or move the checkout to a larger disk."
        )
    if not os.access(ROOT, os.W_OK):
        found.append(f"{ROOT} cannot be written by this user. Use a checkout of your own.")
    return found


def _wrong_python() -> str:
    have = ".".join(str(n) for n in sys.version_info[:3])
    return (
        f"This is Python {have} ({sys.executable}), and Elara needs Python 3.11. On Debian 12:\n"
        f"    {_APT}python3.11 python3.11-venv python3.11-dev\n"
        "  On Ubuntu, whose own Python may be another, first: sudo add-apt-repository ppa:deadsnakes/ppa\n"
        "  Where it is installed under another name, tell make: make up PYTHON=/path/to/python3.11"
    )


def _compiles(compiler: str, source: str, environment: dict[str, str]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probe.cpp"
        file.write_text(source)
        command = [compiler, "-std=c++20", "-fsyntax-only", str(file)]
        return subprocess.run(command, capture_output=True, env=environment, check=False).returncode == 0


def main() -> int:
    """Print what is in the way; exit status 1 when anything is."""
    found = problems()
    for sentence in found:
        print(sentence, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
