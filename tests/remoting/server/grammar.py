"""Reads what a client sends, message by message, and fails on a byte that the written protocol does not explain."""

from __future__ import annotations

import struct

from tests.remoting.server import protocol as p

_FIXED = {
    p.GOODBYE: "",
    p.SYNC: "",
    p.STATS: "",
    p.RESET_PEAK: "",
    p.ACK: "Q",
    p.ALLOC: "QQ",
    p.RESIZE: "QQ",
    p.READ: "QQQ",
    p.PUSH: "QIQQQ",
    p.PULL: "QIQQQ",
    p.GENERATOR_SEED: "QQ",
    p.GENERATOR_GET: "Q",
    p.GENERATOR_FREE: "Q",
    p.EVENT_RECORD: "QQ",
    p.EVENT_WAIT: "QQ",
    p.EVENT_ELAPSED: "QQ",
    p.EVENT_FREE: "Q",
    p.EVENT_QUERY: "Q",
}
_CONSTANT_BYTES = {0: 0, 1: 0, 4: 8, 5: 0, 6: 8, 7: 0, 8: 1, 16: 0, 17: 0, 18: 0, 19: 1, 20: 1, 21: 1}
_VARIABLE_BYTES = {2: 16, 3: 16, 5: 8, 7: 8, 17: 8, 18: 16}


class Conversation:
    """Messages of one client in order; `names` says which operators it defined."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.variables: dict[int, int] = {}  # bytes of a template's variables
        self.kinds: list[int] = []

    def feed(self, stream: bytes) -> None:
        """Every message of a whole stream, after its preamble."""
        while stream:
            kind, flags, reserved, length = struct.unpack_from("<BBHI", stream)
            assert (flags, reserved) == (0, 0) and len(stream) >= 8 + length
            self.message(kind, stream[8 : 8 + length])
            stream = stream[8 + length :]

    def message(self, kind: int, payload: bytes) -> None:
        """One message, to its last byte."""
        self.kinds.append(kind)
        reader = p.Payload(payload)
        if kind in _FIXED:
            if _FIXED[kind]:
                reader.get(_FIXED[kind])
        elif kind == p.INTRODUCE:
            reader.get("I")
            reader.get("32s")
            reader.text()
        elif kind == p.HELLO:
            reader.get("H")
            reader.text()
            reader.get("64s")
            reader.text()
            if reader.place < len(payload):
                reader.get("I")  # the client can resume
        elif kind == p.CONTEXT:
            reader.text()
            reader.get("q")
        elif kind == p.DEFINE_OP:
            number = reader.get("I")
            name, overload = reader.text(), reader.text()
            assert number not in self.names
            self.names[number] = f"{name}.{overload}" if overload else name
        elif kind == p.DEFINE_TEMPLATE:
            number, operator = reader.get("II")
            assert operator in self.names
            self.variables[number] = sum(self._argument(reader) for _ in range(reader.get("I")))
            for _ in range(reader.get("I")):
                assert reader.output().kind < p.INT
        elif kind == p.EXECUTE:
            template, _ = reader.get("IQ")
            assert len(payload) == 12 + self.variables[template]
            reader.place = len(payload)
        elif kind == p.TEACH:
            assert reader.get("I") in self.names
            expected = sum(self._argument(reader) for _ in range(reader.get("I")))
            _, length = reader.get("QI")
            assert length == expected
            reader.place += length
        elif kind in (p.FREE, p.DROP_TEMPLATES):
            assert len(payload) % (8 if kind == p.FREE else 4) == 0
            reader.place = len(payload)
        elif kind == p.WRITE:
            reader.get("QQ")
            reader.place = len(payload)
        elif kind == p.GENERATOR_SET:
            reader.get("Q")
            reader.place = len(payload)
        else:
            raise AssertionError(f"message type {kind} is not in the protocol")
        assert reader.place == len(payload), f"message type {kind} has bytes that nothing explains"

    def _argument(self, reader: p.Payload) -> int:
        """Reads an argument's constant part and returns how long its variables are."""
        tag = reader.get("B")
        if tag == 2:
            _, _, dimensions = reader.get("BBB")
            reader.place += 16 * dimensions
        elif tag == 3:
            reader.get("BB")
        elif tag == 9:
            reader.text()
        elif tag in (10, 12):
            count = reader.get("I")
            reader.place += count * (8 if tag == 10 else 1)
        elif tag == 11:
            return 8 * int(reader.get("I"))
        elif tag in (13, 14, 15):
            return sum(self._argument(reader) for _ in range(reader.get("I")))
        else:
            reader.place += _CONSTANT_BYTES[tag]
        return _VARIABLE_BYTES.get(tag, 0)
