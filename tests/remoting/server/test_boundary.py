"""What stands between sessions: real device servers of a real node, whose clients do their worst."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from elara_remoting.node.data_port import MAX_HALF_OPEN, LocalSocket
from elara_remoting.node.devices import EmulatedDevices
from elara_remoting.node.node import Node, NodeOptions
from elara_remoting.node.preamble import Kind, Preamble
from tests.remoting.server.protocol import Closed, Connection, Fatal, ServerError, at, new, tensor

F32 = torch.float32
MEMORY = 256 << 20


class NodeInThread:
    """A node whose event loop runs beside the test."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.node = self.call(self._start(folder))

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(120)

    async def _start(self, folder: Path) -> Node:
        options = NodeOptions(LocalSocket(folder / "data.sock"), ("127.0.0.1", 0), threads=1)
        node = Node(EmulatedDevices(1, MEMORY), options, emit=lambda message: None)
        await node.start()
        await node.wait_warm()
        return node

    def close(self) -> None:
        self.call(self.node.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def lease(self, share: int = 100) -> tuple[str, bytes]:
        """A new lease's id and secret."""

        async def make() -> dict[str, Any]:
            return self.node.lease_all(share, None)

        made = self.call(make())
        return made["lease_id"], bytes.fromhex(made["devices"][0]["secret"])

    def end(self, lease: str) -> None:
        async def stop() -> None:
            self.node.leases.stop_lease(lease, "detached")

        self.call(stop())
        wait_for(lambda: lease not in self.node.leases._leases)

    def dial(self, lease: str) -> Connection:
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(str(self.node.addresses.local))
        stream.sendall(Preamble(Kind.COMMANDS, 0, lease, os.urandom(16).hex()).pack())
        return Connection(stream, seconds=60)

    def pids(self) -> list[int]:
        return [server.pid for server in self.node.servers._servers if server.on_end is not None]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeInThread]:
    running = NodeInThread(tmp_path_factory.mktemp("boundary"))
    yield running
    running.close()


Open = Callable[..., Connection]


@pytest.fixture
def open_session(node: NodeInThread, digest: bytes) -> Iterator[Open]:
    """Opens an accepted session of a new lease, or of the one named."""
    opened: list[Connection] = []
    leases: list[str] = []

    def connect(lease: str | None = None, secret: bytes = b"") -> Connection:
        if lease is None:
            lease, secret = node.lease()
            leases.append(lease)
        opened.append(node.dial(lease))
        opened[-1].hello(secret, digest)
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()
    for lease in leases:
        node.end(lease)


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)
    return result


def negated(session: Connection, value: torch.Tensor) -> torch.Tensor:
    storage = session.upload(value)
    template = session.template("aten::neg", "", [tensor(F32, list(value.shape))], [new(F32, list(value.shape))])
    return session.download(session.execute(template, at(storage)), F32, list(value.shape))


def status_of(pid: int) -> dict[str, str]:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (row.partition(":") for row in rows)}


def test_a_session_works_with_all_rights_given_up(node: NodeInThread, open_session: Open) -> None:
    session = open_session()
    x = torch.randn(64, 64)
    assert torch.equal(negated(session, x), -x)
    storage = session.upload(x)
    product = session.template("aten::mm", "", [tensor(F32, [64, 64])] * 2, [new(F32, [64, 64])])
    made = session.execute(product, at(storage) + at(storage))
    assert torch.allclose(session.download(made, F32, [64, 64]), x @ x, atol=1e-4)
    (pid,) = node.pids()
    status = status_of(pid)
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert int(status["CapEff"], 16) == 0
    if os.geteuid() == 0:
        assert "0" not in status["Uid"].split() and status["Groups"] == ""


def test_a_crash_ends_one_session_and_is_logged(
    node: NodeInThread, open_session: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="elara_remoting")
    wait_for(lambda: not node.pids())  # those of the tests before
    bystander = open_session()
    wait_for(lambda: len(node.pids()) == 1)
    before = set(node.pids())
    doomed = open_session()
    wait_for(lambda: len(node.pids()) == 2)
    (pid,) = set(node.pids()) - before
    doomed.sync()
    os.kill(pid, signal.SIGSEGV)
    with pytest.raises(Closed):
        doomed.sync()
        doomed.sync()
    wait_for(lambda: any(f"device server {pid} ended: crashed: SIGSEGV" in record.message for record in caplog.records))
    x = torch.randn(8)
    assert torch.equal(negated(bystander, x), -x)


