"""Log lines about what strangers do: each kind is told, and a flood of them does not fill the disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

LINES = 10
SECONDS = 60.0


class FloodGuard:
    """Logs at most `LINES` messages in `SECONDS` seconds, then how many there were besides."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._begun = clock()
        self._lines = self._left_out = 0

    def warn(self, message: str, *arguments: object) -> None:
        """Log it as a warning, or count it."""
        now = self._clock()
        if now - self._begun >= SECONDS:
            if self._left_out:
                self._log.warning("%d more messages of this kind were left out", self._left_out)
            self._begun, self._lines, self._left_out = now, 0, 0
        if self._lines < LINES:
            self._lines += 1
            self._log.warning(message, *arguments)
            if self._lines == LINES:
                self._log.warning("what follows of this kind within a minute is only counted")
        else:
            self._left_out += 1
