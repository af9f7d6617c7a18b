"""A client of the device server's protocol (remoting/csrc/wire/protocol.h) in plain Python, honest or not.

It shares no code with the core, so that both sides of the wire are tested against the written protocol.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.remoting.harness import ON_CUDA

HELLO, GOODBYE, SYNC, STATS, CONTEXT, RESET_PEAK, ACK, RESUME = 1, 2, 3, 4, 5, 6, 7, 8
DEFINE_OP, DEFINE_TEMPLATE, EXECUTE, TEACH, DROP_TEMPLATES = 16, 17, 18, 19, 20
ALLOC, FREE, RESIZE, WRITE, READ = 32, 33, 34, 35, 36
PUSH, PULL, INTRODUCE = 40, 41, 42
GENERATOR_SEED, GENERATOR_GET, GENERATOR_SET, GENERATOR_FREE = 48, 49, 50, 51
EVENT_RECORD, EVENT_WAIT, EVENT_ELAPSED, EVENT_FREE, EVENT_QUERY = 64, 65, 66, 67, 68
REPLY, DATA, ERROR, FATAL = 128, 129, 130, 131

RUNTIME, OUT_OF_MEMORY, NOT_IMPLEMENTED, INDEX, VALUE, TYPE, REFUSED, PROTOCOL, LINALG = range(9)

NEW, ALIAS, UNDEFINED, LIST, VIEW, INT, DOUBLE, BOOL, COMPLEX, NONE = range(10)
WRAPPED_NUMBER, CONJUGATE, NEGATIVE = 1, 2, 4

DTYPES = {
    torch.uint8: 0,
    torch.int8: 1,
    torch.int16: 2,
    torch.int32: 3,
    torch.int64: 4,
    torch.float16: 5,
    torch.float32: 6,
    torch.float64: 7,
    torch.complex64: 9,
    torch.complex128: 10,
    torch.bool: 11,
    torch.bfloat16: 15,
    torch.uint64: 29,
}
_TORCH_DTYPES = {number: dtype for dtype, number in DTYPES.items()}


class ServerError(Exception):
    """The server answered with kError."""

    def __init__(self, kind: int, number: int, operator: str, message: str) -> None:
        super().__init__(f"{operator} ({number}): {message}")
        self.kind, self.number, self.operator, self.message = kind, number, operator, message


class Fatal(Exception):
    """The server ended the session; the text is its sentence."""


class Closed(Exception):
    """The connection ended without a word."""


def text(value: str) -> bytes:
    """A str of the protocol."""
    data = value.encode()
    return struct.pack("<I", len(data)) + data


def ints(*values: int) -> bytes:
    """Values as i64."""
    return struct.pack(f"<{len(values)}q", *values)


def strides_of(sizes: Sequence[int]) -> list[int]:
    """Contiguous strides."""
    strides: list[int] = []
    step = 1
    for size in reversed(sizes):
        strides.insert(0, step)
        step *= max(size, 1)
    return strides


def shape(dtype: torch.dtype, sizes: Sequence[int], strides: Sequence[int] | None = None, flags: int = 0) -> bytes:
    """dtype, flags, ndim, sizes, strides."""
    strides = strides_of(sizes) if strides is None else strides
    return bytes([DTYPES[dtype], flags, len(sizes)]) + ints(*sizes) + ints(*strides)


def tensor(dtype: torch.dtype, sizes: Sequence[int], strides: Sequence[int] | None = None, flags: int = 0) -> bytes:
    """Argument kTensor."""
    return b"\x02" + shape(dtype, sizes, strides, flags)


def new(dtype: torch.dtype, sizes: Sequence[int], strides: Sequence[int] | None = None, nbytes: int = 0) -> bytes:
    """Output kNew."""
    return bytes([NEW]) + shape(dtype, sizes, strides) + struct.pack("<Q", nbytes)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal to the last bit; on a GPU, whose kernels add in another order than the CPU's, up to rounding."""
    return torch.allclose(one, other, rtol=1e-5, atol=1e-6) if ON_CUDA else torch.equal(one, other)


NONE_ARGUMENT = b"\x00"
INT_VARIABLE = b"\x05"
DOUBLE_VARIABLE = b"\x07"
DEVICE = b"\x10"
GENERATOR = b"\x11"


