"""Shuts out whom an administrator disabled: the hub's sessions, tokens and servers of that account end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import httpx
from jupyterhub import orm
from tornado.ioloop import PeriodicCallback

from elara_hub.accounts.store import Accounts, Person
from elara_hub.contract import API_PREFIX

SECONDS = 5.0
"""Between two looks at the accounts. The command line changes them without a word to the hub."""


class Watch:
    """Runs in the hub's loop, beside its requests."""

    def __init__(self, app: Any, accounts: Accounts, service_url: str, internal_token: str, log: Any) -> None:
        self._app = app
        self._accounts = accounts
        self._service_url = service_url.rstrip("/")
        self._token = internal_token
        self._log = log
        self._busy = False
        self._told: set[asyncio.Task[None]] = set()
        self._known: set[str] = set()

    def begin(self) -> None:
        self._callback = PeriodicCallback(self.look, SECONDS * 1000)
        self._callback.start()

    async def look(self) -> None:
        """One look: everybody who is to be shut out is, or is tried again at the next look."""
        if self._busy:
            return
        self._busy = True
        try:
            for person in await asyncio.to_thread(self._accounts.to_shut_out):
                try:
                    done = await self._shut_out(person)
                except Exception:
                    self._log.exception("Shutting out %s failed; it is tried again", person.name)
                    continue
                if done:
                    await asyncio.to_thread(self._accounts.was_shut_out, person.name)
        finally:
            self._busy = False

    async def _shut_out(self, person: Person) -> bool:
        """Whether nothing is left to end. A password that was reset ends sessions and tokens, not workspaces."""
        disabled = person.state != "active"
        if disabled:
            self.tell_service(person.name, disabled=True)
        found = orm.User.find(self._app.db, person.name)
        if found is None:
            return True
        user = self._app.users[found]
        left = await self._stop_servers(user) if disabled else False
        end_tokens(self._app.db, user, keep_servers=not disabled)
        self._log.info("Ended the sessions and tokens of %s", person.name)
        return not left

    async def _stop_servers(self, user: Any) -> bool:
        """Stop what can be stopped now. True when a server is in the middle of something: look again."""
        left = False
        for name, spawner in list(user.spawners.items()):
            if spawner.pending:
                left = True
            elif spawner.active:
                self._log.info("Stopping the workspace %r of the disabled account %s", name, user.name)
                await self._app.proxy.delete_user(user, name)
                await user.stop(name)
        return left

    def tell_service(self, name: str, *, disabled: bool) -> None:
        """Tell the service in the background; it learns of people from workspaces as well, so nothing hangs on it."""
        if not self._service_url:
            return
        task = asyncio.ensure_future(self._tell(name, disabled))
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    async def _tell(self, name: str, disabled: bool) -> None:
        url = f"{self._service_url}{API_PREFIX}/internal/users/{quote(name, safe='')}"
        try:
            async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
                answer = await client.put(
                    url, json={"disabled": disabled}, headers={"Authorization": f"Bearer {self._token}"}
                )
            answer.raise_for_status()
        except httpx.HTTPError as error:
            self._log.warning("The service was not told about %s: %s", name, type(error).__name__)


def end_tokens(db: Any, user: Any, *, keep_servers: bool, keep: Any = None) -> None:
    """End the sessions of `user` (a new cookie id) and delete the tokens.

    Args:
        keep_servers: leave the tokens that running workspaces work with. A token is one of those by its note and by its
            age: notes can be chosen by users, the time of a server's start cannot.
        keep: one more token to leave.
    """
    kept = {keep.id} if keep is not None else set()
    if keep_servers:
        for spawner in user.spawners.values():
            started = spawner.orm_spawner.started
            if not (spawner.active and started and spawner.server):
                continue
            note = f"Server at {spawner.server.base_url}"
            near = timedelta(seconds=10)
            kept |= {t.id for t in user.orm_user.api_tokens if t.note == note and abs(t.created - started) < near}
    for token in list(user.orm_user.api_tokens):
        if token.id not in kept:
            db.delete(token)
    user.orm_user.cookie_id = orm.new_token()
    db.commit()
