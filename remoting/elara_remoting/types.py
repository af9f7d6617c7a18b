"""Plain values that every part of Elara shares: shares of a device, amounts of memory, devices and grants.

Nothing here imports torch or does I/O.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

WHOLE = 1000
"""A whole device, in thousandths."""

_MEMORY_UNITS = {
    "": 1,
    "b": 1,
    "k": 10**3,
    "kb": 10**3,
    "kib": 2**10,
    "m": 10**6,
    "mb": 10**6,
    "mib": 2**20,
    "g": 10**9,
    "gb": 10**9,
    "gib": 2**30,
    "t": 10**12,
    "tb": 10**12,
    "tib": 2**40,
}


class InvalidValue(ValueError):
    """A share or an amount of memory that cannot be read; the text says what is accepted."""


def parse_share(value: int | float | str) -> int:
    """Read a share of a device and return it in thousandths, 1 to 1000.

    An integer (or a string of digits) above 1 is thousandths; ``1``, ``"1"`` and ``1.0`` are the whole device; a float
    or a string with a point is a fraction of a device; ``"1/4"`` is a fraction.

    Raises:
        InvalidValue: the value is not a share, or not between 1 thousandth and a whole device.
    """
    help_text = "give thousandths (250), a decimal (0.25) or a fraction (1/4)"
    if isinstance(value, bool):
        raise InvalidValue(f"{value!r} is not a share: {help_text}")
    try:
        number = Fraction(str(value).strip())
    except (ValueError, ZeroDivisionError):
        raise InvalidValue(f"{value!r} is not a share: {help_text}") from None
    # An integer above 1 counts thousandths; everything up to 1 is a fraction of a device.
    thousandths = number if number > 1 else number * WHOLE
    if thousandths.denominator != 1 or not 1 <= thousandths <= WHOLE:
        raise InvalidValue(f"{value!r} is not between 1/1000 of a device and a whole one: {help_text}")
    return int(thousandths)


def parse_memory(value: int | str) -> int:
    """Read an amount of memory (``2147483648``, ``"2GiB"``, ``"512 MiB"``) and return bytes.

    Raises:
        InvalidValue: the value is not a positive amount of memory.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
    unit = _MEMORY_UNITS.get(match.group(2).lower()) if match else None
    if match is None or unit is None:
        raise InvalidValue(f"{value!r} is not an amount of memory: write it like 2GiB or 512MiB")
    amount = int(Fraction(match.group(1)) * unit)
    if amount <= 0:
        raise InvalidValue(f"{value!r} is no memory at all: write it like 2GiB or 512MiB")
    return amount


def format_memory(amount: int) -> str:
    """Write bytes the way the pages do: ``2.0 GiB``, ``512 MiB``, ``0 B``."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30)):
        if amount >= size:
            return f"{amount / size:.1f} {unit}"
    for unit, size in (("MiB", 2**20), ("KiB", 2**10)):
        if amount >= size:
            return f"{amount / size:.0f} {unit}"
    return f"{amount} B"


def format_share(share: int) -> str:
    """Write thousandths as people say them: ``1``, ``1/2``, ``1/4``, else a decimal such as ``0.3``."""
    fraction = Fraction(share, WHOLE)
    if fraction.denominator <= 8:
        return str(fraction)
    return f"{share / WHOLE:g}"


@dataclass(frozen=True)
class Device:
    """One GPU of a node as its agent reports it. Memory in bytes; `emulated` devices compute on the node's CPU."""

    uuid: str
    index: int
    model: str
    memory_bytes: int
    emulated: bool
    healthy: bool = True
    fault: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Device:
        """Read the wire form; unknown keys are ignored, missing ones raise `KeyError`."""
        return cls(
            uuid=str(data["uuid"]),
            index=int(data["index"]),
            model=str(data["model"]),
            memory_bytes=int(data["memory_bytes"]),
            emulated=bool(data["emulated"]),
            healthy=bool(data.get("healthy", True)),
            fault=data.get("fault"),
        )


@dataclass(frozen=True)
class Grant:
    """What a node hands out for one device of a lease: where to connect, with which secret, up to how much memory."""

    ordinal: int
    device_uuid: str
    secret: str
    ca_pem: str
    memory_bytes: int
    local: str | None = None
    tcp: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __repr__(self) -> str:
        # The secret must not reach a log by way of a repr.
        return (
            f"Grant(ordinal={self.ordinal}, device_uuid={self.device_uuid!r}, local={self.local!r}, tcp={self.tcp!r})"
        )

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Grant:
        """Read the wire form; unknown keys are ignored, missing ones raise `KeyError`."""
        return cls(
            ordinal=int(data["ordinal"]),
            device_uuid=str(data["device_uuid"]),
            secret=str(data["secret"]),
            ca_pem=str(data["ca_pem"]),
            memory_bytes=int(data["memory_bytes"]),
            local=data.get("local"),
            tcp=data.get("tcp"),
        )
