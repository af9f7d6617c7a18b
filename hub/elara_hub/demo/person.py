"""A signed-in person, as far as the hub's own login form and API go."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, Self

import httpx


class SignInFailed(Exception):
    """The hub did not accept the name and the password."""


class Person:
    """Signs in by the login form and then works with an API token of that person.

    Args:
        hub_url: the public address, such as ``http://127.0.0.1:8000``.
    """

    def __init__(self, hub_url: str, name: str, password: str) -> None:
        self.url = hub_url.rstrip("/")
        self.name = name
        self._password = password
        self.token = ""

    async def __aenter__(self) -> Self:
        async with httpx.AsyncClient(base_url=self.url, timeout=60, follow_redirects=True) as browser:
            await browser.get("/hub/login")
            form = {
                "username": self.name,
                "password": self._password,
                "_xsrf": browser.cookies.get("_xsrf", path="/hub/"),
            }
            await browser.post("/hub/login", data=form)
            answer = await browser.post(
                f"/hub/api/users/{self.name}/tokens",
                json={"note": "elara demo", "expires_in": 3600},
                headers={"X-XSRFToken": browser.cookies.get("_xsrf", path="/hub/") or ""},
            )
        if answer.status_code not in (200, 201):
            raise SignInFailed(f"{self.name} could not sign in: the hub answered {answer.status_code}")
        self.token = answer.json()["token"]
        self.http = httpx.AsyncClient(
            base_url=self.url, headers={"Authorization": f"token {self.token}"}, timeout=120, follow_redirects=True
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.aclose()

    def workspace_url(self) -> str:
        """The address of the person's default workspace."""
        return f"{self.url}/user/{self.name}/"

    async def start_workspace(self, options: dict[str, Any], limit: float = 180) -> float:
        """Start the default workspace with `options` and return the seconds until it answers.

        Raises:
            httpx.HTTPStatusError: the hub refused; the body says why.
            TimeoutError: it did not answer within `limit` seconds.
        """
        began = time.monotonic()
        answer = await self.http.post(f"/hub/api/users/{self.name}/server", json=options)
        answer.raise_for_status()
        while time.monotonic() - began < limit:
            if (await self.http.get(f"/user/{self.name}/api/status")).status_code == 200:
                return time.monotonic() - began
            await asyncio.sleep(0.1)
        raise TimeoutError(f"the workspace of {self.name} did not answer within {limit:.0f} s")

    async def stop_workspace(self, limit: float = 60) -> None:
        """Stop the default workspace and wait until the hub says that it is gone."""
        began = time.monotonic()
        await self.http.delete(f"/hub/api/users/{self.name}/server")
        while time.monotonic() - began < limit:
            model = (await self.http.get(f"/hub/api/users/{self.name}")).json()
            if not model.get("servers"):
                return
            await asyncio.sleep(0.1)
        raise TimeoutError(f"the workspace of {self.name} did not stop within {limit:.0f} s")
