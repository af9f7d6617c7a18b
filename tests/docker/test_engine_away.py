"""An engine that does not answer for a while: what runs goes on and is found again, none twice, and starts are refused.

The hub talks to the engine through a socket that the test opens and closes; the engine itself is shared with others.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.docker_world import DockerWorld
from tests.support.docker import SOCKET, Engine
from tests.workspaces.hub_world import opened, until


class Gate:
    """A Unix socket that leads to the engine while it is open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []

    def open(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """As when the daemon dies: nobody listens, and every connection is cut."""
        assert self._listener is not None
        self.path.unlink(missing_ok=True)
        for end in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = listener.accept()
                there = socket.socket(socket.AF_UNIX)
                there.connect(str(SOCKET))
                self._open += [here, there]
                for source, target in ((here, there), (there, here)):
                    threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    made = Gate(tmp_path_factory.mktemp("gate") / "docker.sock")
    made.open()
    yield made
    made.close()


@pytest.fixture(scope="module")
def own(
    tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine, image: str, gate: Gate
) -> Iterator[DockerWorld]:
    data = tmp_path_factory.mktemp("away") / "data"
    made = DockerWorld(data, docker_engine, image, subnet=234, DOCKER_HOST=f"unix://{gate.path}")
    with opened(made) as running:
        yield running


def test_an_engine_that_dies_and_returns(own: DockerWorld, gate: Gate) -> None:
    admin = own.admin()
    own.begin(admin)
    before = own.inspect("admin")["Id"]
    gate.close()
    until(lambda: "The engine cannot tell whether" in own.log("hub"), "the hub noticed that the engine is away", 60)
    assert admin.ready(), "what runs counts as running"
    told = own.refused(admin, "later")
    assert "The container engine does not answer, so no workspace can be started" in told
    # A hub that starts meanwhile must not take what it cannot ask about for gone.
    own.stop("hub", signal.SIGKILL)
    own.start_hub()
    own.wait_for_hub()
    until(admin.ready, "the hub knows the workspace again")
    gate.open()
    own.begin(admin, "later")
    assert own.inspect("admin")["Id"] == before
    assert sorted(own.containers_of("admin")) == sorted([own.name("admin"), own.name("admin", "later")])
    admin.stop("later")

    # And one that did not survive is noticed once the engine answers again.
    gate.close()
    own.engine.run("kill", own.name("admin"))
    gate.open()
    until(lambda: not admin.api("GET", "/users/admin").json()["servers"], "the hub noticed its end", 60)
    own.begin(admin)
    assert own.inspect("admin")["Id"] != before
    assert own.containers_of("admin") == [own.name("admin")]
