"""Prepares a workspace's home: the user's own Python environment and the example notebooks. Safe to repeat."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sysconfig
import venv
from pathlib import Path


def make_environment(folder: Path) -> None:
    """The user's own Python environment in `folder`, which lies on top of the one that runs this. Raises OSError.

    What the user installs goes there: it survives a restart, shadows what lies below, and harms nobody else. pip sees
    the packages below as installed, and leaves them where they are. (`pip install --user` would need no environment,
    but pip refuses it where Elara itself is installed in one.)
    """
    # upgrade_deps, pip and clear are all off: this only (re)writes the links and pyvenv.cfg, in a few milliseconds.
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    libraries = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    below = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    # addsitedir, since a plain path line would not follow the .pth files in there (editable installs).
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in below)
    replace(libraries / "_elara_below.pth", lines, 0o644)
    pip = f'#!/bin/sh\nexec "{folder / "bin" / "python"}" -m pip "$@"\n'
    for name in ("pip", "pip3"):
        replace(folder / "bin" / name, pip, 0o755)


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
    replace(record, json.dumps(given, indent=1, sort_keys=True), 0o644)


def replace(file: Path, text: str, mode: int) -> None:
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


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.parts)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
