"""A session that goes on over another connection, as the written protocol says; and those who would take one over."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.remoting.harness import SECRET, DeviceServers
from tests.remoting.server.conftest import preamble
from tests.remoting.server.protocol import (
    ACK,
    ALIAS,
    FATAL,
    HELLO,
    READ,
    REPLY,
    RESUME,
    Connection,
    Fatal,
    at,
    integer,
    tensor,
    text,
)

I64 = torch.int64


class Resumable(Connection):
    """A client that keeps all that it sent, counts what it got, and comes back when its connection breaks."""

    def __init__(self, servers: DeviceServers, digest: bytes, grace: float = 60) -> None:
        self.servers, self.session = servers, os.urandom(16)
        self.sent, self.received, self.acknowledged, self.connections = bytearray(), 0, 0, 1
        self.break_up: list[int] = []
        super().__init__(self._dial(resume=False))
        payload = struct.pack("<H", 1) + text(torch.__version__) + digest + SECRET + text("test")
        self.send(HELLO, payload + struct.pack("<I", int(grace * 1000)))
        _, answer = self.receive()
        self.grace_ms = struct.unpack("<I", answer[-4:])[0]

    def _dial(self, resume: bool) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(20)
        stream.connect(str(self.servers.sockets[0]))
        stream.sendall(preamble(session=self.session, resume=resume))
        return stream

    def come_back(self, received: int | None = None, secret: bytes = SECRET) -> int:
        """Continue over a new connection; returns how many bytes the server has."""
        self.stream.close()
        self.stream = self._dial(resume=True)
        self.connections += 1
        self.stream.sendall(
            struct.pack("<BBHI", RESUME, 0, 0, 40)
            + secret
            + struct.pack("<Q", self.received if received is None else received)
        )
        kind, _, _, length = struct.unpack("<BBHI", super().receive_bytes(8))
        payload = super().receive_bytes(length)
        if kind == FATAL:
            raise Fatal(payload[4:].decode())
        assert kind == REPLY
        (has,) = struct.unpack("<Q", payload)
        self.stream.sendall(self.sent[has:])
        return int(has)

    def send(self, kind: int, payload: bytes = b"") -> None:
        data = struct.pack("<BBHI", kind, 0, 0, len(payload)) + payload
        self.sent += data
        if self.break_up and self.break_up[0] <= len(self.sent):
            # As much of it as is to arrive, then a new connection.
            self.stream.sendall(data[: max(0, len(data) - (len(self.sent) - self.break_up.pop(0)))])
            self.stream.shutdown(socket.SHUT_WR)
            self.come_back()
        else:
            self.stream.sendall(data)

    def receive_bytes(self, count: int) -> bytes:
        data = super().receive_bytes(count)
        self.received += count
        return data

    def receive(self) -> tuple[int, bytes]:
        while True:
            kind, payload = super().receive()
            if kind != ACK:
                return kind, payload
            (self.acknowledged,) = struct.unpack("<Q", payload)
            assert self.acknowledged <= len(self.sent)

    def leave(self) -> None:
        self.send(2)
        self.close()


@pytest.fixture
def start(servers: DeviceServers, digest: bytes) -> Iterator[Callable[[], Resumable]]:
    """Starts sessions that can be resumed, and sees to it that none outlives the test."""
    started: list[Resumable] = []
    before = len(servers.ended())

    def begin() -> Resumable:
        started.append(Resumable(servers, digest))
        return started[-1]

    yield begin
    for session in started:
        try:
            session.leave()
        except OSError:
            pass
    servers.wait_ended(before + len(started))


def counter(session: Connection) -> tuple[int, int]:
    """A storage with one number, and a template that adds 1 to it."""
    storage = session.upload(torch.zeros(1, dtype=I64))
    arguments = [tensor(I64, [1]), integer(1), integer(1)]
    return storage, session.template("aten::add_", "Scalar", arguments, [bytes([ALIAS]) + struct.pack("<I", 0)])


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(cuts=st.lists(st.integers(0, 4400), min_size=1, max_size=5, unique=True))
def test_operators_are_done_once_wherever_the_stream_breaks(start: Callable[[], Resumable], cuts: list[int]) -> None:
    session = start()
    storage, add = counter(session)
    begin = len(session.sent)
    session.break_up = sorted(begin + cut for cut in cuts)
    for _ in range(100):
        session.execute(add, at(storage), outputs=0)
    session.break_up.clear()
    assert session.download(storage, I64, [1]).item() == 100
    assert session.stats()["operators"] == 100


def test_an_answer_that_was_cut_off_goes_on_where_it_was(start: Callable[[], Resumable]) -> None:
    session = start()
    value = torch.randint(0, 1 << 60, (1 << 20,), dtype=I64)
    storage = session.upload(value)
    nbytes = value.numel() * 8
    session.sync()  # no acknowledgement of the upload is to come in between
    session.send(READ, struct.pack("<QQQ", storage, 0, nbytes))
    got = b""
    for part in (3, 5, 4096, 1_000_001):
        got += session.receive_bytes(part)
        session.come_back()
    got += session.receive_bytes(8 + nbytes - len(got))
    assert struct.unpack("<BBHI", got[:8])[3] == nbytes
    assert torch.equal(torch.frombuffer(bytearray(got[8:]), dtype=I64), value)


def test_the_server_tells_what_it_has_and_waits_no_longer_than_its_node_allows(
    start: Callable[[], Resumable],
) -> None:
    session = start()
    assert session.grace_ms == 60_000
    session.upload(torch.zeros(1 << 20, dtype=I64))
    session.sync()
    assert session.acknowledged > 7 << 20


def test_another_connection_needs_the_secret_and_does_not_disturb_without_it(
    start: Callable[[], Resumable], servers: DeviceServers
) -> None:
    session = start()
    storage, add = counter(session)
    for forged in (
        struct.pack("<BBHI", RESUME, 0, 0, 40) + bytes(32) + struct.pack("<Q", session.received),
        struct.pack("<BBHI", HELLO, 0, 0, 4) + bytes(4),
        b"GET / HTTP/1.1\r\n",
    ):
        intruder = session._dial(resume=True)
        intruder.sendall(forged)
        with contextlib.suppress(ConnectionResetError):
            assert intruder.recv(100) == b""
        intruder.close()
        session.execute(add, at(storage), outputs=0)
        session.sync()
    assert session.download(storage, I64, [1]).item() == 3


@pytest.mark.parametrize("claim", [1 << 40, (1 << 64) - 1])
def test_who_claims_bytes_that_never_were_is_not_let_in(start: Callable[[], Resumable], claim: int) -> None:
    session = start()
    storage, add = counter(session)
    session.sync()
    with pytest.raises(Fatal, match="cannot go on from where"):
        session.come_back(received=claim)
    session.come_back()
    session.execute(add, at(storage), outputs=0)
    assert session.download(storage, I64, [1]).item() == 1


def test_acknowledging_what_was_never_sent_breaks_the_protocol(start: Callable[[], Resumable]) -> None:
    session = start()
    session.send(ACK, struct.pack("<Q", 1 << 40))
    with pytest.raises(Fatal, match="was acknowledged and never sent"):
        session.receive()


def test_a_client_that_acknowledges_nothing_is_ended_with_bounded_memory(start: Callable[[], Resumable]) -> None:
    session = start()
    storage = session.alloc(8 << 20)
    with pytest.raises(Fatal, match="were not acknowledged"):
        for _ in range(8):
            session.read(storage, 8 << 20)


def test_a_session_that_nobody_knows_is_not_resumed(servers: DeviceServers) -> None:
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(str(servers.sockets[0]))
    stream.sendall(preamble(resume=True))
    answer = stream.recv(1000)
    assert answer.startswith(b"ELARAERR") and b"device server has ended" in answer
    stream.close()


def test_without_the_wish_to_resume_a_session_ends_with_its_connection(
    servers: DeviceServers, connect: Callable[[], Connection]
) -> None:
    before = len(servers.ended())
    session = connect()
    session.close()
    (ended,) = servers.wait_ended(before + 1, seconds=2)[before:]
    assert "connection lost" in ended.reason
