"""The protocol's public test vectors: a small conversation, byte by byte.

`python -m tests.remoting.server.vectors` writes docs/remoting-vectors.json; test_vectors.py holds it against this
module, and a real device server against it.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from tests.remoting.server import protocol as p
from tests.remoting.server.protocol import at, count_of, new, tensor, text

FILE = Path(__file__).resolve().parents[3] / "docs" / "remoting-vectors.json"
F32 = torch.float32


class Vector(NamedTuple):
    """One message. `replayed`: it is the same on every machine, so a device server must take or send just this.

    `streamed`: it counts as bytes of its sender's stream, which outlives connections.
    """

    sender: str
    name: str
    says: str
    data: bytes
    replayed: bool = True
    streamed: bool = True


def message(kind: int, payload: bytes = b"") -> bytes:
    """Header and payload."""
    return struct.pack("<BBHI", kind, 0, 0, len(payload)) + payload


def _define(op: int, name: str, overload: str) -> bytes:
    return message(p.DEFINE_OP, struct.pack("<I", op) + text(name) + text(overload))


def _preamble(kind: int, device: int, flags: int = 0, peer: int = 0) -> bytes:
    front = struct.pack("<HBBBB4x", 1, kind, device, flags, peer)
    return b"ELARA\0" + front + bytes(range(16)) + bytes(range(16, 32)) + bytes(16)


def conversation() -> Iterator[Vector]:
    """The messages in the order in which they are sent; in their midst, the connection is cut."""
    sent = {"client": 0, "server": 0}
    for vector in itertools.chain(_opening(), _work()):
        if vector.streamed:
            sent[vector.sender] += len(vector.data)
        yield vector
    yield from _resuming(received=sent["server"], has=sent["client"])
    yield from _more_work()


def _opening() -> Iterator[Vector]:
    yield Vector(
        "client",
        "preamble",
        "kind 0 (commands), device 0, lease 00010203-0405-..., session 1011...; in clear, before TLS",
        _preamble(0, 0),
        replayed=False,
        streamed=False,
    )
    yield Vector(
        "node",
        "refusal",
        "in the place of everything that follows, from a node that knows no such lease",
        b"ELARAERR" + struct.pack("<H", 28) + b"This node has no such lease.",
        replayed=False,
        streamed=False,
    )
    hello = struct.pack("<H", 1) + text("2.13.0") + bytes(32) + bytes(range(32)) + text("python 4711")
    yield Vector(
        "client",
        "kHello",
        "version 1, torch 2.13.0, digest of zeros, secret 00 01 ... 1f, client's name, waits for 60,000 ms",
        message(p.HELLO, hello + struct.pack("<I", 60_000)),
        replayed=False,
    )
    facts = struct.pack("<H", 1) + text("2.13.0") + text("emulated (CPU)") + struct.pack("<QBQ", 1 << 28, 1, 1 << 28)
    yield Vector(
        "server",
        "kReply",
        "to kHello: version, torch, model, cap, emulated, memory, waits for 60,000 ms",
        message(p.REPLY, facts + struct.pack("<I", 60_000)),
        replayed=False,
    )


def _resuming(received: int, has: int) -> Iterator[Vector]:
    yield Vector(
        "client",
        "preamble",
        "on a new connection after a cut: the flag resume; lease and session as before",
        _preamble(0, 0, flags=1),
        replayed=False,
        streamed=False,
    )
    yield Vector(
        "client",
        "kResume",
        f"secret 00 01 ... 1f, {received} bytes of the server's stream received",
        message(p.RESUME, bytes(range(32)) + struct.pack("<Q", received)),
        replayed=False,
        streamed=False,
    )
    yield Vector(
        "server",
        "kReply",
        f"to kResume: {has} bytes of the client's stream received, so all of them",
        message(p.REPLY, struct.pack("<Q", has)),
        replayed=False,
        streamed=False,
    )
    for sender, count in (("client", received), ("server", has)):
        yield Vector(
            sender,
            "kAck",
            f"{count} bytes of the other side's stream received",
            message(p.ACK, struct.pack("<Q", count)),
            replayed=False,
        )
    yield Vector(
        "client",
        "preamble",
        "kind 2: connect device 0 with device 1; the node answers ELARAPEER",
        _preamble(2, 0, peer=1),
        replayed=False,
        streamed=False,
    )
    yield Vector(
        "client",
        "kPush",
        "transfer 1 to device 1: storage 1 from byte 0 on, 16 bytes",
        message(p.PUSH, struct.pack("<QIQQQ", 1, 1, 1, 0, 16)),
        replayed=False,
    )
    yield Vector(
        "client",
        "kIntroduce",
        "device 1 is on another node, whose server speaks second: a token, and an authority cut short here",
        message(p.INTRODUCE, struct.pack("<I", 1) + bytes(range(32)) + text("-----BEGIN CERTIFICATE-----")),
        replayed=False,
        streamed=False,
    )
    yield Vector(
        "client",
        "kPull",
        "to device 1: transfer 1 from device 0 to its storage 7 from byte 0 on, 16 bytes",
        message(p.PULL, struct.pack("<QIQQQ", 1, 0, 7, 0, 16)),
        replayed=False,
        streamed=False,  # of another session's stream
    )


def _work() -> Iterator[Vector]:
    yield Vector("client", "kAlloc", "storage 1 of 16 bytes", message(p.ALLOC, struct.pack("<QQ", 1, 16)))
    values = struct.pack("<4f", 1, 2, 3, 0)
    yield Vector(
        "client",
        "kWrite",
        "1, 2, 3, 0 as f32 to storage 1 from byte 0 on",
        message(p.WRITE, struct.pack("<QQ", 1, 0) + values),
    )
    yield Vector("client", "kDefineOp", "operator 1 is aten::add.Tensor", _define(1, "aten::add", "Tensor"))
    square = tensor(F32, [2, 2])
    yield Vector(
        "client",
        "kDefineTemplate",
        "template 1: add two f32 [2, 2], alpha varies; one fresh f32 [2, 2] of 16 bytes",
        message(
            p.DEFINE_TEMPLATE,
            struct.pack("<II", 1, 1)
            + count_of([square, square, p.INT_VARIABLE])
            + count_of([new(F32, [2, 2], None, 16)]),
        ),
    )
    yield Vector(
        "client",
        "kExecute",
        "template 1 of storage 1 twice, alpha 1; the result is storage 2",
        message(p.EXECUTE, struct.pack("<IQ", 1, 2) + at(1) + at(1) + struct.pack("<q", 1)),
    )
    yield Vector("client", "kRead", "storage 2, from byte 0, 16 bytes", message(p.READ, struct.pack("<QQQ", 2, 0, 16)))
    yield Vector("server", "kData", "2, 4, 6, 0 as f32", message(p.DATA, struct.pack("<4f", 2, 4, 6, 0)))


def _more_work() -> Iterator[Vector]:
    square = tensor(F32, [2, 2])
    yield Vector("client", "kDefineOp", "operator 2 is aten::nonzero", _define(2, "aten::nonzero", ""))
    yield Vector(
        "client",
        "kTeach",
        "run operator 2 on storage 1 and say what came out; fresh storages from 3 on",
        message(p.TEACH, struct.pack("<I", 2) + count_of([square]) + struct.pack("<QI", 3, 16) + at(1)),
    )
    shape = p.shape(torch.int64, [3, 2], [1, 3])
    yield Vector(
        "server",
        "kReply",
        "to kTeach: one fresh i64 [3, 2] with strides 1 and 3, of 48 bytes (storage 3)",
        message(p.REPLY, struct.pack("<I", 1) + bytes([p.NEW]) + shape + struct.pack("<Q", 48)),
    )
    yield Vector("client", "kRead", "storage 3", message(p.READ, struct.pack("<QQQ", 3, 0, 48)))
    yield Vector("server", "kData", "rows 0, 0, 1, then columns 0, 1, 0", message(p.DATA, p.ints(0, 0, 1, 0, 1, 0)))
    yield Vector("client", "kDefineOp", "operator 3 is not on the allow-list", _define(3, "aten::from_file", ""))
    yield Vector(
        "client",
        "kDefineTemplate",
        "template 2 of operator 3, without arguments",
        message(p.DEFINE_TEMPLATE, struct.pack("<II", 2, 3) + count_of([]) + count_of([new(F32, [1], None, 4)])),
    )
    yield Vector(
        "client", "kExecute", "template 2; storage 4 gets no contents", message(p.EXECUTE, struct.pack("<IQ", 2, 4))
    )
    yield Vector("client", "kSync", "wait for all of it", message(p.SYNC))
    yield Vector(
        "server",
        "kError",
        "in the place of the reply: kind 6 (refused), the third operator of the session, its name, why",
        message(
            p.ERROR,
            struct.pack("<BQ", 6, 3) + text("aten::from_file") + text("a device server does not run this operator"),
        ),
    )
    yield Vector(
        "client",
        "kContext",
        "a flag of torch's global context",
        message(p.CONTEXT, text("benchmark_cudnn") + p.ints(1)),
    )
    yield Vector(
        "client",
        "kGeneratorSeed",
        "the default generator, seed 42",
        message(p.GENERATOR_SEED, struct.pack("<QQ", 0, 42)),
    )
    yield Vector("client", "kEventRecord", "event 1 in stream 0", message(p.EVENT_RECORD, struct.pack("<QQ", 1, 0)))
    yield Vector("client", "kEventQuery", "event 1", message(p.EVENT_QUERY, struct.pack("<Q", 1)))
    yield Vector("server", "kReply", "to kEventQuery: done", message(p.REPLY, b"\x01"))
    yield Vector("client", "kEventFree", "event 1", message(p.EVENT_FREE, struct.pack("<Q", 1)))
    yield Vector("client", "kResize", "storage 2 to 8 bytes", message(p.RESIZE, struct.pack("<QQ", 2, 8)))
    yield Vector("client", "kResetPeak", "the peak of memory is what is held now", message(p.RESET_PEAK))
    yield Vector("client", "kDropTemplates", "templates 1 and 2", message(p.DROP_TEMPLATES, struct.pack("<II", 1, 2)))
    yield Vector("client", "kFree", "storages 1 to 4", message(p.FREE, struct.pack("<4Q", 1, 2, 3, 4)))
    yield Vector("client", "kSync", "wait", message(p.SYNC))
    yield Vector("server", "kReply", "to kSync: empty", message(p.REPLY))
    yield Vector("client", "(unknown)", "a message of type 99 ends the session", message(99))
    sentence = "The device server ended the session, because the client broke the protocol: message type 99 is unknown."
    yield Vector("server", "kFatal", "why", message(p.FATAL, text(sentence)))


def document() -> str:
    """The file's text."""
    entries = [
        {"from": v.sender, "message": v.name, "says": v.says, "hex": v.data.hex(), "replayed": v.replayed}
        for v in conversation()
    ]
    lines = ",\n".join("  " + json.dumps(entry) for entry in entries)
    return f'{{"protocol": 1, "vectors": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    FILE.write_text(document(), encoding="utf-8")
