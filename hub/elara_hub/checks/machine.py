"""The data folder: who may read it, and how much room its disk has."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from elara_hub.checks.finding import Finding, ok, problem, warning
from elara_hub.supervisor.folder import LEAST_FREE_BYTES

_ROOM = 5 * 2**30
_SHOWN = 3


def check(data: Path, docker_root: Path | None = None) -> Iterator[Finding]:
    """Of the data folder, and of the disk on which Docker keeps images and volumes where that is known."""
    if not data.is_dir():
        yield problem(
            "data folder", f"{data} is no folder.", "Name the right one with --data, or mount it into the container."
        )
        return
    yield _permissions(data)
    for name, folder in (("disk", data), ("disk of Docker", docker_root)):
        if folder is not None and folder.exists():
            yield _disk(name, folder)


def _permissions(data: Path) -> Finding:
    wrong: list[str] = []
    secrets = data / "secrets"
    for path in (secrets, *(secrets.iterdir() if secrets.is_dir() and os.access(secrets, os.R_OK) else ())):
        try:
            status = path.stat()
        except OSError:
            continue
        if stat.S_IMODE(status.st_mode) & 0o077:
            wrong.append(f"{path} (mode {stat.S_IMODE(status.st_mode):04o})")
    if wrong:
        return problem(
            "data folder",
            f"Others may read {', '.join(wrong[:_SHOWN])}{' and more' if len(wrong) > _SHOWN else ''}.",
            f"chmod -R go= {secrets}",
        )
    if not os.access(data, os.W_OK | os.X_OK):
        owner = data.stat().st_uid
        return problem(
            "data folder",
            f"{data} belongs to user {owner}, and this is user {os.geteuid()}, who may not write there.",
            f"chown -R {os.geteuid()} {data}, or run this as its owner.",
        )
    return ok("data folder", f"{data} is this user's, and its secrets are nobody else's to read.")


def _disk(check: str, folder: Path) -> Finding:
    usage = shutil.disk_usage(folder)
    message = f"{usage.free / 2**30:.1f} GiB of {usage.total / 2**30:.0f} GiB are free on the disk of {folder}."
    step = "Free some space (docker system df shows what images and volumes use), or move it to a larger disk."
    if usage.free < LEAST_FREE_BYTES:
        return problem(check, message, step)
    if usage.free < _ROOM:
        return warning(check, message, step)
    return ok(check, message)
