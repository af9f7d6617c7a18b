"""Inputs to begin with: honest conversations, which a fuzzer then distorts."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import torch

from tests.remoting.harness import LEASE, SECRET
from tests.remoting.server import protocol as p
from tests.remoting.server import vectors
from tests.remoting.server.protocol import at, count_of, int_list, integer, new, tensor, tensor_list
from tests.remoting.server.vectors import message
from tests.remoting.serving import load_server_module

F32, I64 = torch.float32, torch.int64


def seeds(target: str) -> Iterator[bytes]:
    """Seeds of a target: session, replies, attachment, hello."""
    made = {"session": _sessions, "replies": _replies, "attachment": _attachments, "hello": _hellos}
    yield from made[target]()


def _define(number: int, name: str, overload: str = "") -> bytes:
    return message(p.DEFINE_OP, struct.pack("<I", number) + p.text(name) + p.text(overload))


def _upload(storage: int, data: bytes) -> bytes:
    alloc = message(p.ALLOC, struct.pack("<QQ", storage, len(data)))
    return alloc + message(p.WRITE, struct.pack("<QQ", storage, 0) + data)


def _run(name: str, overload: str, arguments: list[bytes], outputs: list[bytes], variables: bytes) -> bytes:
    template = struct.pack("<II", 1, 1) + count_of(arguments) + count_of(outputs)
    run = message(p.EXECUTE, struct.pack("<IQ", 1, 10) + variables)
    teach = struct.pack("<I", 1) + count_of(arguments) + struct.pack("<QI", 20, len(variables)) + variables
    return (
        _define(1, name, overload)
        + message(p.DEFINE_TEMPLATE, template)
        + run
        + message(p.TEACH, teach)
        + message(p.READ, struct.pack("<QQQ", 10, 0, 4))
    )


def _sessions() -> Iterator[bytes]:
    yield b"".join(v.data for v in vectors.conversation() if v.sender == "client" and v.replayed)
    floats, longs = _upload(1, struct.pack("<4f", 1, 2, 3, 4)), _upload(2, p.ints(0, 1))
    vector, indices = tensor(F32, [4]), tensor(I64, [2])
    yield floats + _run("aten::neg", "", [vector], [new(F32, [4], None, 16)], at(1))
    yield floats + _run("aten::neg_", "", [vector], [bytes([p.ALIAS]) + struct.pack("<I", 0)], at(1))
    yield floats + _run("aten::cat", "", [tensor_list(vector, vector), integer(0)], [new(F32, [8])], at(1) + at(1))
    optional = b"\x0e" + count_of([indices])
    yield floats + longs + _run("aten::index", "Tensor", [vector, optional], [new(F32, [2])], at(1) + at(2))
    backward = [tensor(F32, [2, 2]), indices, integer(3), integer(-1), p.boolean(True)]
    yield floats + longs + _run("aten::embedding_dense_backward", "", backward, [new(F32, [3, 2])], at(1) + at(2))
    scalars = [tensor_list(vector), b"\x07"]
    listed = bytes([p.LIST]) + count_of([new(F32, [4])])
    yield floats + _run("aten::_foreach_mul", "Scalar", scalars, [listed], at(1) + struct.pack("<d", 0.5))
    yield floats + _run("aten::mul", "Tensor", [vector, b"\x03\x06\x01"], [new(F32, [4])], at(1) + bytes(16))
    flags = tensor(torch.complex64, [2], None, p.CONJUGATE)
    yield floats + _run("aten::abs", "", [flags], [new(F32, [2])], at(1))
    view = [tensor(F32, [2, 2], [1, 2]), int_list(0, 1)]
    yield floats + _run("aten::flip", "", view, [new(F32, [2, 2])], at(1))
    normal = [vector, p.real(0.0), p.real(1.0), p.GENERATOR]
    seed = message(p.GENERATOR_SEED, struct.pack("<QQ", 3, 1))
    yield floats + seed + _run("aten::normal_", "", normal, [b"\x01\0\0\0\0"], at(1) + struct.pack("<Q", 3))
    yield seed + message(p.GENERATOR_GET, struct.pack("<Q", 3)) + message(p.GENERATOR_FREE, struct.pack("<Q", 3))
    yield message(p.GENERATOR_SET, struct.pack("<Q", 4) + bytes(64)) + message(p.SYNC) + message(p.GOODBYE)
    yield floats + message(p.RESIZE, struct.pack("<QQ", 1, 64)) + message(p.STATS) + message(p.FREE, p.ints(1, 2))
    yield message(p.EVENT_ELAPSED, struct.pack("<QQ", 1, 2)) + message(
        p.CONTEXT, p.text("deterministic_cudnn") + p.ints(1)
    )


def _replies() -> Iterator[bytes]:
    shape = p.shape(F32, [2, 3])
    outputs = [
        bytes([p.NEW]) + shape + struct.pack("<Q", 24),
        bytes([p.ALIAS]) + struct.pack("<I", 1),
        bytes([p.UNDEFINED]),
        bytes([p.LIST]) + count_of([bytes([p.UNDEFINED]), bytes([p.NEW]) + shape + struct.pack("<Q", 24)]),
        bytes([p.VIEW]) + struct.pack("<I", 0) + shape + p.ints(4),
        bytes([p.INT]) + p.ints(5),
        bytes([p.DOUBLE]) + struct.pack("<d", 0.5),
        bytes([p.BOOL, 1]),
        bytes([p.COMPLEX]) + struct.pack("<2d", 0.5, 1),
        bytes([p.NONE]),
    ]
    yield b"\0" + count_of(outputs)
    yield from (b"\0" + count_of([output]) for output in outputs)
    yield b"\x01" + "an error, größer als 日本語 𝔘".encode()
    yield b"\x02" + b"ELARAERR\x1c\0This node has no such lease."
    yield b"\x02" + b"".join(v.data for v in vectors.conversation() if v.sender == "server")
    data, nothing = message(p.DATA, bytes(range(32))), message(p.REPLY)
    error = message(p.ERROR, struct.pack("<BQ", 0, 1) + p.text("aten::neg") + p.text("it failed"))
    yield b"\x03\x00\x02" + data
    yield b"\x03\x03\x00\x04\x02\x00" + nothing + data + data + error + message(p.ACK, bytes(8)) + nothing
    yield b"\x03\x00\xff" + message(p.DATA, bytes(4080))
    yield b"\x03\x00\x00" + message(p.FATAL, p.text("The device is gone."))


def _attachments() -> Iterator[bytes]:
    device = (
        f"model a\nuuid GPU-1\nemulated 1\nshare 250\nmemory 4096\nsecret {SECRET.hex()}\nlocal /x\ntcp h:1\nca /y\n"
    )
    for state in ("attached", "detached", "lost"):
        head = f"elara-attachment 1\nepoch 7\nstate {state}\nreason idle\nlease {LEASE}\nexpires 99\n"
        yield (head + "device 0\n" + device + "device 1\n" + device).encode()


def _hellos() -> Iterator[bytes]:
    digest: bytes = load_server_module().operator_digest()
    version = str(torch.__version__)
    for told, tail in ((1, struct.pack("<I", 60_000)), (1, b""), (9, b"")):
        for secret in (SECRET, bytes(32)):
            body = struct.pack("<H", told) + p.text(version) + digest + secret + p.text("python 1") + tail
            yield b"\0" + message(p.HELLO, body)
    yield b"\0" + message(p.HELLO, struct.pack("<H", 1) + p.text("9.9.0") + bytes(32) + SECRET + p.text(""))
    yield b"\x01" + message(p.RESUME, SECRET + struct.pack("<Q", 83))
    facts = p.text(version) + p.text("emulated (CPU)") + struct.pack("<QBQ", 1 << 30, 1, 1 << 30)
    yield b"\x02" + message(p.REPLY, struct.pack("<H", 1) + facts + struct.pack("<I", 60_000))
    yield b"\x02" + message(p.REPLY, struct.pack("<H", 2) + facts)
    yield b"\x02" + message(p.FATAL, p.text("The device server did not accept the secret of this attachment."))
