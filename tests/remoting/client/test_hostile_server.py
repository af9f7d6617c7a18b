"""A device server that lies: the client raises a RuntimeError that says so, holds little memory, and lives on."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.remoting.harness import LEASE, ROOT, SECRET
from tests.remoting.server import protocol as p

F32, I64 = torch.float32, torch.int64
MIB = 1 << 20


def message(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack("<BBHI", kind, 0, 0, len(payload)) + payload


def header(kind: int, length: int, flags: int = 0) -> bytes:
    return struct.pack("<BBHI", kind, flags, 0, length)


def taught(*outputs: bytes) -> bytes:
    return message(p.REPLY, p.count_of(outputs))


def fresh(dtype: int, sizes: list[int], strides: list[int], nbytes: int, flags: int = 0) -> bytes:
    return bytes([p.NEW, dtype, flags, len(sizes)]) + p.ints(*sizes, *strides) + struct.pack("<Q", nbytes)


FACTS = struct.pack("<H", 1) + p.text(torch.__version__) + p.text("liar") + struct.pack("<QBQ", 1 << 30, 1, 1 << 30)
HONEST = message(p.REPLY, FACTS)
GOOD = fresh(4, [3, 1], [1, 3], 24)
NESTED = (bytes([p.LIST]) + struct.pack("<I", 1)) * 100_000 + bytes([p.UNDEFINED])
ERROR = struct.pack("<BQ", 0, 1) + p.text("aten::nonzero")

# What is answered to the hello; then what to the request (or to nothing, before it); then what the user does.
HELLOS = {
    "an empty reply": message(p.REPLY),
    "a reply that is cut": message(p.REPLY, FACTS[:-3]),
    "another version": message(p.REPLY, struct.pack("<H", 9) + FACTS[2:]),
    "a message of 4 GiB": header(p.REPLY, 0xFFFFFFFF),
    "a message longer than what follows": header(p.REPLY, 64 * MIB) + bytes(100),
    "flags of the future": header(p.REPLY, 0, flags=3),
    "an unknown type": message(200),
    "half a header": b"\x80\0",
    "silence and an end": b"",
    "an endless sentence": message(p.FATAL, p.text("no " * (5 * MIB))),
    "a sentence of no language": message(p.FATAL, struct.pack("<I", 1000) + bytes(range(200, 250)) * 20),
    "a sentence longer than its message": message(p.FATAL, struct.pack("<I", 1 << 30) + b"x"),
    "a refusal that never ends": b"ELARAERR\xff\xff" + b"x" * MIB,
}
TAUGHT = {
    "nothing in it": message(p.REPLY),
    "two results for one": taught(GOOD, GOOD),
    "no result": taught(),
    "a number for a tensor": taught(bytes([p.INT]) + p.ints(3)),
    "a list for a tensor": taught(bytes([p.LIST]) + p.count_of([GOOD])),
    "lists of lists of lists": message(p.REPLY, struct.pack("<I", 1) + NESTED),
    "a list of four billion": message(p.REPLY, struct.pack("<I", 0xFFFFFFFF)),
    "a list of a million": message(p.REPLY, struct.pack("<I", MIB) + bytes([p.UNDEFINED]) * MIB),
    "an alias of argument 77": taught(bytes([p.ALIAS]) + struct.pack("<I", 77)),
    "a view of argument 77": taught(bytes([p.VIEW]) + struct.pack("<I", 77) + p.shape(F32, [3]) + p.ints(0)),
    "a view from before its storage": taught(bytes([p.VIEW]) + struct.pack("<I", 0) + p.shape(F32, [3]) + p.ints(-8)),
    "a type that does not exist": taught(fresh(200, [3], [1], 24)),
    "a quantised type": taught(fresh(12, [3], [1], 24)),
    "a negative size": taught(fresh(4, [-3], [1], 24)),
    "a negative stride": taught(fresh(4, [3], [-1], 24)),
    "a size beyond any memory": taught(fresh(4, [1 << 40, 1 << 40], [1 << 40, 1], 24)),
    "a storage beyond any memory": taught(fresh(4, [3], [1], (1 << 64) - 1)),
    "a tensor larger than its storage": taught(fresh(4, [1000], [1], 24)),
    "unknown flags": taught(fresh(4, [3], [1], 24, flags=128)),
    "a conjugated integer": taught(fresh(4, [3], [1], 24, flags=2)),
    "too many dimensions": taught(bytes([p.NEW, 4, 0, 255]) + bytes(510 * 8) + bytes(8)),
    "an unknown kind of result": taught(b"\x63"),
    "bytes behind the result": message(p.REPLY, p.count_of([GOOD]) + b"x"),
    "data in place of a reply": message(p.DATA, b"12345678"),
    "an unknown type": message(99),
    "an end": b"",
    "half of it": taught(GOOD)[:20],
    "an error without contents": message(p.ERROR),
    "an error that is endless": message(p.ERROR, ERROR + p.text("woe " * (4 * MIB))),
    "an error of no language": message(p.ERROR, ERROR + struct.pack("<I", 1000) + bytes(range(200, 250)) * 20),
    "an error of an unknown kind": message(p.ERROR, b"\xee" + ERROR[1:] + p.text("odd")),
    "an error of another protocol": message(p.ERROR, b"\x07" + ERROR[1:] + p.text("odd")),
}
READ = {
    "more than was asked for": message(p.DATA, bytes(4096)),
    "pieces of nothing": message(p.DATA) * 1000,
    "a reply in place of data": message(p.REPLY, bytes(12)),
    "less, and an end": message(p.DATA, bytes(5)),
    "an answer to nothing first": message(p.REPLY) + message(p.DATA, bytes(12)),
}
SCENARIOS = [
    *(("hello", name, data) for name, data in HELLOS.items()),
    *(("taught", name, data) for name, data in TAUGHT.items()),
    *(("read", name, data) for name, data in READ.items()),
]

CHILD = """
import json, os, resource, sys, torch
torch.ones(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for epoch, (kind, name, text) in enumerate(json.load(open("scenarios.json")), 2):
    with open("attachment.new", "w") as file:
        file.write(text.replace("EPOCH", str(epoch)))
    os.replace("attachment.new", "attachment")
    assert torch.cuda.device_count() == 1
    try:
        x = torch.ones(3, device="cuda")
        made = torch.nonzero(x) if kind == "taught" else x.cpu()
        outcome = ["nothing was noticed", ""]
    except Exception as error:
        outcome = [type(error).__name__, str(error)]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([kind, name, *outcome, grown]), flush=True)
