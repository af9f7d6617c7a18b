"""Keeps one hub group a team in line with the team's members, now and whenever something changed."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from urllib.parse import quote

from sqlalchemy import select

from elara_hub.core import Core
from elara_hub.database.models import Team, TeamMember
from elara_hub.refusal import Refusal
from elara_hub.tenancy.hub_api import HubApi

log = logging.getLogger("elara.groups")

_RETRY_SECONDS = (1.0, 60.0)
_EVERY = 600.0


class GroupKeeper:
    """`run` for ever. A hub that cannot be reached is tried again, ever less often; users unknown to it are left out
    until they have signed in."""

    def __init__(self, core: Core, hub: HubApi) -> None:
        self._core = core
        self._hub = hub
        self._changed = asyncio.Event()

    def start(self) -> None:
        """Hear of changes; call it on the event loop."""
        loop = asyncio.get_running_loop()

        def listener() -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._changed.set)

        self._core.tenancy_listeners.append(listener)

    async def run(self) -> None:
        delay = _RETRY_SECONDS[0]
        complained = False
        while True:
            self._changed.clear()
            try:
                await self.reconcile()
            except Refusal as refusal:
                if not complained:
                    log.warning(
                        "the hub's groups could not be brought in line: %s %s", refusal.message, refusal.next_step
                    )
                complained = True
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_SECONDS[1])
                continue
            delay, complained = _RETRY_SECONDS[0], False
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _EVERY)

    async def reconcile(self) -> None:
        """One round.

        Raises:
            Refusal: the hub does not answer, or does not let the service manage groups.
        """
        wanted, gone = await asyncio.to_thread(self._wanted)
        for team, members in wanted.items():
            await self._match(team, members)
        for team in gone:
            await self._must(await self._hub.call("DELETE", f"/groups/{quote(team)}"), 404)

    def _wanted(self) -> tuple[dict[str, set[str]], list[str]]:
        with self._core.read() as session:
            teams = session.scalars(select(Team)).all()
            living = {team.id: team.slug for team in teams if team.archived_at is None}
            members: dict[str, set[str]] = {slug: set() for slug in living.values()}
            for row in session.scalars(select(TeamMember)):
                if row.team_id in living:
                    members[living[row.team_id]].add(row.user)
            return members, sorted({team.slug for team in teams} - set(members))

    async def _match(self, team: str, members: set[str]) -> None:
        path = f"/groups/{quote(team)}"
        answer = await self._hub.call("GET", path)
        if answer.status_code == 404:
            await self._must(await self._hub.call("POST", path), 409)
            present: set[str] = set()
        else:
            await self._must(answer)
            present = set(answer.json()["users"])
        for user in sorted(members - present):
            # One by one: the hub refuses the whole list for one name it does not know.
            await self._must(await self._hub.call("POST", f"{path}/users", {"users": [user]}), 400, 404)
        if present - members:
            await self._must(await self._hub.call("DELETE", f"{path}/users", {"users": sorted(present - members)}))

    async def _must(self, answer: object, *tolerated: int) -> None:
        status: int = answer.status_code  # type: ignore[attr-defined]
        if status >= 400 and status not in tolerated:
            raise Refusal(
                "hub_refused",
                f"The hub answered {status}.",
                "Give the service's role the scopes `groups` and `read:users:name`.",
                status=503,
            )
