"""The attachment file: what a workspace's kernels read to find their devices.

The format is line-based on purpose: the C++ core reads it too, and needs no JSON parser for it. See docs/contracts.md.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

MAGIC = "elara-attachment 1"
FILE_NAME = "attachment"
ATTACHED, DETACHED, LOST = "attached", "detached", "lost"


class MalformedAttachment(ValueError):
    """The attachment file is not one; the text names the line."""


@dataclass(frozen=True)
class AttachedDevice:
    """One device of an attachment. `share` in thousandths, `memory_bytes` is the lease's cap on it."""

    ordinal: int
    model: str
    uuid: str
    emulated: bool
    share: int
    memory_bytes: int
    secret: str = field(repr=False)
    local: str | None = None
    tcp: str | None = None
    ca: str | None = None


@dataclass(frozen=True)
class Attachment:
    """A lease as the workspace sees it. `expires` in Unix seconds, 0 for never."""

    epoch: int
    state: str
    lease: str = ""
    reason: str = ""
    expires: int = 0
    devices: tuple[AttachedDevice, ...] = ()

    def render(self) -> str:
        """The file's text."""
        lines = [MAGIC, f"epoch {self.epoch}", f"state {self.state}", f"reason {_one_line(self.reason)}"]
        lines += [f"lease {self.lease}", f"expires {self.expires}"]
        for device in self.devices:
            lines += [
                f"device {device.ordinal}",
                f"model {_one_line(device.model)}",
                f"uuid {_one_line(device.uuid)}",
                f"emulated {int(device.emulated)}",
                f"share {device.share}",
                f"memory {device.memory_bytes}",
                f"secret {device.secret}",
            ]
            for key, value in (("local", device.local), ("tcp", device.tcp), ("ca", device.ca)):
                if value:
                    lines.append(f"{key} {_one_line(value)}")
        return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def parse(text: str) -> Attachment:
    """Read the file's text.

    Raises:
        MalformedAttachment: the first line is not the magic, or a number is not one.
    """
    lines = text.splitlines()
    if not lines or lines[0] != MAGIC:
        raise MalformedAttachment(f"line 1: expected {MAGIC!r}")
    head: dict[str, str] = {}
    devices: list[dict[str, str]] = []
    for line in lines[1:]:
        key, _, value = line.partition(" ")
        if key == "device":
            devices.append({})
        (devices[-1] if devices else head)[key] = value
    try:
        return Attachment(
            epoch=int(head["epoch"]),
            state=head["state"],
            lease=head.get("lease", ""),
            reason=head.get("reason", ""),
            expires=int(head.get("expires") or 0),
            devices=tuple(
                AttachedDevice(
                    ordinal=int(d["device"]),
                    model=d["model"],
                    uuid=d["uuid"],
                    emulated=d["emulated"] == "1",
                    share=int(d["share"]),
                    memory_bytes=int(d["memory"]),
                    secret=d["secret"],
                    local=d.get("local"),
                    tcp=d.get("tcp"),
                    ca=d.get("ca"),
                )
                for d in devices
            ),
        )
    except (KeyError, ValueError) as error:
        raise MalformedAttachment(f"missing or bad value: {error}") from error


def read(runtime_dir: Path | str) -> Attachment | None:
    """The attachment in `runtime_dir`, or None when there is no file."""
    try:
        return parse((Path(runtime_dir) / FILE_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write(runtime_dir: Path | str, attachment: Attachment) -> None:
    """Replace the attachment in `runtime_dir` atomically, readable by its owner only."""
    write_private(Path(runtime_dir) / FILE_NAME, attachment.render())


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path` by atomic rename with mode 0600."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def next_epoch(runtime_dir: Path | str) -> int:
    """The epoch that follows the one on disk; epochs of one runtime folder never repeat."""
    current = read(runtime_dir)
    return current.epoch + 1 if current else 1


def detached(runtime_dir: Path | str, reason: str = "", *, lost: bool = False) -> Attachment:
    """The attachment that takes the devices away, in the next epoch."""
    return Attachment(epoch=next_epoch(runtime_dir), state=LOST if lost else DETACHED, reason=reason)


def renumber(devices: Iterable[AttachedDevice]) -> tuple[AttachedDevice, ...]:
    """`devices` in the order of their ordinals, which must be 0, 1, ... without a gap.

    Raises:
        MalformedAttachment: an ordinal is missing or stands twice.
    """
    ordered = tuple(sorted(devices, key=lambda device: device.ordinal))
    if [device.ordinal for device in ordered] != list(range(len(ordered))):
        raise MalformedAttachment("the device ordinals are not 0, 1, ... without a gap")
    return ordered