def integer(value: int) -> bytes:
    """Argument kInt."""
    return b"\x04" + ints(value)


def real(value: float) -> bytes:
    """Argument kDouble."""
    return b"\x06" + struct.pack("<d", value)


def boolean(value: bool) -> bytes:
    """Argument kBool."""
    return bytes([8, int(value)])


def int_list(*values: int) -> bytes:
    """Argument kIntList."""
    return b"\x0a" + struct.pack("<I", len(values)) + ints(*values)


def tensor_list(*items: bytes) -> bytes:
    """Argument kTensorList."""
    return b"\x0d" + struct.pack("<I", len(items)) + b"".join(items)


def dtype_argument(dtype: torch.dtype) -> bytes:
    """Argument kDtype."""
    return bytes([19, DTYPES[dtype]])


def at(storage: int, offset: int = 0) -> bytes:
    """The variables of a kTensor argument."""
    return struct.pack("<Qq", storage, offset)


def count_of(items: Sequence[bytes]) -> bytes:
    """u32 count, then the items."""
    return struct.pack("<I", len(items)) + b"".join(items)


@dataclass
class Taught:
    """An output as kTeach answered it."""

    kind: int
    dtype: torch.dtype | None = None
    flags: int = 0
    sizes: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    nbytes: int = 0
    argument: int = -1
    offset: int = 0
    value: Any = None
    items: list[Taught] = field(default_factory=list)


