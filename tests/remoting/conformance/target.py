"""The devices that a run can compare with native CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.remoting.conformance.workers import Target
from tests.remoting.harness import DeviceServers


@dataclass(frozen=True)
class Kind:
    """A kind of target: torch's name for it, and how a process gets at one."""

    device: str
    environment: Target


@contextmanager
def remote(folder: Path) -> Iterator[dict[str, str]]:
    """An emulated device of its own, with one thread, so that sums are added in the same order as natively."""
    with DeviceServers(folder, memory=8 << 30, torch_threads=1) as servers:
        yield servers.environment


@contextmanager
def native(folder: Path) -> Iterator[dict[str, str]]:
    """Native CPU once more: proves the runner itself, and shows what native CPU cannot run."""
    yield {"ELARA_DISABLE": "1"}


TARGETS = {"remote": Kind("cuda", remote), "native": Kind("cpu", native)}
