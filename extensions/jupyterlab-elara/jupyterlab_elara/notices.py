"""What the user is told once: the end is near, a lease ended, a device was lost."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

WARNINGS = (300, 60)
"""Seconds before the end of a lease at which the user is warned."""

_KEPT = 20


class Notices:
    """The latest notices, oldest first. Ids never repeat, also after a restart, so that a page shows each one once."""

    def __init__(self) -> None:
        self._boot = secrets.token_hex(4)
        self._count = 0
        self._kept: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def add(self, kind: str, message: str, lease_id: str) -> None:
        """`kind` is `ending`, `ended` or `lost`; the front end offers the action that fits it."""
        self._count += 1
        self._kept.append(
            {
                "id": f"{self._boot}-{self._count}",
                "kind": kind,
                "message": message,
                "lease": lease_id,
                "created_at": datetime.now(UTC).isoformat(),
            }
        )

    def to_json(self) -> list[dict[str, Any]]:
        return list(self._kept)


def passed_warnings(seconds_left: float | None) -> set[int]:
    """The warnings whose moment has come (or had come before the lease was first seen)."""
    return set() if seconds_left is None else {warning for warning in WARNINGS if seconds_left <= warning}


def due_warning(seconds_left: float | None, given: Collection[int]) -> int | None:
    """The warning to give now: the most urgent one that has come and was not given yet."""
    due = passed_warnings(seconds_left) - set(given)
    return min(due) if due else None


def warning_text(seconds_left: float) -> str:
    minutes = max(1, round(seconds_left / 60))
    unit = "minute" if minutes == 1 else "minutes"
    return (
        f"The GPU is handed back in {minutes} {unit}. Tensors on it are lost then: "
        "extend the time, or move what you need."
    )
