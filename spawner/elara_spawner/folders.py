"""Makes the folders of a local workspace. All of it is safe to repeat at every start."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import sysconfig
import venv
from pathlib import Path

from ipykernel.kernelspec import RESOURCES, get_kernel_dict

from elara_spawner.workspace import Places

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
    _replace(file, "".join(line + "\n" for line in lines), 0o644)


def make_environment(places: Places) -> None:
    """The user's own Python environment, which lies on top of the one that Elara runs in.

    What the user installs goes there: it survives a restart, shadows what lies below, and harms nobody else. pip sees
    the packages below as installed, and leaves them where they are. (`pip install --user` would need no environment,
    but pip refuses it where Elara itself is installed in one.)
    """
    folder = places.environment
    # upgrade_deps, pip and clear are all off: this only (re)writes the links and pyvenv.cfg, in a few milliseconds.
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    libraries = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    below = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    # addsitedir, since a plain path line would not follow the .pth files in there (editable installs).
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in below)
    _replace(libraries / "_elara_below.pth", lines, 0o644)
    pip = f'#!/bin/sh\nexec "{folder / "bin" / "python"}" -m pip "$@"\n'
    for name in ("pip", "pip3"):
        _replace(folder / "bin" / name, pip, 0o755)
    _write_kernel(places)


def _write_kernel(places: Places) -> None:
    """Notebooks run in the user's environment. The server does not, so that a broken package cannot keep it down."""
    spec = get_kernel_dict()
    spec["argv"][0] = str(places.environment / "bin" / "python")
    folder = places.jupyter / "kernels" / KERNEL
    _replace(folder / "kernel.json", json.dumps(spec, indent=1), 0o644)
    for logo in Path(RESOURCES).glob("logo-*"):
        shutil.copyfile(logo, folder / logo.name)


def copy_examples(source: Path, home: Path) -> None:
    """Copy the example notebooks into the home; a copy that the user changed, or deleted, is left as it is."""
    if not source.is_dir():
        return
    target = home / "examples"
    record = home / ".elara" / "examples.json"
    try:
        given: dict[str, str] = json.loads(record.read_text())
    except (OSError, ValueError):
        given = {}
    for file in sorted(path for path in source.rglob("*") if path.is_file() and not _hidden(path.relative_to(source))):
        name = str(file.relative_to(source))
        fresh, copy = _digest(file), target / name
        if copy.exists():
            if _digest(copy) != given.get(name) or fresh == given.get(name):
                continue
        elif name in given:
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        given[name] = fresh
    _replace(record, json.dumps(given, indent=1, sort_keys=True), 0o644)


def open_log(file: Path, most_bytes: int = 4 * 2**20) -> int:
    """The workspace's log, for appending; a long one is put aside first. Returns a file descriptor."""
    try:
        if file.stat().st_size > most_bytes:
            file.replace(file.with_suffix(".log.1"))
    except FileNotFoundError:
        pass
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.parts)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _replace(file: Path, text: str, mode: int) -> None:
    """Write in one step; nothing happens when the file says it already."""
    try:
        if file.read_text() == text and file.stat().st_mode & 0o777 == mode:
            return
    except OSError:
        pass
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.replace(file)
