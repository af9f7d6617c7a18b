"""Raw-protocol sessions with a device server of their own."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.remoting.harness import LEASE, ON_CUDA, SECRET, DeviceServers
from tests.remoting.server.protocol import Connection
from tests.remoting.serving import load_server_module

MEMORY = 256 << 20

# A GPU has these kernels, which are then PyTorch's own to test.
collect_ignore = ["test_emulated.py"] if ON_CUDA else []


def preamble(lease: str = LEASE, session: bytes | None = None, resume: bool = False) -> bytes:
    """The 64 bytes that open a connection."""
    front = struct.pack("<HBBB5x", 1, 0, 0, int(resume))
    return b"ELARA\0" + front + bytes.fromhex(lease) + (session or os.urandom(16)) + bytes(16)


@pytest.fixture(scope="session")
def digest() -> bytes:
    """The operators' digest of the core under test."""
    value: bytes = load_server_module().operator_digest()
    return value


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceServers]:
    """One emulated device of 256 MiB, over a Unix socket and TLS."""
    folder: Path = tmp_path_factory.mktemp("servers")
    with DeviceServers(folder, memory=MEMORY, tls=True) as running:
        yield running


@pytest.fixture
def dial(servers: DeviceServers) -> Iterator[Callable[[], Connection]]:
    """Opens connections that have sent their preamble and nothing else."""
    opened: list[Connection] = []
    before = len(servers.ended())

    def connect() -> Connection:
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(str(servers.sockets[0]))
        stream.sendall(preamble())
        opened.append(Connection(stream))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()
    # The next test counts the sessions that end during it.
    servers.wait_ended(before + len(opened), seconds=20)


@pytest.fixture
def connect(dial: Callable[[], Connection], digest: bytes) -> Callable[[], Connection]:
    """Opens sessions that were accepted."""

    def opened() -> Connection:
        connection = dial()
        connection.hello(SECRET, digest)
        return connection

    return opened


@pytest.fixture
def session(connect: Callable[[], Connection]) -> Connection:
    """An accepted session."""
    return connect()
