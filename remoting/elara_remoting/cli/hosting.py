"""What `elara run` and `elara serve` share: a private folder that goes away, a node inside this process, its log."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import click

from elara_remoting.node.data_port import LocalSocket
from elara_remoting.node.devices import DeviceError, DeviceSource, EmulatedDevices, find_devices
from elara_remoting.types import Device

LOG_NAME = "node.log"
_LONGEST_FOLDER = 80
"""The path of a local socket may have 107 bytes."""


@contextmanager
def private_folder(purpose: str) -> Iterator[Path]:
    """A folder of mode 0700 that is gone afterwards; sweeps those that killed processes of the past left behind."""
    base = Path(tempfile.gettempdir())
    if len(os.fsencode(base)) > _LONGEST_FOLDER:
        base = Path("/tmp")  # noqa: S108 - mkdtemp makes a private folder in it
    _sweep(base, purpose)
    folder = Path(tempfile.mkdtemp(prefix=f"elara-{purpose}-{os.getpid()}-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(base: Path, purpose: str) -> None:
    for folder in base.glob(f"elara-{purpose}-*"):
        match = re.fullmatch(rf"elara-{purpose}-(\d+)-\w+", folder.name)
        with suppress(OSError):
            if match and folder.stat().st_uid == os.getuid() and not Path(f"/proc/{match.group(1)}").exists():
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def node_log(folder: Path) -> Iterator[IO[bytes]]:
    """Send the node's log into the folder, and to the terminal too when `ELARA_LOG` names a level."""
    logger = logging.getLogger("elara_remoting")
    handlers: list[logging.Handler] = [logging.FileHandler(folder / LOG_NAME)]
    logger.setLevel(logging.INFO)
    level = os.environ.get("ELARA_LOG", "").upper()
    if level in ("DEBUG", "INFO", "WARNING", "ERROR"):
        handlers.append(logging.StreamHandler())
        logger.setLevel(level)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        logger.addHandler(handler)
    logger.propagate = False
    try:
        with (folder / LOG_NAME).open("ab") as stream:
            yield stream
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


def local_socket(folder: Path) -> LocalSocket:
    return LocalSocket(folder / "data.sock")


def devices_for(count: int | None, device_memory: int | None, *, seed: str) -> DeviceSource:
    """NVIDIA devices where there are any (the first `count`), else `count` emulated ones.

    Raises:
        click.UsageError: there are fewer NVIDIA devices than asked for, or the numbers are out of range.
    """
    try:
        source = find_devices(None, device_memory, seed=seed)
        if isinstance(source, EmulatedDevices):
            return find_devices(count if count is not None else 2, device_memory, seed=seed)
    except DeviceError as error:
        raise click.UsageError(str(error)) from error
    if device_memory is not None:
        raise click.UsageError("--device-memory is for emulated devices, and this machine has NVIDIA devices.")
    if count is not None:
        have = len(source.devices())
        if count > have:
            raise click.UsageError(f"This machine has {have} NVIDIA device(s), fewer than the {count} asked for.")
        return _First(source, count)
    return source


class _First:
    """The first few devices of a source."""

    def __init__(self, source: DeviceSource, count: int) -> None:
        self._source, self._count = source, count

    def devices(self) -> list[Device]:
        return self._source.devices()[: self._count]

    def close(self) -> None:
        self._source.close()
