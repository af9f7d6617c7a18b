"""Makes the folders of a local workspace. All of it is safe to repeat at every start."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from pathlib import Path

from ipykernel.kernelspec import RESOURCES, get_kernel_dict

from elara_spawner.workspace import Places
from jupyterlab_elara import home
from jupyterlab_elara.home import copy_examples

__all__ = [
    "copy_examples",
    "make_environment",
    "make_places",
    "make_shared",
    "open_log",
    "write_constraints",
]
PINNED = ("torch",)
KERNEL = "python3"


def make_places(places: Places) -> None:
    """The folders of a workspace, with the modes that each needs. Raises OSError."""
    for private in (places.home, places.runtime):
        private.mkdir(parents=True, exist_ok=True)
        private.chmod(0o700)
    places.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    make_shared(places.project)
    _link(places.project_link, places.project)


def make_shared(folder: Path) -> None:
    """A folder whose content stays with the group: setgid, and writable by it (workspaces run with umask 002)."""
    if not folder.exists():
        folder.mkdir(parents=True)
        # mkdir's mode is cut by the hub's umask; chmod is not.
        folder.chmod(0o2770)


def _link(link: Path, target: Path) -> None:
    """Point `link` at `target`. Something of the user's own at that place is left alone."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        if link.readlink() == target:
            return
        link.unlink()
    elif link.exists():
        return
    link.symlink_to(target, target_is_directory=True)


def write_constraints(file: Path) -> None:
    """pip's constraints: the versions that a user's install may not replace, as installed here."""
    lines = []
    for name in PINNED:
        try:
            lines.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    home.replace(file, "".join(line + "\n" for line in lines), 0o644)


def make_environment(places: Places) -> None:
    """The user's own Python environment on top of the one that Elara runs in, and the kernel that runs in it."""
    home.make_environment(places.environment)
    _write_kernel(places)


def _write_kernel(places: Places) -> None:
    """Notebooks run in the user's environment. The server does not, so that a broken package cannot keep it down."""
    spec = get_kernel_dict()
    spec["argv"][0] = str(places.environment / "bin" / "python")
    folder = places.jupyter / "kernels" / KERNEL
    home.replace(folder / "kernel.json", json.dumps(spec, indent=1), 0o644)
    for logo in Path(RESOURCES).glob("logo-*"):
        shutil.copyfile(logo, folder / logo.name)


def open_log(file: Path, most_bytes: int = 4 * 2**20) -> int:
    """The workspace's log, for appending; a long one is put aside first. Returns a file descriptor."""
    try:
        if file.stat().st_size > most_bytes:
            file.replace(file.with_suffix(".log.1"))
    except FileNotFoundError:
        pass
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