def test_memory_is_bounded_whatever_a_client_asks_for(node: NodeInThread, open_session: Open) -> None:
    session = open_session()
    for nbytes in (MEMORY, 1 << 40, (1 << 64) - 1):
        session.alloc(nbytes)
        with pytest.raises(ServerError, match="out of memory"):
            session.sync()
    (pid,) = node.pids()
    held = int(status_of(pid)["VmData"].split()[0]) << 10
    limit = Path(f"/proc/{pid}/limits").read_text().split("Max data size")[1].split()[0]
    assert limit != "unlimited" and int(limit) < held + 2 * MEMORY + (3 << 30)


def test_the_secret_of_another_lease_or_of_an_ended_one_opens_nothing(
    node: NodeInThread, open_session: Open, digest: bytes
) -> None:
    old, old_secret = node.lease()
    open_session(old, old_secret).sync()
    new_lease, _ = node.lease()
    with pytest.raises(Fatal, match="did not accept the secret"):
        open_session(new_lease, old_secret)
    node.end(old)
    connection = node.dial(old)
    answer = connection.receive_bytes(10)
    assert answer[:8] == b"ELARAERR"
    assert b"no such lease" in connection.receive_bytes(int.from_bytes(answer[8:], "little"))
    connection.close()
    node.end(new_lease)


def test_a_secret_stands_in_no_command_line_environment_or_log(
    node: NodeInThread, digest: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    lease, secret = node.lease()
    session, refused = node.dial(lease), node.dial(lease)
    session.hello(secret, digest)
    with pytest.raises(Fatal):
        refused.hello(secret[:-1] + bytes([secret[-1] ^ 1]), digest)
    session.sync()
    needles = (secret, secret.hex().encode(), repr(secret).encode())
    for folder in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                text = (folder / name).read_bytes()
            except OSError:
                continue  # gone, or not ours to read
            assert not any(needle in text for needle in needles), folder
    session.close()
    refused.close()

    # Before the lease ends, which would stop the device server that says it.
    wait_for(lambda: any("wrong secret" in record.getMessage() for record in caplog.records))
    node.end(lease)
    logged = "\n".join(record.getMessage() for record in caplog.records).encode()
    assert not any(needle in logged for needle in needles)


def test_a_thousand_idle_connections_hold_up_nobody(
    node: NodeInThread, open_session: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="elara_remoting")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    before = int(status_of(os.getpid())["VmRSS"].split()[0])
    idle = []
    try:
        for _ in range(1000):
            stream = socket.socket(socket.AF_UNIX)
            stream.connect(str(node.node.addresses.local))
            stream.settimeout(20)
            idle.append(stream)
            assert node.node.data_port.half_open <= MAX_HALF_OPEN + 1
        x = torch.randn(8)
        assert torch.equal(negated(open_session(), x), -x)
        assert int(status_of(os.getpid())["VmRSS"].split()[0]) - before < 64 << 10, "KiB for a thousand connections"
        wait_for(lambda: node.node.data_port.half_open == 0)
        assert all(stream.recv(1) in (b"", b"E") for stream in idle)
    finally:
        for stream in idle:
            stream.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    told = [record.message for record in caplog.records if "refused" in record.message]
    assert 1 <= len(told) <= 30, "each kind is told, and a flood does not fill the log"


def test_connections_that_say_who_they_are_and_then_nothing_are_dropped(
    node: NodeInThread, digest: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="elara_remoting")
    lease, secret = node.lease()
    silent = [node.dial(lease) for _ in range(3)]
    honest = node.dial(lease)
    honest.hello(secret, digest)
    for connection in silent:
        with pytest.raises(Closed):
            while True:
                connection.receive_bytes(1)
    honest.sync()
    wait_for(lambda: sum("did not answer in time" in record.message for record in caplog.records) == 3)
    for connection in (*silent, honest):
        connection.close()
    node.end(lease)
