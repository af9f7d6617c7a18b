"""What a name and a password must be, and how long failures lock out. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

NAME = re.compile(r"[a-z](?:[a-z0-9]|-(?!-)){0,30}[a-z0-9]|[a-z]")
RESERVED = frozenset({"admin", "administrator", "root", "hub", "elara", "mlflow", "system", "service"})
SHORTEST_PASSWORD = 10
LONGEST_PASSWORD = 1024
"""Long enough for any phrase; a bound only so that nobody can make us hash megabytes."""


class BadInput(ValueError):
    """What a person typed cannot be taken; the text says what to type instead."""


@dataclass(frozen=True)
class Bucket:
    """Failures counted under one key: number `free` locks for a moment, each further one for twice as long."""

    kind: str
    free: int
    longest: int
    """Seconds."""


PAIR = Bucket("pair", free=5, longest=3600)
"""One name from one address: somebody who mistypes, or guesses."""
ADDRESS = Bucket("address", free=20, longest=3600)
"""One address with any names: somebody who tries names."""
NAME_ANYWHERE = Bucket("name", free=50, longest=300)
"""One name from anywhere: many who guess together. Short, since it shuts the rightful user out too."""

FIRST_LOCK = 15
"""Seconds of the first lock; doubled from there."""
FORGET_AFTER = 24 * 3600
"""Seconds without a failure after which earlier ones no longer count."""


def lock_seconds(bucket: Bucket, failures: int) -> int:
    """How long the latest of `failures` failures locks, in seconds; 0 for not at all."""
    beyond = failures - bucket.free
    if beyond < 0:
        return 0
    return int(min(FIRST_LOCK * 2 ** min(beyond, 20), bucket.longest))


def check_name(name: str) -> None:
    """Raises BadInput unless `name` may be the name of a new account (whether it is free is another question)."""
    if not NAME.fullmatch(name):
        raise BadInput(
            "A name has 1 to 32 lower-case letters, digits and single hyphens; it begins with a letter and does not "
            "end with a hyphen. Choose another name."
        )


def check_open_name(name: str) -> None:
    """As check_name, and for somebody who signs up: names that look official are not for the taking."""
    check_name(name)
    if name in RESERVED:
        raise BadInput(f"The name {name!r} is reserved. Choose another name.")


def check_password(password: str, name: str = "") -> None:
    """Raises BadInput unless `password` will do."""
    if len(password) < SHORTEST_PASSWORD:
        raise BadInput(f"A password has at least {SHORTEST_PASSWORD} characters. A few words in a row do well.")
    if len(password) > LONGEST_PASSWORD:
        raise BadInput(f"A password has at most {LONGEST_PASSWORD} characters.")
    if len(set(password)) < 4 or (name and password.lower() == name.lower() * (len(password) // max(len(name), 1))):
        raise BadInput("This password is too easy to guess. A few words in a row do well.")


def in_words(seconds: int) -> str:
    """A duration for people, rounded up: ``15 seconds``, ``2 minutes``."""
    if seconds < 60:
        return f"{max(seconds, 1)} second{'s' if seconds > 1 else ''}"
    minutes = -(-seconds // 60)
    return f"{minutes} minute{'s' if minutes > 1 else ''}"
