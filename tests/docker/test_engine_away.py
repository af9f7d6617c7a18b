"""A daemon that dies and returns, or whose disk is full: what runs goes on and is found again, none twice, and starts
are refused meanwhile.

The daemon is a real one of this test's own; the machine's is shared with others.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest

from tests.docker.docker_world import DockerWorld
from tests.support.docker import Engine
from tests.support.own_engine import OwnEngine
from tests.workspaces.hub_world import opened, until


@pytest.fixture(scope="module")
def daemon(docker_engine: Engine, image: str) -> Iterator[OwnEngine]:
    with OwnEngine() as own:
        own.start(outlived=True)
        own.load(image)
        yield own


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, image: str, daemon: OwnEngine) -> Iterator[DockerWorld]:
    data = tmp_path_factory.mktemp("away") / "data"
    settings = {"DOCKER_HOST": f"unix://{daemon.socket}", "ELARA_TEST_PULL_TIMEOUT": "3"}
    made = DockerWorld(data, daemon, image, subnet=238, **settings)
    with opened(made) as running:
        yield running


def test_a_daemon_that_dies_and_returns(own: DockerWorld, daemon: OwnEngine) -> None:
    admin = own.admin()
    own.begin(admin)
    before = own.inspect("admin")
    daemon.kill()
    until(lambda: "The engine cannot tell whether" in own.log("hub"), "the hub noticed that the engine is away", 60)
    assert admin.ready(), "what runs counts as running"
    assert admin.http.get("/user/admin/api").json() == {}, "and it answers"
    told = own.refused(admin, "later")
    assert "The container engine does not answer, so no workspace can be started" in told
    # A hub that starts meanwhile must not take what it cannot ask about for gone.
    own.stop("hub", signal.SIGKILL)
    own.start_hub()
    own.wait_for_hub()
    until(admin.ready, "the hub knows the workspace again")
    daemon.start(outlived=True)
    own.begin(admin, "later")
    after = own.inspect("admin")
    assert (after["Id"], after["State"]["StartedAt"]) == (before["Id"], before["State"]["StartedAt"])
    assert after["State"]["Running"]
    assert sorted(own.containers_of("admin")) == sorted([own.name("admin"), own.name("admin", "later")])
    assert admin.http.get("/user/admin/api").json() == {}
    admin.stop("later")

    # A daemon without live-restore ends what ran: that is noticed, and the next start has the same home.
    assert own.shell("admin", "echo kept > ~/note").returncode == 0
    daemon.kill()
    daemon.start(outlived=False)
    until(lambda: not admin.api("GET", "/users/admin").json()["servers"], "the hub noticed its end", 60)
    own.begin(admin)
    assert own.inspect("admin")["Id"] != before["Id"]
    assert own.containers_of("admin") == [own.name("admin")]
    assert own.shell("admin", "cat ~/note").stdout == "kept\n"


def test_a_full_disk_is_a_sentence_and_nothing_is_lost(own: DockerWorld, daemon: OwnEngine) -> None:
    admin = own.admin()
    own.begin(admin, "before")
    with daemon.full():
        told = own.refused(admin, "more")
        assert "The disk of the machine that runs workspaces is full. Nothing of yours is lost." in told
    own.begin(admin, "more")
    for server in ("before", "more"):
        admin.stop(server)


def test_a_registry_that_never_answers_has_a_time_of_its_own(own: DockerWorld) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reference = f"127.0.0.1:{silent.getsockname()[1]}/team/slow:1"
        own.images.append({"name": "slow", "title": "Slow", "image": reference})
        own.write_catalogue()
        told = own.refused(own.admin(), "slow", image="slow")
    assert f"The image of Slow ({reference}) was not fetched within 3 s. It goes on being fetched" in told
