"""Hashes of what a build step depends on, so that it runs again exactly when that changed."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_CORE = ("CMakeLists.txt", "setup.py", "pyproject.toml", "csrc")
_LAB = (
    *("src", "style", "schema", "jupyter-config", "jupyterlab_elara", "package.json", "yarn.lock", "tsconfig.json"),
    *("pyproject.toml", "install.json"),
)
# Made by the builds themselves, or of no matter for what they make.
_MADE = frozenset({"node_modules", "labextension", "lib", "__pycache__", "_version.py", "build", ".yarn"})


def of(*files: str) -> str:
    """A hash of some files of the checkout, given relative to its root."""
    return _hash(ROOT / name for name in files)


def core() -> str:
    """What the C++ core is built from: its sources and the compiler. PyTorch's version is the caller's to add."""
    compiler = os.environ.get("CXX", "c++")
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    except OSError:
        version = b""  # the preflight tells about a missing compiler
    return hashlib.sha256(_hash(_below(ROOT / "remoting", _CORE)).encode() + version).hexdigest()


def labextension() -> str:
    """What the JupyterLab extension is built from."""
    return _hash(_below(ROOT / "extensions" / "jupyterlab-elara", _LAB))


def modules(*packages: str) -> str:
    """A hash of the Python modules of some packages of the checkout."""
    return _hash(path for package in packages for path in sorted((ROOT / package).rglob("*.py")))


def below(folder: Path, *names: str) -> str:
    """A hash of files and folders below a folder of the checkout, without what builds make."""
    return _hash(_below(folder, names))


def _below(folder: Path, names: Iterable[str]) -> list[Path]:
    found: list[Path] = []
    for name in names:
        path = folder / name
        if path.is_dir():
            for base, folders, files in os.walk(path):
                folders[:] = sorted(f for f in folders if f not in _MADE)
                found += [Path(base) / f for f in sorted(files) if f not in _MADE and not f.endswith(".pyc")]
        else:
            found.append(path)
    return found


def _hash(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(ROOT)).encode() + b"\0")
        try:
            content = file.read_bytes()
        except OSError:
            content = b""
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
