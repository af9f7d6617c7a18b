"""The devices that a run can compare with native CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.remoting.conformance.workers import Target


@dataclass(frozen=True)
class Kind:
    """A kind of target: torch's name for it, and how a process gets at one."""

    device: str
    environment: Target


@contextmanager
def native(folder: Path) -> Iterator[dict[str, str]]:
    """Native CPU once more: proves the runner itself, and shows what native CPU cannot run."""
    yield {"ELARA_DISABLE": "1"}


TARGETS = {"native": Kind("cpu", native)}
