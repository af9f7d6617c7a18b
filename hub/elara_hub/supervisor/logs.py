"""Logs of the parts: one file each, rotated, with no secret in it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path

LARGEST_BYTES = 5 * 1024 * 1024
OLD_FILES = 3
_LONGEST_LINE = 64 * 1024


class PartLog:
    """Takes what a part prints, in pieces of any size, and writes whole lines to `<name>.log`."""

    def __init__(
        self, folder: Path, name: str, secrets: Iterable[str] = (), largest: int = LARGEST_BYTES, kept: int = OLD_FILES
    ) -> None:
        self.path = folder / f"{name}.log"
        self._largest = largest
        self._kept = kept
        self._secrets = [s.encode() for s in secrets if s]
        self._rest = b""
        self._last: deque[str] = deque(maxlen=40)
        self._open()

    def write(self, data: bytes) -> None:
        """Take a piece of output."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._line(line)

    def note(self, text: str) -> None:
        """A line of the supervisor's own."""
        self._line(f"[supervisor] {text}".encode())

    def last_lines(self, count: int) -> list[str]:
        """The newest lines, oldest first; for telling why a part did not start."""
        if self._rest:
            self.write(b"\n")
        return list(self._last)[-count:]

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._rest:
            self.write(b"\n")
        self._file.close()

    def _line(self, line: bytes) -> None:
        for secret in self._secrets:
            if secret in line:
                line = line.replace(secret, b"[secret]")
        if line.strip():
            self._last.append(line.decode(errors="replace").rstrip())
        try:
            if self._size + len(line) + 1 > self._largest:
                self._rotate()
            self._file.write(line + b"\n")
            self._size += len(line) + 1
        except OSError:
            pass  # a full disk must not stop the parts, whose work does not depend on their logs

    def _open(self) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(handle, "wb", buffering=0)
        self._size = self.path.stat().st_size

    def _rotate(self) -> None:
        self._file.close()
        for number in range(self._kept - 1, 0, -1):
            older = self.path.with_suffix(f".log.{number}")
            if older.exists():
                older.replace(self.path.with_suffix(f".log.{number + 1}"))
        self.path.replace(self.path.with_suffix(".log.1"))
        self._open()
