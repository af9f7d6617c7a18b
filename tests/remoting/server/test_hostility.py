"""A client that lies harms its own session and nothing else."""

from __future__ import annotations

import os
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.remoting.harness import SECRET, DeviceServers
from tests.remoting.server import protocol
from tests.remoting.server.conftest import preamble
from tests.remoting.server.protocol import (
    ALIAS,
    REFUSED,
    Closed,
    Connection,
    Fatal,
    ServerError,
    at,
    count_of,
    integer,
    new,
    tensor,
    text,
)

F32 = torch.float32
HUGE = 1 << 62


@pytest.fixture
def bystander(connect: Callable[[], Connection]) -> Iterator[Connection]:
    """Another session of the same lease, which must not notice anything."""
    session = connect()
    x = torch.randn(16)
    storage = session.upload(x)
    session.sync()
    yield session
    assert torch.equal(session.download(storage, F32, [16]), x)
    session.sync()


def assert_ended(session: Connection, servers: DeviceServers, before: int, reason: str) -> None:
    """The server said why, closed, and wrote it down."""
    with pytest.raises(Fatal, match=reason):
        while True:
            session.receive()
    with pytest.raises(Closed):
        session.receive()
    assert any(re.search(reason, ended.reason) for ended in servers.wait_ended(before + 1)[before:])


def header(kind: int, length: int, flags: int = 0, reserved: int = 0) -> bytes:
    return struct.pack("<BBHI", kind, flags, reserved, length)


ENDLESS_SHAPE = bytes([2, protocol.DTYPES[F32], 0, 2]) + protocol.ints(1 << 40, 1 << 40, 1 << 40, 1)
NEGATIVE_SHAPE = bytes([2, protocol.DTYPES[F32], 0, 1]) + protocol.ints(-4, 1)
NEGATIVE_STRIDE = bytes([2, protocol.DTYPES[F32], 0, 1]) + protocol.ints(4, -1)
TOO_MANY_DIMENSIONS = bytes([2, protocol.DTYPES[F32], 0, 65]) + protocol.ints(*[1] * 130)
QUANTISED = bytes([2, 12, 0, 1]) + protocol.ints(4, 1)
UNKNOWN_TYPE = bytes([2, 200, 0, 1]) + protocol.ints(4, 1)
NESTED_LISTS = b"\x0d" + struct.pack("<I", 1) + b"\x0d" + struct.pack("<I", 0)


def bad_template(*arguments: bytes, outputs: tuple[bytes, ...] = ()) -> bytes:
    payload = struct.pack("<II", 1, 1) + count_of(arguments) + count_of(outputs)
    return header(protocol.DEFINE_TEMPLATE, len(payload)) + payload


def message(kind: int, payload: bytes) -> bytes:
    return header(kind, len(payload)) + payload


