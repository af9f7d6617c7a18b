"""Names of a workspace's things on a container engine: one-to-one, and safe for every engine. Pure."""

from __future__ import annotations

import hashlib
import re

_PLAIN = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")
_LONGEST = 40
INSTANCE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def safe(name: str) -> str:
    """A name of the hub as a part of an object's name: itself when harmless, else a readable part and a digest.

    Two names never give the same part: a plain one holds neither ``_`` nor ``--``, and every made one holds ``_``.
    """
    if _PLAIN.fullmatch(name) and len(name) <= _LONGEST:
        return name
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:20] or "x"
    return f"{readable}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def workspace(instance: str, user: str, server: str) -> str:
    """The container of a user's server; `server` is empty for the default one."""
    return f"{instance}-ws-{safe(user)}" + (f"--{safe(server)}" if server else "")


def host(user: str) -> str:
    """The host name that a workspace's own prompt shows."""
    return re.sub(r"[^a-z0-9]+", "-", user.lower()).strip("-")[:40] or "workspace"


def home(instance: str, user: str) -> str:
    """The volume of a user's home."""
    return f"{instance}-home-{safe(user)}"


def project(instance: str, handle: str) -> str:
    """The volume that a project's members share. The service hands a handle out once and never again."""
    return f"{instance}-project-{handle}"
