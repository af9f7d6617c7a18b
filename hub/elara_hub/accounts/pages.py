"""Pages of accounts below /hub: sign-up, change of password, and the administrator's list."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, Protocol

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from elara_hub.accounts.first import invitation_link, made_password
from elara_hub.accounts.passwords import Passwords, TooBusy
from elara_hub.accounts.rules import BadInput, check_open_name, check_password, in_words
from elara_hub.accounts.store import INVITATION_HOURS, Accounts
from elara_hub.accounts.watch import Watch, end_tokens

SIGN_UP_KEY = "~sign-up"
"""Counts sign-ups of one address like failed sign-ins, so that nobody fills the list."""


class SignIn(Protocol):
    """What the pages need of the authenticator that they belong to."""

    accounts: Accounts
    passwords: Passwords
    watch: Watch
    sign_up: bool
    public_url: str

    async def verify(self, name: str, password: str, address: str) -> str | None:
        """`name` when the password is right. Raises web.HTTPError when locked out or too busy."""
        ...


class AccountsHandler(BaseHandler):  # type: ignore[misc]
    """What the pages share. The hub's own base handler checks the xsrf cookie of every POST."""

    def initialize(self, authenticator: SignIn) -> None:
        self.ours = authenticator

    @property
    def store(self) -> Accounts:
        return self.ours.accounts

    async def show(self, template: str, status: int = 200, **values: Any) -> None:
        self.set_status(status)
        values.setdefault("error", "")
        self.finish(await self.render_template(template, xsrf=self.xsrf_token.decode("ascii"), **values))

    def field(self, name: str, strip: bool = True) -> str:
        return str(self.get_body_argument(name, "", strip=strip))

    def new_password(self, name: str) -> str:
        """The form's new password. Raises BadInput."""
        password = self.field("password", strip=False)
        if password != self.field("repeated", strip=False):
            raise BadInput("The two passwords differ. Type the same one twice.")
        check_password(password, name)
        return password


class SignUpHandler(AccountsHandler):
    """GET and POST /signup: by invitation, or, where it is switched on, to wait for approval."""

    async def get(self) -> None:
        token = str(self.get_query_argument("invitation", ""))
        try:
            await self._check_open(token)
        except BadInput as bad:
            await self.show("signup.html", 403, error=str(bad), closed=True, invitation="", wanted="")
            return
        await self.show("signup.html", closed=False, invitation=token, wanted="")

    async def post(self) -> None:
        token, name = self.field("invitation"), self.field("username").lower()
        try:
            await self._check_open(token)
            check_open_name(name)
            password = self.new_password(name)
            hashed = await self.ours.passwords.hash_soon(password)
            if token:
                await asyncio.to_thread(self.store.accept, token, name, hashed)
            else:
                await self._ask(name, hashed)
        except BadInput as bad:
            await self.show("signup.html", 400, error=str(bad), closed=False, invitation=token, wanted=name)
            return
        except TooBusy:
            raise web.HTTPError(
                503, "Too many people are signing up at this moment. Try again in a few seconds."
            ) from None
        if not token:
            await self.show("signup_waiting.html", wanted=name)
            return
        user = await self.login_user({"username": name, "password": password})
        self.redirect(self.get_next_url(user))

    async def _check_open(self, token: str) -> None:
        if token:
            await asyncio.to_thread(self.store.check_invitation, token)
        elif not self.ours.sign_up:
            raise BadInput("People come here by invitation. Ask your administrator for a link.")

    async def _ask(self, name: str, hashed: str) -> None:
        address = str(self.request.remote_ip)
        wait = await asyncio.to_thread(self.store.locked_for, SIGN_UP_KEY, address)
        if wait:
            raise BadInput(f"Too many accounts were asked for from your address. Try again in {in_words(wait)}.")
        await asyncio.to_thread(self.store.failed, SIGN_UP_KEY, address)
        await asyncio.to_thread(self.store.sign_up, name, hashed)


class PasswordHandler(AccountsHandler):
    """GET and POST /password: one's own, with the current one."""

    @web.authenticated
    async def get(self) -> None:
        await self.show("password.html", done=False)

    @web.authenticated
    async def post(self) -> None:
        user = self.current_user
        try:
            password = self.new_password(user.name)
            if await self.ours.verify(user.name, self.field("current", strip=False), self.request.remote_ip) is None:
                raise BadInput("The current password is wrong.")
            hashed = await self.ours.passwords.hash_soon(password)
            await asyncio.to_thread(lambda: self.store.set_password(user.name, hashed, end_sessions=False))
        except BadInput as bad:
            await self.show("password.html", 400, error=str(bad), done=False)
            return
        except TooBusy:
            raise web.HTTPError(503, "The hub is busy. Try again in a few seconds.") from None
        # Whoever else was signed in under this name is not any more; this browser stays.
        end_tokens(self.db, user, keep_servers=True)
        self.set_login_cookie(user)
        await self.show("password.html", done=True)


class ListHandler(AccountsHandler):
    """GET and POST /accounts: the administrator's list and what can be done to an account."""

    @web.authenticated
    @needs_scope("admin:users")  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        await self._list()

    @web.authenticated
    @needs_scope("admin:users")  # type: ignore[untyped-decorator]
    async def post(self) -> None:
        action, name = self.field("action"), self.field("name")
        try:
            shown = await self._act(action, name)
        except BadInput as bad:
            await self._list(status=400, error=str(bad))
            return
        await self._list(**shown)

    async def _act(self, action: str, name: str) -> dict[str, Any]:
        if action == "invite":
            token = await asyncio.to_thread(
                lambda: self.store.invite(self.current_user.name, admin=self.field("admin") == "1")
            )
            return {"link": invitation_link(self.ours.public_url or self._here(), self.hub.base_url, token)}
        if action in ("approve", "enable"):
            await asyncio.to_thread(self.store.set_state, name, "active")
            return {"done": f"{name} may sign in."}
        if action == "disable":
            if name == self.current_user.name:
                raise BadInput("You cannot disable the account you are signed in with.")
            await asyncio.to_thread(self.store.set_state, name, "disabled")
            await self.ours.watch.look()
            return {"done": f"{name} is shut out: sessions and tokens are ended, workspaces are being stopped."}
        if action == "reset":
            password = made_password()
            hashed = await self.ours.passwords.hash_soon(password)
            await asyncio.to_thread(lambda: self.store.set_password(name, hashed, end_sessions=True))
            return {"done": f"The new password of {name}, shown this once:", "secret": password}
        raise BadInput("There is no such action. Use the buttons of the page.")

    def _here(self) -> str:
        return f"{self.request.protocol}://{self.request.host}"

    async def _list(self, status: int = 200, **values: Any) -> None:
        people = [
            {
                "name": person.name,
                "admin": person.admin,
                "state": person.state,
                "signed_in": _day(person.signed_in_at),
            }
            for person in await asyncio.to_thread(self.store.people)
        ]
        for key in ("link", "done", "secret"):
            values.setdefault(key, "")
        self.set_header("Cache-Control", "no-store")
        await self.show("accounts.html", status, people=people, hours=INVITATION_HOURS, **values)


def page_handlers(authenticator: SignIn) -> list[tuple[str, type[AccountsHandler], dict[str, Any]]]:
    """Routes below /hub."""
    ours = {"authenticator": authenticator}
    return [(r"/signup", SignUpHandler, ours), (r"/password", PasswordHandler, ours), (r"/accounts", ListHandler, ours)]


def _day(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC") if seconds else "never"
