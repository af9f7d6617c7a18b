"""What all suites share: the Docker engine, and what is said when that or PostgreSQL cannot be had."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import docker, images, lanes, postgres

# For another environment than this one, with a stock build of PyTorch: `make conformance TORCH=...` runs them there.
collect_ignore = ["remoting/stock"]

# A shell without job control starts its background jobs with SIGINT ignored, and so would be every process that is
# started from here: nothing could be interrupted, and what tests Ctrl-C would wait for it in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_left_out = pytest.StashKey[dict[str, int]]()


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[docker.Engine]:
    """A Docker engine that answers. A test that uses it is marked `docker` by itself."""
    with docker.Engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def built_images(docker_engine: docker.Engine) -> images.BuiltImages:
    """All images, built from this checkout; a second run builds nothing."""
    return images.build(docker_engine)


def _needs_engine(item: pytest.Item) -> bool:
    return "docker_engine" in getattr(item, "fixturenames", ())


def _needs_postgres(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)
    return call is not None and "postgresql" in call.params.values()


def _why_no_postgres() -> str | None:
    return None if os.environ.get("ELARA_TEST_POSTGRES") else postgres.why_not()


_NEEDS = {"containers": (_needs_engine, docker.why_not), "PostgreSQL": (_needs_postgres, _why_no_postgres)}


def pytest_report_header(config: pytest.Config) -> list[str]:
    reasons = {what: why() for what, (_, why) in _NEEDS.items()}
    lines = [f"NOT COMPLETE: {why}, so the tests of {what} are left out" for what, why in reasons.items() if why]
    return lines if reasons["containers"] else [*lines, f"Docker engine: {docker.describe()}"]


def pytest_itemcollected(item: pytest.Item) -> None:
    if _needs_engine(item):
        item.add_marker(pytest.mark.docker)
        if hasattr(item.config, "workerinput") and lanes.lane(item.nodeid) != lanes.DOCKER:
            raise pytest.UsageError(f"{item.nodeid} uses the Docker engine: name its file in tests/support/lanes.py")
        if "built_images" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(images.BUILD_SECONDS + 300), append=False)  # the first waits for it


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return lanes.scheduler(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lanes.place)
    config.stash[_left_out] = {}
    for what, (needs, why_not) in _NEEDS.items():
        needing = [item for item in items if needs(item)]
        reason = why_not() if needing else None
        if reason is None:
            continue
        if os.environ.get("CI") == "true":
            raise pytest.UsageError(f"{reason}, and nothing is left out in CI: .ci/run installs what is needed")
        config.stash[_left_out][what] = len(needing)
        items[:] = [item for item in items if not needs(item)]
        config.hook.pytest_deselected(items=needing)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    for what, count in config.stash.get(_left_out, {}).items():
        print(f"NOT COMPLETE: {count} tests of {what} were left out, for {_NEEDS[what][1]()}.", flush=True)
