"""Which tests run one after the other in one process when a run has several (pytest-xdist, `--dist loadscope`).

A folder whose tests share something costly (a hub, a browser, a database) is a lane; elsewhere each file is one.
Lanes that take long begin first, so that no process is left with one at the end.

A lane is read off a test's id. pytest-xdist's own groups are not, with pytest 9: it writes them into an attribute that
is no more.
"""

from __future__ import annotations

from typing import Any

import pytest

DOCKER = "docker"
"""All tests that use the engine, since they share one, and some take it away from the others."""
_ENGINE = (
    "tests/docker/",
    "tests/images/test_built.py",
    "tests/journey/test_containers.py",
    "tests/journey/test_demo.py",
    "tests/platform/test_engine.py",
)
_FOLDERS = ("tests/journey/", "tests/workspaces/", "tests/service/", "tests/extension/")
_FIRST = (
    DOCKER,
    "tests/remoting/programs/",
    "tests/remoting/conformance/",
    "tests/remoting/sanitize/",
    "tests/journey/",
    "tests/service/",
)


def lane(nodeid: str) -> str:
    """The name of a test's lane."""
    file = nodeid.partition("::")[0]
    if file.startswith(_ENGINE):
        return DOCKER
    return next((folder for folder in _FOLDERS if file.startswith(folder)), file)


def place(item: pytest.Item) -> tuple[int, str]:
    """Where a test's lane stands in the order of starting."""
    name = lane(item.nodeid)
    return next((place for place, first in enumerate(_FIRST) if name.startswith(first)), len(_FIRST)), name


def scheduler(config: pytest.Config, log: Any) -> Any:
    """pytest-xdist's scheduler of scopes, with lanes for scopes."""
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return lane(nodeid)

    return Lanes(config, log)
