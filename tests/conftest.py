"""What all suites share: the Docker engine, and what is said when there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support import docker

FIXTURE = "docker_engine"
_left_out = pytest.StashKey[int]()


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[docker.Engine]:
    """A Docker engine that answers. A test that uses it is marked `docker` by itself."""
    with docker.Engine() as engine:
        yield engine


def _needs_engine(item: pytest.Item) -> bool:
    return FIXTURE in getattr(item, "fixturenames", ())


def pytest_report_header(config: pytest.Config) -> list[str]:
    reason = docker.why_not()
    if reason is None:
        return [f"Docker: {docker.describe()}"]
    return [f"Docker: {reason}, so the tests of containers are left out"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    needing = [item for item in items if _needs_engine(item)]
    for item in needing:
        item.add_marker(pytest.mark.docker)
    reason = docker.why_not() if needing else None
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        raise pytest.UsageError(f"{reason}, and nothing is left out in CI: .ci/run installs what is needed")
    config.stash[_left_out] = len(needing)
    items[:] = [item for item in items if not _needs_engine(item)]
    config.hook.pytest_deselected(items=needing)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    count = config.stash.get(_left_out, 0)
    if count:
        print(f"NOT COMPLETE: {count} tests of containers were left out, for {docker.why_not()}.", flush=True)
