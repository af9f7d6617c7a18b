"""Puts the project's wheels for the container images into a folder, and removes others from it.

    .venv/bin/python setup/wheels.py FOLDER [--core]

The JupyterLab extension always; with --core also elara-remoting with the C++ core of this machine's installation. Both
come from the installer's cache when nothing changed, byte for byte, so that an image is not built anew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import inputs
import install


def remoting_wheel() -> Path:
    """elara-remoting as a wheel with the core that is built here: from the cache, else made. Raises SetupProblem."""
    key = inputs.core() + install.TORCH
    if not install.stamped("core", key):
        install.build_core()
        install.stamp("core", key)
    source = install.ROOT / "remoting"
    kept = install.CACHE / f"remoting-{inputs.below(source, 'elara_remoting', 'pyproject.toml', 'setup.py')[:24]}"
    if kept.is_dir():
        return next(kept.glob("*.whl"))
    with tempfile.TemporaryDirectory(prefix="elara-wheel-") as folder:
        # A copy, since setuptools would put what it finds in an old build folder into the wheel.
        copy, made = Path(folder) / "remoting", Path(folder) / "wheels"
        ignored = shutil.ignore_patterns("csrc", "build", "*.egg-info", "__pycache__")
        shutil.copytree(source, copy, ignore=ignored)
        (copy / "csrc").mkdir()
        install.pip(
            *("wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", made, copy),
            what="Building the wheel of elara-remoting",
            extra={"ELARA_CORE_BUILT": "1"},
        )
        install.keep(made, kept)
    return next(kept.glob("*.whl"))


def put(wheels: list[Path], folder: Path) -> None:
    """Make `folder` hold exactly these wheels; one that is there already is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for other in set(folder.glob("*.whl")) - {folder / wheel.name for wheel in wheels}:
        other.unlink()
    for wheel in wheels:
        place = folder / wheel.name
        if not place.exists() or place.read_bytes() != wheel.read_bytes():
            new = place.with_name(f".{place.name}.{os.getpid()}")
            shutil.copyfile(wheel, new)
            new.replace(place)


def main() -> int:
    """Exit status 1 with a sentence when a wheel cannot be built."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--core", action="store_true", help="also elara-remoting, with the core of this machine")
    options = parser.parse_args()
    try:
        wheels = [install.labextension_wheel()]
        if options.core:
            wheels.append(remoting_wheel())
        put(wheels, options.folder)
    except install.SetupProblem as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
