"""One hub for all tests of this folder that need one; its workspaces are containers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docker.docker_world import DockerWorld, workspace_image
from tests.support.docker import Engine
from tests.workspaces.hub_world import Browser, opened


@pytest.fixture(scope="session")
def image(docker_engine: Engine) -> str:
    return workspace_image(docker_engine)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine, image: str) -> Iterator[DockerWorld]:
    made = DockerWorld(tmp_path_factory.mktemp("docker") / "data", docker_engine, image)
    made.add_dataset("words", image)
    made.add_dataset("scans", image, teams=["vision"])
    with opened(made) as running:
        yield running


@pytest.fixture(scope="session")
def admin(world: DockerWorld) -> Browser:
    return world.admin()


@pytest.fixture(scope="session")
def mary(world: DockerWorld, admin: Browser) -> Iterator[Browser]:
    """Editor of demo/digits, with a running workspace."""
    person = world.join("mary", admin)
    world.add_member(admin, "demo/digits", "mary", "editor")
    world.begin(person)
    yield person


@pytest.fixture(scope="session")
def victor(world: DockerWorld, admin: Browser) -> Iterator[Browser]:
    """Viewer of demo/digits, with a running workspace."""
    person = world.join("victor", admin)
    world.add_member(admin, "demo/digits", "victor", "viewer")
    world.begin(person)
    yield person
