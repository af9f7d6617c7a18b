"""The service's internal routes, as the hub calls them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from elara_hub.contract import API_PREFIX, server_to_path
from elara_spawner.choice import Membership, as_record
from elara_spawner.workspace import Choice


class ServiceRefusal(Exception):
    """The service said no, or could not be asked. The text is for the user."""

    def __init__(self, reason: str, message: str, status: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status


@dataclass(frozen=True)
class SpawnOptions:
    """What a user may choose from. `pool` is the answer of ``GET /pool``, `last` the last choice."""

    memberships: list[Membership] = field(default_factory=list)
    pool: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] | None = None


@dataclass(frozen=True)
class Started:
    """The service's answer to the record of a start. `handle` names the project's volume and is never used again."""

    mlflow_workspace: str
    role: str
    handle: str


class Service:
    """Calls the internal routes at `url` (the service's own address, not the proxy's) with the hub's own secret."""

    def __init__(self, url: str, token: str, timeout: float = 8.0) -> None:
        self._base = url.rstrip("/") + API_PREFIX + "/internal"
        self._token = token
        self._timeout = timeout

    async def spawn_options(self, user: str) -> SpawnOptions:
        """Raises ServiceRefusal."""
        body = await self._call("GET", f"/spawn-options/{quote(user, safe='')}")
        memberships = [Membership(p["team"], p["project"], p["role"]) for p in body.get("projects", [])]
        return SpawnOptions(memberships, body.get("pool") or {}, body.get("last_choice"))

    async def started(self, user: str, server: str, choice: Choice) -> Started:
        """Record the start of a workspace. Raises ServiceRefusal, also for who is no member of the project."""
        body = await self._call("PUT", self._workspace(user, server), as_record(choice))
        return Started(body["mlflow_workspace"], body["role"], body["handle"])

    async def stopped(self, user: str, server: str) -> None:
        """Record the stop of a workspace, which ends its leases. Raises ServiceRefusal."""
        await self._call("DELETE", self._workspace(user, server))

    async def data_ports(self) -> list[str]:
        """The data ports of the pool's nodes, as ``host:port``. Raises ServiceRefusal."""
        return [str(port) for port in (await self._call("GET", "/data-ports"))["data_ports"]]

    async def user(self, name: str, *, disabled: bool) -> None:
        """Tell of a user who signed in, or who was shut out. Raises ServiceRefusal."""
        await self._call("PUT", f"/users/{quote(name, safe='')}", {"disabled": disabled})

    @staticmethod
    def _workspace(user: str, server: str) -> str:
        return f"/workspaces/{quote(user, safe='')}/{quote(server_to_path(server), safe='')}"

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            # trust_env: a proxy of the surroundings has no business between two parts of one machine.
            async with httpx.AsyncClient(timeout=self._timeout, trust_env=False) as client:
                answer = await client.request(method, self._base + path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise ServiceRefusal(
                "service_away",
                "Elara's service does not answer, so no workspace can be started now. Try again in a minute; if it "
                "stays so, tell your administrator that the service is down.",
                503,
            ) from error
        if answer.is_success:
            return dict(answer.json()) if answer.content else {}
        raise _refusal(answer)


def _refusal(answer: httpx.Response) -> ServiceRefusal:
    try:
        error = answer.json()["error"]
        text = " ".join(part for part in (error["message"], error.get("next_step")) if part)
        reason = str(error["reason"])
    except (ValueError, KeyError, TypeError):
        text, reason = "", "service_error"
    if answer.status_code in (401, 500, 502) or not text:
        # 401 is about our own secret, and 5xx about the service: neither is the user's to mend.
        return ServiceRefusal(
            reason,
            "Elara's service could not prepare the workspace. Tell your administrator; the service's log says more.",
            503,
        )
    return ServiceRefusal(reason, text, answer.status_code)
