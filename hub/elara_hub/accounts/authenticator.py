"""Signing in with a name and a password of our own, on the hub's login form."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from jupyterhub.auth import Authenticator
from tornado import web
from traitlets import Bool, Instance, Unicode, default

from elara_hub.accounts.first import ensure_admin
from elara_hub.accounts.pages import page_handlers
from elara_hub.accounts.passwords import Passwords, TooBusy
from elara_hub.accounts.rules import LONGEST_PASSWORD, BadInput, in_words
from elara_hub.accounts.store import Accounts
from elara_hub.accounts.watch import Watch

PENDING = "Your account waits for an administrator's approval. Try again later."
DISABLED = "This account is disabled. Ask your administrator."
BUSY = "Too many people are signing in at this moment. Try again in a few seconds."


class AccountsAuthenticator(Authenticator):  # type: ignore[misc]
    """Names and passwords in a database of our own. It manages no groups: teams belong to Elara's own pages."""

    file = Unicode(
        "elara-data/hub/accounts.sqlite",
        help="The SQLite file of accounts, invitations and failed sign-ins; made when missing, with mode 0600.",
    ).tag(config=True)
    sign_up = Bool(
        False,
        help="Let anybody ask for an account on /hub/signup. Such an account cannot sign in before an administrator "
        "approved it. Default off: people come by invitation.",
    ).tag(config=True)
    first_admin = Unicode("admin", help="Name of the account that the first start makes.").tag(config=True)
    first_password_file = Unicode(
        "elara-data/secrets/first-admin-password",
        help="Holds that account's password. Without such a file one is made, with a generated password and mode 0600. "
        "It is read only while there is no account at all.",
    ).tag(config=True)
    public_url = Unicode("", help="The proxy's address as users type it, for links.").tag(config=True)
    service_url = Unicode("", help="The service's own address, to tell it of people.").tag(config=True)
    internal_token = Unicode("", help="The secret shown to the service.").tag(config=True)

    accounts = Instance(Accounts)
    passwords = Instance(Passwords)

    @default("accounts")
    def _default_accounts(self) -> Accounts:
        return Accounts(Path(self.file))

    @default("passwords")
    def _default_passwords(self) -> Passwords:
        return Passwords()

    @default("allow_all")
    def _default_allow_all(self) -> bool:
        # Who has an active account may sign in; that is what an account is.
        return True

    @default("auth_refresh_age")
    def _default_refresh_age(self) -> int:
        return 20

    @default("auth_refresh_strict")
    def _default_refresh_strict(self) -> bool:
        # Without it the hub goes on honouring the API tokens of somebody whom refresh_user turned away.
        return True

    @default("refresh_pre_spawn")
    def _default_refresh_pre_spawn(self) -> bool:
        return True

    def get_handlers(self, app: Any) -> list[Any]:
        """Called once, while the hub starts: the place to begin what belongs to the hub's own loop."""
        if ensure_admin(self.accounts, self.passwords, self.first_admin, Path(self.first_password_file)):
            self.log.info(
                "Made the first administrator %r; the password is in %s", self.first_admin, self.first_password_file
            )
        self.watch = Watch(app, self.accounts, self.service_url, self.internal_token, self.log)
        self.watch.begin()
        return [*super().get_handlers(app), *page_handlers(self)]

    async def authenticate(self, handler: Any, data: dict[str, Any]) -> dict[str, Any] | None:
        """The hub's model of who signed in, or None for a wrong name or password.

        Raises:
            web.HTTPError: locked out, not approved, disabled, too busy; the login form shows the sentence.
        """
        name = self.normalize_username(str(data.get("username") or "").strip())
        password = str(data.get("password") or "")[: LONGEST_PASSWORD + 1]
        if await self.verify(name, password, handler.request.remote_ip) is None:
            return None
        person = await asyncio.to_thread(self.accounts.person, name)
        if person is None:
            return None
        # Told only to who knows the password, so that it says nothing about names to others.
        if person.state == "pending":
            raise web.HTTPError(403, PENDING)
        if person.state != "active":
            raise web.HTTPError(403, DISABLED)
        self.watch.tell_service(name, disabled=False)
        return {"name": name, "admin": person.admin}

    async def verify(self, name: str, password: str, address: str) -> str | None:
        """`name` when the password is right; counts failures. Raises web.HTTPError when locked out or too busy."""
        wait = await asyncio.to_thread(self.accounts.locked_for, name, address)
        if wait:
            raise web.HTTPError(
                429,
                f"Too many failed attempts. Try again in {in_words(wait)}, or ask your administrator.",
            )
        stored = await asyncio.to_thread(self.accounts.password_hash, name)
        try:
            matches = await self.passwords.matches_soon(stored, password)
        except TooBusy:
            raise web.HTTPError(503, BUSY) from None
        if not matches or stored is None:
            await asyncio.to_thread(self.accounts.failed, name, address)
            return None
        await asyncio.to_thread(self.accounts.succeeded, name, address)
        if self.passwords.outdated(stored):
            fresh = await self.passwords.hash_soon(password)
            await asyncio.to_thread(lambda: self.accounts.set_password(name, fresh, end_sessions=False))
        return name

    def delete_user(self, user: Any) -> None:
        """Somebody who is deleted on the hub's own page must not come back by signing in."""
        try:
            self.accounts.set_state(user.name, "disabled")
        except BadInput as bad:
            self.log.warning("The account of the deleted user stays as it is: %s", bad)

    async def refresh_user(self, user: Any, handler: Any = None) -> bool | dict[str, Any]:
        """Whether the user may go on; asked at most `auth_refresh_age` seconds after the last time."""
        person = await asyncio.to_thread(self.accounts.person, user.name)
        if person is None or person.state != "active":
            return False
        return True if bool(user.admin) == person.admin else {"name": user.name, "admin": person.admin}
