"""Which tests run one after the other in one process when a run has several (pytest-xdist, `--dist loadgroup`).

A folder whose tests share something costly (a hub, a browser, a database) is a lane; elsewhere each file is one.
Lanes that take long begin first, so that no process is left with one at the end.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_TESTS = Path(__file__).resolve().parents[1]
# All tests of containers are in one lane, since they share one engine, and some take it away from the others.
_DOCKER = "docker"
_FOLDERS = ("journey", "workspaces", "service", "extension")
_FIRST = (_DOCKER, "remoting/programs/", "remoting/conformance/", "remoting/trajectories/", "journey", "service")


def lane(item: pytest.Item) -> str:
    """The name of a test's lane."""
    if "docker_engine" in getattr(item, "fixturenames", ()):
        return _DOCKER
    path = item.path.relative_to(_TESTS)
    return path.parts[0] if path.parts[0] in _FOLDERS else path.as_posix()


def place(item: pytest.Item) -> tuple[int, str]:
    """Where a test's lane stands in the order of starting."""
    name = lane(item)
    return next((place for place, first in enumerate(_FIRST) if name.startswith(first)), len(_FIRST)), name


def mark(item: pytest.Item) -> None:
    """Tell pytest-xdist a test's lane."""
    item.add_marker(pytest.mark.xdist_group(lane(item)))
