"""The hub's REST as the service itself uses it: does a user exist, who is in a group."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx

from elara_hub.config import Settings
from elara_hub.refusal import Refusal


class HubApi:
    """Calls with the service's own token. It needs the scopes `list:users`, `read:users:name`, `groups`."""

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = httpx.AsyncClient(
            base_url=settings.hub_api_url.rstrip("/"),
            headers={"Authorization": f"token {settings.hub_api_token}"},
            timeout=10,
            transport=transport,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def user_exists(self, name: str) -> bool:
        """Raises:
        Refusal: (503) the hub cannot be asked.
        """
        answer = await self.call("GET", f"/users/{quote(name, safe='')}")
        if answer.status_code == 404:
            return False
        if answer.is_success:
            return True
        raise Refusal(
            "hub_unreachable",
            f"The hub did not say whether there is a user {name!r} (status {answer.status_code}).",
            "Give the service's role the scope `read:users:name`, or let the user sign in once.",
            status=503,
        )

    async def call(self, method: str, path: str, json: Any = None) -> httpx.Response:
        """Raises:
        Refusal: (503) the hub does not answer.
        """
        try:
            return await self._http.request(method, path, json=json)
        except httpx.HTTPError:
            raise Refusal("hub_unreachable", "The hub does not answer.", "Try again in a moment.", status=503) from None