class Payload:
    """Reads a reply."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def get(self, layout: str) -> Any:
        values = struct.unpack_from("<" + layout, self.data, self.place)
        self.place += struct.calcsize("<" + layout)
        return values[0] if len(values) == 1 else values

    def text(self) -> str:
        length = self.get("I")
        self.place += length
        return self.data[self.place - length : self.place].decode()

    def output(self) -> Taught:
        kind = self.get("B")
        taught = Taught(kind)
        if kind in (ALIAS, VIEW):
            taught.argument = self.get("I")
        if kind in (NEW, VIEW):
            dtype, taught.flags, dimensions = self.get("BBB")
            taught.dtype = _TORCH_DTYPES[dtype]
            taught.sizes = tuple(self.get("q") for _ in range(dimensions))
            taught.strides = tuple(self.get("q") for _ in range(dimensions))
        if kind == NEW:
            taught.nbytes = self.get("Q")
        elif kind == VIEW:
            taught.offset = self.get("q")
        elif kind == LIST:
            taught.items = [self.output() for _ in range(self.get("I"))]
        elif kind == INT:
            taught.value = self.get("q")
        elif kind == DOUBLE:
            taught.value = self.get("d")
        elif kind == BOOL:
            taught.value = bool(self.get("B"))
        elif kind == COMPLEX:
            taught.value = complex(*self.get("dd"))
        return taught


class Connection:
    """One session. Numbers of operators, templates and storages are handed out by the caller's calls."""

    def __init__(self, stream: socket.socket, seconds: float = 20) -> None:
        stream.settimeout(seconds)
        self.stream = stream
        self._operators: dict[tuple[str, str], int] = {}
        self._templates = 0
        self._storages = 0

    def close(self) -> None:
        """Leave without a word."""
        self.stream.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, kind: int, payload: bytes = b"") -> None:
        """One message."""
        self.stream.sendall(struct.pack("<BBHI", kind, 0, 0, len(payload)) + payload)

    def receive_bytes(self, count: int) -> bytes:
        """Exactly `count` bytes.

        Raises:
            Closed: the stream ended first.
        """
        data = bytearray()
        while len(data) < count:
            try:
                received = self.stream.recv(min(count - len(data), 1 << 20))
            except ConnectionError as error:
                raise Closed from error
            if not received:
                raise Closed
            data += received
        return bytes(data)

    def receive(self) -> tuple[int, bytes]:
        """One message.

        Raises:
            ServerError: it was kError.
            Fatal: it was kFatal.
        """
        kind, _, _, length = struct.unpack("<BBHI", self.receive_bytes(8))
        payload = self.receive_bytes(length)
        if kind == ERROR:
            reader = Payload(payload)
            error, number = reader.get("BQ")
            raise ServerError(error, number, reader.text(), reader.text())
        if kind == FATAL:
            raise Fatal(Payload(payload).text())
        return kind, payload

    def request(self, kind: int, payload: bytes = b"") -> Payload:
        """A message and its reply."""
        self.send(kind, payload)
        answer, data = self.receive()
        assert answer == REPLY
        return Payload(data)

    def hello(
        self,
        secret: bytes,
        digest: bytes,
        version: int = 1,
        torch_version: str = torch.__version__,
    ) -> tuple[int, str, str, int, int, int]:
        """The opening; returns version, torch version, model, cap, emulated, total memory."""
        payload = struct.pack("<H", version) + text(torch_version) + digest + secret + text("test")
        reply = self.request(HELLO, payload)
        return reply.get("H"), reply.text(), reply.text(), reply.get("Q"), reply.get("B"), reply.get("Q")

    def new_ids(self, count: int = 1) -> int:
        """The first of `count` fresh storage ids."""
        first = self._storages + 1
        self._storages += count
        return first

    def operator(self, name: str, overload: str = "") -> int:
        """The number of an operator, defined when it is new."""
        key = (name, overload)
        if key not in self._operators:
            self._operators[key] = len(self._operators) + 1
            self.send(DEFINE_OP, struct.pack("<I", self._operators[key]) + text(name) + text(overload))
        return self._operators[key]

    def template(self, name: str, overload: str, arguments: Sequence[bytes], outputs: Sequence[bytes]) -> int:
        """Define a template and return its number."""
        operator = self.operator(name, overload)
        self._templates += 1
        self.send(
            DEFINE_TEMPLATE, struct.pack("<II", self._templates, operator) + count_of(arguments) + count_of(outputs)
        )
        return self._templates

    def execute(self, template: int, variables: bytes, outputs: int = 1) -> int:
        """Execute; returns the id of the first of `outputs` fresh storages."""
        first = self.new_ids(outputs)
        self.send(EXECUTE, struct.pack("<IQ", template, first) + variables)
        return first

    def teach(self, name: str, overload: str, arguments: Sequence[bytes], variables: bytes) -> tuple[int, list[Taught]]:
        """Run once and learn; returns the id of the first fresh storage and the outputs."""
        operator = self.operator(name, overload)
        first = self.new_ids(64)
        payload = struct.pack("<I", operator) + count_of(arguments)
        payload += struct.pack("<QI", first, len(variables)) + variables
        reply = self.request(TEACH, payload)
        return first, [reply.output() for _ in range(reply.get("I"))]

    def alloc(self, nbytes: int) -> int:
        """A fresh storage."""
        storage = self.new_ids()
        self.send(ALLOC, struct.pack("<QQ", storage, nbytes))
        return storage

    def write(self, storage: int, data: bytes, offset: int = 0) -> None:
        """Fill a part of a storage."""
        self.send(WRITE, struct.pack("<QQ", storage, offset) + data)

    def read(self, storage: int, nbytes: int, offset: int = 0) -> bytes:
        """Contents of a storage."""
        self.send(READ, struct.pack("<QQQ", storage, offset, nbytes))
        data = b""
        while True:
            kind, piece = self.receive()
            assert kind == DATA
            data += piece
            if len(data) >= nbytes:
                return data

    def free(self, *storages: int) -> None:
        """Give storages back."""
        self.send(FREE, struct.pack(f"<{len(storages)}Q", *storages))

    def sync(self) -> None:
        """Wait until everything was executed."""
        self.request(SYNC)

    def stats(self) -> dict[str, int]:
        """kStats."""
        names = ("used", "peak", "lease_used", "cap", "operators", "storages", "templates")
        return dict(zip(names, self.request(STATS).get("7Q"), strict=True))

    def upload(self, value: torch.Tensor) -> int:
        """A contiguous tensor into a fresh storage."""
        data = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        storage = self.alloc(len(data))
        for start in range(0, len(data), 8 << 20):
            self.write(storage, data[start : start + (8 << 20)], start)
        return storage

    def download(self, storage: int, dtype: torch.dtype, sizes: Sequence[int]) -> torch.Tensor:
        """A contiguous tensor from the start of a storage."""
        made = torch.empty(list(sizes), dtype=dtype)
        data = self.read(storage, made.numel() * made.element_size())
        return torch.frombuffer(bytearray(data), dtype=dtype).reshape(list(sizes)) if data else made
