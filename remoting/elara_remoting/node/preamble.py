"""The first 64 bytes of a data connection (docs/contracts.md, section 4), and how an agent refuses."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

SIZE = 64
MAGIC = b"ELARA\0"
VERSION = 1
REFUSAL_MAGIC = b"ELARAERR"
USAGE_MAGIC = b"ELARAUSE"
PEER_ANSWER = b"ELARAPEER"
_LAYOUT = struct.Struct("<6sHBBBB4x16s16s16x")
_MAX_SENTENCE = 4096


class Kind(IntEnum):
    COMMANDS = 0
    BULK = 1
    PEER = 2
    USAGE = 3
    LINK = 4


class BadPreamble(ValueError):
    """These are not the first bytes of an Elara connection; the text says why."""


@dataclass(frozen=True)
class Preamble:
    """Whose connection this is. Ids are hex. `resume`: it continues a session whose connection was lost.
    `peer_ordinal`: with kind PEER, the device that `ordinal` is to be connected with; with kind LINK, the one on the
    calling node."""

    kind: Kind
    ordinal: int
    lease_id: str
    session_id: str
    resume: bool = False
    peer_ordinal: int = 0

    def pack(self) -> bytes:
        ids = bytes.fromhex(self.lease_id), bytes.fromhex(self.session_id)
        return _LAYOUT.pack(MAGIC, VERSION, self.kind, self.ordinal, int(self.resume), self.peer_ordinal, *ids)


def parse(data: bytes) -> Preamble:
    """Read the 64 bytes.

    Raises:
        BadPreamble: wrong magic, another version, or an unknown kind.
    """
    magic, version, kind, ordinal, flags, peer, lease, session = _LAYOUT.unpack(data)
    if magic != MAGIC:
        raise BadPreamble("This is the data port of an Elara node; it speaks to Elara's remoting client only.")
    if version != VERSION:
        raise BadPreamble(
            f"The node speaks version {VERSION} of the connection's first bytes, the client version {version}. "
            "Install the same version of elara-remoting on both sides."
        )
    try:
        known = Kind(kind)
    except ValueError:
        raise BadPreamble(f"The node knows no connection of kind {kind}.") from None
    return Preamble(known, ordinal, lease.hex(), session.hex(), bool(flags & 1), peer)


def refusal(sentence: str) -> bytes:
    """What the agent answers in clear before it closes."""
    return _answer(REFUSAL_MAGIC, sentence)


def usage_answer(text: str) -> bytes:
    """The answer to a connection of kind `USAGE`: JSON text."""
    return _answer(USAGE_MAGIC, text)


def _answer(magic: bytes, text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > _MAX_SENTENCE:
        encoded = encoded[:_MAX_SENTENCE].decode(errors="ignore").encode()
    return magic + struct.pack("<H", len(encoded)) + encoded