assert (torch.ones(2) + 1).tolist() == [2.0, 2.0]
"""


class Liar:
    """Listens on one socket a scenario, and answers there as it says; `slowly` a byte at a time."""

    def __init__(self, folder: Path, number: int, kind: str, data: bytes) -> None:
        self.path = folder / f"liar-{number}.sock"
        self.kind, self.data = kind, data
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError, p.Closed):
            while True:
                stream, _ = self.listener.accept()
                with stream, suppress(OSError, p.Closed):
                    self._converse(p.Connection(stream, 60))

    def _converse(self, connection: p.Connection) -> None:
        connection.receive_bytes(64)
        asked = {"taught": p.TEACH, "read": p.READ, "hello": p.HELLO}[self.kind]
        while True:
            kind, _, _, length = struct.unpack("<BBHI", connection.receive_bytes(8))
            connection.receive_bytes(length)
            if kind == asked:
                connection.stream.sendall(self.data)
                return
            if kind == p.HELLO:
                connection.stream.sendall(HONEST)


def attachment(path: Path) -> str:
    lines = [
        "elara-attachment 1",
        "epoch EPOCH",
        "state attached",
        "reason ",
        f"lease {LEASE}",
        "expires 0",
        "device 0",
    ]
    lines += ["model liar", "uuid LIAR", "emulated 1", "share 1000", f"memory {1 << 30}", f"secret {SECRET.hex()}"]
    return "\n".join([*lines, f"local {path}", ""])


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], tuple[str, str, int]]]:
    """What one client process met in all scenarios, one after the other."""
    folder = tmp_path_factory.mktemp("liars")
    liars = [Liar(folder, number, kind, data) for number, (kind, _, data) in enumerate(SCENARIOS)]
    told = [(kind, name, attachment(liar.path)) for (kind, name, _), liar in zip(SCENARIOS, liars, strict=True)]
    (folder / "scenarios.json").write_text(json.dumps(told))
    (folder / "attachment").write_text("elara-attachment 1\nepoch 1\nstate detached\n")
    environment = {**os.environ, "ELARA_RUNTIME_DIR": str(folder), "PYTHONPATH": f"{ROOT}:{ROOT / 'remoting'}"}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"after {rows[-1:]} and {time.monotonic() - begun:.0f} s: {done.stderr[-2000:]}"
    yield {(kind, name): (error, text, grown) for kind, name, error, text, grown in rows}
    for liar in liars:
        liar.listener.close()


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, name, _ in SCENARIOS])
def test_a_lie_is_a_runtime_error(outcomes: dict[tuple[str, str], tuple[str, str, int]], kind: str, name: str) -> None:
    error, text, grown = outcomes[kind, name]
    assert error == "RuntimeError", text
    assert len(text) < 25_000
    assert "cuda:0" in text
    assert grown < 400 << 10, "KiB, of which a message of 64 MiB may be held twice"
