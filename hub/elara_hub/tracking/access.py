"""What a token may reach: asked of the service, remembered for a short while."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import httpx

Role = Literal["viewer", "editor", "owner"]
ROLES: tuple[Role, ...] = ("viewer", "editor", "owner")

GRANTED_SECONDS = 10.0
"""How long an answer stands. A member who was removed is out after this time at the latest."""
REFUSED_SECONDS = 5.0
MOST_ANSWERS = 10_000


class ServiceAway(Exception):
    """The service could not be asked. Nobody is let in on an old answer."""


@dataclass(frozen=True)
class Access:
    """Who a token belongs to and the MLflow workspaces (name to role) that it reaches."""

    user: str
    workspaces: dict[str, Role]


class AccessSource(Protocol):
    """Where answers come from."""

    async def access(self, token: str) -> Access | None:
        """The answer for a token; None when nobody has that token. Raises ServiceAway."""
        ...


class ServiceAccess:
    """Asks the service's internal route. It is told the token, never a name, so that a name proves nothing."""

    def __init__(self, url: str, internal_token: str, client: httpx.AsyncClient) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {internal_token}"}
        self._client = client

    async def access(self, token: str) -> Access | None:
        try:
            answer = await self._client.post(self._url, json={"token": token}, headers=self._headers, timeout=10)
        except httpx.HTTPError as error:
            raise ServiceAway(str(error) or type(error).__name__) from error
        if answer.status_code in (400, 403, 404, 422):
            return None
        if answer.status_code == 401:
            # Either our own secret or the user's token was refused; neither lets anybody in.
            return None
        if answer.status_code != 200:
            raise ServiceAway(f"the service answered {answer.status_code}")
        body = answer.json()
        workspaces = {str(name): role for name, role in body.get("workspaces", {}).items() if role in ROLES}
        return Access(user=str(body["user"]), workspaces=workspaces)


class AccessBook:
    """Answers remembered by a digest of the token (a token itself is kept nowhere)."""

    def __init__(self, source: AccessSource, now: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._now = now
        self._answers: dict[bytes, tuple[float, Access | None]] = {}

    async def access(self, token: str) -> Access | None:
        """As AccessSource.access, at most GRANTED_SECONDS old (refusals REFUSED_SECONDS)."""
        key = hashlib.sha256(token.encode()).digest()
        known = self._answers.get(key)
        now = self._now()
        if known is not None and known[0] > now:
            return known[1]
        answer = await self._source.access(token)
        if len(self._answers) >= MOST_ANSWERS:
            self._answers = {k: v for k, v in self._answers.items() if v[0] > now}
            if len(self._answers) >= MOST_ANSWERS:
                self._answers.clear()
        self._answers[key] = (now + (GRANTED_SECONDS if answer else REFUSED_SECONDS), answer)
        return answer
