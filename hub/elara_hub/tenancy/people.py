"""Users as the hub told of them. Accounts themselves are the hub's; here is only who was seen, and who is shut out."""

from __future__ import annotations

import asyncio
import threading

from sqlalchemy import select

from elara_hub.accounting.events import record
from elara_hub.core import Core, Unit
from elara_hub.database.models import User
from elara_hub.pool import leases
from elara_hub.refusal import Refusal
from elara_hub.tenancy.hub_api import HubApi
from elara_hub.tenancy.names import check_user


class People:
    """Knows by heart who is known and who is disabled, for every request asks."""

    def __init__(self, core: Core, groups: HubApi) -> None:
        self._core = core
        self._hub = groups
        self._lock = threading.Lock()
        with core.read() as session:
            rows = session.execute(select(User.name, User.disabled_at)).all()
        self._known = {name for name, _ in rows}
        self._disabled = {name for name, disabled_at in rows if disabled_at is not None}

    def is_known(self, name: str) -> bool:
        with self._lock:
            return name in self._known

    def is_disabled(self, name: str) -> bool:
        with self._lock:
            return name in self._disabled

    async def seen(self, name: str) -> None:
        """A token of this user was good."""
        if not self.is_known(name):
            await asyncio.to_thread(self.note, name, None)

    async def must_exist(self, name: str) -> None:
        """Raises:
        Refusal: neither the service nor the hub knows such a user, or the hub cannot be asked.
        """
        check_user(name)
        if self.is_known(name):
            return
        if not await self._hub.user_exists(name):
            raise Refusal(
                "unknown_user",
                f"The hub knows no user {name!r}.",
                "Check the spelling, or invite them first.",
                status=404,
            )
        await self.seen(name)

    def note(self, name: str, disabled: bool | None) -> None:
        """The hub tells of a user; `disabled` None leaves that as it is. Disabling ends the user's leases."""
        with self._core.change() as unit:
            self._note(unit, name, disabled)
        with self._lock:
            self._known.add(name)
            if disabled is not None:
                (self._disabled.add if disabled else self._disabled.discard)(name)

    def _note(self, unit: Unit, name: str, disabled: bool | None) -> None:
        row = unit.session.get(User, name)
        if row is None:
            row = User(name=name, created_at=unit.now)
            unit.session.add(row)
            record(unit.session, unit.now, "user.seen", name, user=name)
        if disabled is None or disabled == (row.disabled_at is not None):
            return
        row.disabled_at = unit.now if disabled else None
        record(unit.session, unit.now, "user.disabled" if disabled else "user.enabled", "hub", user=name)
        unit.tenancy_changed = True
        if disabled:
            leases.end_leases_of(
                self._core, unit, "access_revoked", "The user's account was disabled.", "hub", user=name
            )