BROKEN = {
    "an unknown type": (header(99, 0), "unknown"),
    "a type only servers send": (header(protocol.REPLY, 0), "unknown"),
    "flags of the future": (header(protocol.SYNC, 0, flags=1), "bits set"),
    "reserved bits": (header(protocol.SYNC, 0, reserved=7), "bits set"),
    "a message of 4 GiB": (header(protocol.WRITE, 0xFFFFFFFF), "longer than the protocol allows"),
    "a longer message than its contents": (message(protocol.SYNC, b"x"), "longer than its contents"),
    "a shorter message than its contents": (message(protocol.ALLOC, b"1234"), "ends before its contents"),
    "a shorter write than its contents": (message(protocol.WRITE, b"1234"), "ends before its contents"),
    "a forged list length": (
        message(protocol.DEFINE_TEMPLATE, struct.pack("<IIII", 1, 1, 0xFFFFFFFF, 0)),
        "longer than the message",
    ),
    "an unknown template": (message(protocol.EXECUTE, struct.pack("<IQ", 77, 1)), "no template 77"),
    "an unknown operator": (bad_template().replace(struct.pack("<II", 1, 1), struct.pack("<II", 1, 9)), "no operator"),
    "a huge template number": (
        message(
            protocol.DEFINE_TEMPLATE, struct.pack("<II", 0xFFFFFFF0, 1) + count_of([tensor(F32, [2])]) + count_of([])
        ),
        "larger than a session may use",
    ),
    "a huge operator number": (
        message(protocol.DEFINE_OP, struct.pack("<I", 0xFFFFFFF0) + text("aten::neg") + text("")),
        "larger than a session may use",
    ),
    "too few arguments": (bad_template(), "takes 1 arguments"),
    "a number for a tensor": (bad_template(integer(3)), "another kind"),
    "an unknown tag": (bad_template(b"\xee"), "tag 238"),
    "a shape beyond any memory": (bad_template(ENDLESS_SHAPE), "larger than any memory"),
    "a negative size": (bad_template(NEGATIVE_SHAPE), "negative size or stride"),
    "a negative stride": (bad_template(NEGATIVE_STRIDE), "negative size or stride"),
    "too many dimensions": (bad_template(TOO_MANY_DIMENSIONS), "64 dimensions"),
    "a quantised tensor": (bad_template(QUANTISED), "not supported"),
    "an unknown data type": (bad_template(UNKNOWN_TYPE), "not supported"),
    "lists of lists": (bad_template(NESTED_LISTS), "list of lists"),
    "an alias of no argument": (
        bad_template(tensor(F32, [2]), outputs=(bytes([ALIAS]) + struct.pack("<I", 5),)),
        "alias of no argument",
    ),
    "an output kind of answers": (bad_template(tensor(F32, [2]), outputs=(bytes([5]) + bytes(8),)), "kind 5"),
    "a forged storage": (message(protocol.READ, struct.pack("<QQQ", 4711, 0, 4)), "no storage 4711"),
    "a read past the end": (message(protocol.READ, struct.pack("<QQQ", 1, 60, 8)), "outside of a storage"),
    "a read that wraps around": (message(protocol.READ, struct.pack("<QQQ", 1, 8, (1 << 64) - 4)), "outside of"),
    "a write past the end": (message(protocol.WRITE, struct.pack("<QQ", 1, 60) + bytes(8)), "outside of a storage"),
    "a storage made twice": (message(protocol.ALLOC, struct.pack("<QQ", 1, 4)), "already in use"),
    "an unknown generator": (message(protocol.GENERATOR_GET, struct.pack("<Q", 55)), "no generator 55"),
    "a device of a high number": (message(protocol.INTRODUCE, struct.pack("<I", 256) + bytes(36)), "no device of that"),
    "a token cut short": (message(protocol.INTRODUCE, struct.pack("<I", 1) + bytes(31)), "ends before its contents"),
    "an authority without end": (
        message(protocol.INTRODUCE, struct.pack("<I", 1) + bytes(32) + text("-" * 65537)),
        "authority is too long",
    ),
    "a second hello": (message(protocol.HELLO, bytes(80)), "unknown"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_breaking_the_protocol_ends_only_that_session(
    name: str, servers: DeviceServers, session: Connection, bystander: Connection
) -> None:
    before = len(servers.ended())
    assert session.upload(torch.zeros(16)) == 1
    session.operator("aten::neg")
    data, reason = BROKEN[name]
    session.stream.sendall(data)
    assert_ended(session, servers, before, reason)


@pytest.mark.parametrize(
    ("sizes", "strides", "offset"),
    [([17], [1], 0), ([4, 4], [5, 1], 0), ([16], [1], 1), ([1], [1], 16), ([2], [HUGE // 4], 0), ([4], [1], -1)],
)
def test_views_outside_of_their_storage_are_never_made(
    servers: DeviceServers,
    session: Connection,
    bystander: Connection,
    sizes: list[int],
    strides: list[int],
    offset: int,
) -> None:
    before = len(servers.ended())
    storage = session.upload(torch.zeros(16))
    template = session.template("aten::neg", "", [tensor(F32, sizes, strides)], [new(F32, sizes)])
    with suppress(BrokenPipeError):  # the server may have ended at the template already
        session.execute(template, at(storage, offset))
    assert_ended(session, servers, before, "outside of its storage|larger than any memory")


def test_an_offset_far_out_is_only_an_empty_tensor(session: Connection) -> None:
    storage = session.upload(torch.zeros(16))
    template = session.template("aten::neg", "", [tensor(F32, [0])], [new(F32, [0])])
    made = session.execute(template, at(storage, 1 << 40))
    assert session.read(made, 0) == b""


@pytest.mark.parametrize(
    ("name", "overload"),
    [
        ("aten::from_file", ""),
        ("aten::_pin_memory", ""),
        ("aten::set_", "source_Storage_storage_offset"),
        ("aten::resize_", ""),
        ("aten::_reshape_alias", ""),
        ("aten::to", "device"),
        ("aten::save", ""),
        ("prim::Print", ""),
        ("profiler::_record_function_enter_new", ""),
        ("quantized::add", ""),
        ("aten::no_such_operator", ""),
    ],
)
def test_operators_off_the_list_are_refused_and_the_session_goes_on(
    session: Connection, name: str, overload: str
) -> None:
    template = session.template(name, overload, [], [new(F32, [1])])
    session.execute(template, b"")
    with pytest.raises(ServerError) as caught:
        session.sync()
    assert caught.value.kind == REFUSED
    assert caught.value.operator == (f"{name}.{overload}" if overload else name)
    with pytest.raises(ServerError) as caught:
        session.teach(name, overload, [], b"")
    assert caught.value.kind == REFUSED
    session.sync()


def test_from_file_reads_no_file(session: Connection) -> None:
    arguments = [b"\x09" + text("/etc/hostname"), protocol.boolean(False), integer(4)]
    arguments += [protocol.dtype_argument(torch.uint8), b"\x00", protocol.DEVICE, b"\x00"]
    with pytest.raises(ServerError) as caught:
        session.teach("aten::from_file", "", arguments, b"")
    assert caught.value.kind == REFUSED


def test_a_wrong_secret_learns_nothing(servers: DeviceServers, dial: Callable[[], Connection], digest: bytes) -> None:
    before = len(servers.ended())
    for secret in (bytes(32), SECRET[:-1] + b"\0"):
        connection = dial()
        # Everything else is wrong too, and only the secret is spoken of.
        with pytest.raises(Fatal, match="did not accept the secret") as caught:
            connection.hello(secret, bytes(32), version=9, torch_version="1.0")
        assert torch.__version__.split("+")[0] not in str(caught.value)
    assert [ended.reason for ended in servers.wait_ended(before + 2)[before:]] == ["refused: wrong secret"] * 2


def test_other_versions_are_told_what_to_do(dial: Callable[[], Connection], digest: bytes) -> None:
    with pytest.raises(Fatal, match="same version of elara-remoting"):
        dial().hello(SECRET, digest, version=2)
    with pytest.raises(Fatal, match=r"PyTorch 1\.9\.0.*Install PyTorch 2\."):
        dial().hello(SECRET, digest, torch_version="1.9.0")
    with pytest.raises(Fatal, match="same builds"):
        dial().hello(SECRET, bytes(32))
    # A local label or patch level makes no difference.
    minor = ".".join(torch.__version__.split(".")[:2])
    assert dial().hello(SECRET, digest, torch_version=f"{minor}.99+cu130")[0] == 1


def test_work_before_the_hello_is_not_done(servers: DeviceServers, dial: Callable[[], Connection]) -> None:
    before = len(servers.ended())
    connection = dial()
    connection.send(protocol.ALLOC, struct.pack("<QQ", 1, 100))
    assert_ended(connection, servers, before, "not a hello")


def test_a_client_that_stops_in_its_opening_is_dropped(servers: DeviceServers, dial: Callable[[], Connection]) -> None:
    before = len(servers.ended())
    silent = dial()
    half = dial()
    half.stream.sendall(header(protocol.HELLO, 100) + b"half of it")
    half_tls = Connection(dial_tcp(servers))
    half_tls.stream.sendall(b"\x16\x03\x01\x02\x00\x01" + os.urandom(20))
    ended = servers.wait_ended(before + 3, seconds=20)[before:]
    assert all("in time" in entry.reason for entry in ended)
    for connection in (silent, half, half_tls):
        with pytest.raises(Closed):
            while True:
                connection.receive_bytes(1)
    half_tls.close()


def test_vanishing_in_the_midst_of_a_message_ends_the_session(servers: DeviceServers, session: Connection) -> None:
    before = len(servers.ended())
    session.stream.sendall(header(protocol.WRITE, 1000) + bytes(10))
    session.close()
    assert "connection lost" in servers.wait_ended(before + 1)[before].reason


def test_a_client_that_does_not_read_holds_up_nobody(session: Connection, bystander: Connection) -> None:
    storage = session.alloc(64 << 20)
    for _ in range(20):
        session.send(protocol.READ, struct.pack("<QQQ", storage, 0, 64 << 20))
    bystander.sync()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    noise=st.lists(
        st.tuples(
            st.sampled_from([4, 5, 16, 17, 18, 19, 20, 32, 33, 34, 35, 36, 48, 49, 50, 64, 66, 68]),
            st.binary(max_size=80),
        ),
        max_size=8,
    )
)
def test_noise_never_brings_a_server_down(
    connect: Callable[[], Connection], servers: DeviceServers, noise: list[tuple[int, bytes]]
) -> None:
    before = len(servers.ended())
    connection = connect()
    try:
        for kind, payload in noise:
            connection.send(kind, payload)
        connection.send(protocol.GOODBYE)
    except ConnectionError:
        pass  # it had enough
    # A process that crashed would have written no reason.
    reason = servers.wait_ended(before + 1)[before].reason
    assert reason == "goodbye" or reason.startswith(("protocol error: ", "connection lost: "))
    connection.close()


def tls_context(servers: DeviceServers) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(servers.folder / "ca.pem"))
    context.check_hostname = False
    return context


def dial_tcp(servers: DeviceServers) -> socket.socket:
    stream = socket.create_connection(("127.0.0.1", servers.ports[0]))
    stream.settimeout(15)
    stream.sendall(preamble())
    return stream


def test_tls_carries_a_session(servers: DeviceServers, digest: bytes) -> None:
    before = len(servers.ended())
    stream = tls_context(servers).wrap_socket(dial_tcp(servers))
    assert stream.version() == "TLSv1.3"
    with Connection(stream) as session:
        session.hello(SECRET, digest)
        x = torch.randint(0, 255, (5_000_000,), dtype=torch.uint8)
        assert torch.equal(session.download(session.upload(x), torch.uint8, [5_000_000]), x)
        session.send(protocol.GOODBYE)
        assert servers.wait_ended(before + 1)[before].reason == "goodbye"


def test_older_tls_is_refused(servers: DeviceServers) -> None:
    context = tls_context(servers)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    before = len(servers.ended())
    with pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(dial_tcp(servers))
    assert "TLS failed" in servers.wait_ended(before + 1)[before].reason


def test_clear_text_on_the_tls_port_is_refused(servers: DeviceServers, digest: bytes) -> None:
    before = len(servers.ended())
    with Connection(dial_tcp(servers)) as connection, pytest.raises((Closed, Fatal, AssertionError)):
        connection.hello(SECRET, digest)
    reason = servers.wait_ended(before + 1)[before].reason
    assert "TLS failed" in reason
    assert SECRET.hex() not in reason and repr(SECRET) not in reason
