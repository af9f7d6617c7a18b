"""The users that device servers run as: where the agent is root, each session gets a user id of its own.

Two sessions then share nothing that the kernel grants by user: no signals, no look into one another, no files. No
account is needed: the ids come from the range that systemd keeps for such users of the moment.
"""

from __future__ import annotations

import os
import pwd
import random
import re
import sys
from pathlib import Path

AUTOMATIC = "auto"
NONE = "agent"
DYNAMIC = (61184, 65519)
_CAP_SETGID, _CAP_SETUID = 6, 7


class DeviceUsersError(ValueError):
    """The setting does not name users that device servers can run as; the text says why and what to do."""


class DeviceUsers:
    """Hands out user ids. `sentence` says in the log and in the node's status how device servers are kept apart."""

    def __init__(self, setting: str = AUTOMATIC, *, loads_later: bool = False) -> None:
        """Understand the setting: `auto`, `agent` (no other user), `FIRST-LAST`, or the name of one account for all.

        `loads_later`: device servers load libraries while they serve (CUDA's do), so other users must be able to.

        Raises:
            DeviceUsersError: the agent may not become other users although the setting asks for it, or there is no
                such account.
        """
        self._taken: set[int] = set()
        self._range: range | None = None
        self._shared: int | None = None
        hindrance = _hindrance(loads_later)
        if setting == NONE or (setting == AUTOMATIC and hindrance):
            why = "as the setting asks" if setting == NONE else hindrance
            self.sentence = (
                f"Device servers run as the agent's own user (uid {os.geteuid()}), {why}: sessions are kept apart by "
                "process, file and system call rules, and not by user."
            )
            return
        if hindrance:
            raise DeviceUsersError(
                f"Device servers cannot run as {setting}, {hindrance}. Start the agent as root, from a Python "
                "that every user can read."
            )
        numbers = re.fullmatch(r"(\d+)-(\d+)", setting)
        if setting == AUTOMATIC or numbers:
            first, last = (int(numbers[1]), int(numbers[2])) if numbers else DYNAMIC
            self._range = _checked_range(first, last)
            self.sentence = f"Each device server runs as a user of its own (uid {first} to {last})."
        else:
            self._shared = _account(setting)
            self.sentence = f"Device servers run as {setting} (uid {self._shared}), one user for all sessions."

    @property
    def apart(self) -> bool:
        """Whether device servers run as other users than the agent."""
        return self._range is not None or self._shared is not None

    @property
    def exclusive(self) -> bool:
        """Whether each has a user id of its own, so that limits a user count for one session alone."""
        return self._range is not None

    def take(self) -> int | None:
        """A user id for one session; None when it shall keep the agent's own.

        Raises:
            DeviceUsersError: all of the range are in use.
        """
        if self._range is None:
            return self._shared
        # Not from the start: another agent of this machine may use the same range.
        begin = random.randrange(len(self._range))  # noqa: S311 - not a secret
        for step in range(len(self._range)):
            uid = self._range[(begin + step) % len(self._range)]
            if uid not in self._taken:
                self._taken.add(uid)
                return uid
        raise DeviceUsersError(
            f"All {len(self._range)} user ids of the node are in use. Shut down a kernel that uses a device."
        )

    def give_back(self, uid: int | None) -> None:
        """The session of `take` has ended."""
        if uid is not None:
            self._taken.discard(uid)


def world_readable(folder: Path) -> bool:
    """Whether a user without any rights of his own reaches a folder and can list it."""
    folder = folder.resolve()
    return bool(folder.stat().st_mode & 0o004) and all(
        part.stat().st_mode & 0o001 for part in (folder, *folder.parents)
    )


def _hindrance(loads_later: bool) -> str | None:
    """Why this process cannot become another user; None when it can."""
    if os.geteuid() != 0:
        return "because the agent is not root"
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            capabilities = int(line.split()[1], 16)
            if not (capabilities >> _CAP_SETUID & 1 and capabilities >> _CAP_SETGID & 1):
                return "because the agent lacks the capabilities CAP_SETUID and CAP_SETGID"
    for folder in {sys.prefix, sys.base_prefix} if loads_later else ():
        if not world_readable(Path(folder)):
            return f"because other users cannot read the libraries in {folder}"
    return None


def _checked_range(first: int, last: int) -> range:
    if not 0 < first <= last:
        raise DeviceUsersError(f"{first}-{last} is not a range of user ids: name the first and the last, above 0.")
    for line in Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines():
        inside, _, count = (int(word) for word in line.split())
        if inside <= first and last < inside + count:
            return range(first, last + 1)
    raise DeviceUsersError(
        f"The user ids {first} to {last} do not exist in this container's user namespace (/proc/self/uid_map). "
        f"Name a range that does, or {NONE!r} to run device servers as the agent's own user."
    )


def _account(name: str) -> int:
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        raise DeviceUsersError(
            f"There is no account {name!r} on this machine. Make it (useradd --system {name}), or name a range of "
            "user ids like 61184-65519."
        ) from None
    if uid == 0:
        raise DeviceUsersError(f"Device servers must not run as root, and {name!r} is.")
    return uid
