"""What `GET elara/status` answers: everything the front end shows, put together from the keeper and the service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from elara_remoting.workspace import LeaseRequest, ServiceError
from jupyterlab_elara.keeper import Keeper

DEFAULT_MAX_MINUTES = 8 * 60
"""The longest time on offer while the project's own limit is not known."""

_PATIENCE_SECONDS = 1.5
_LOOK_AGAIN_SECONDS = 10.0
_MAY_ATTACH = ("owner", "editor", "admin", "lead")


class StatusBoard:
    """The status of this workspace.

    `why_not` tells what keeps devices away for good, or is None; `environment` tells what is missing at the moment,
    which the user may install while the server runs.
    """

    def __init__(
        self, keeper: Keeper | None, why_not: str | None, environment: Callable[[], str | None] = lambda: None
    ) -> None:
        self._keeper = keeper
        self._for_good = why_not
        self._environment = environment
        self._missing: str | None = None
        self._looked = float("-inf")
        self._identity: dict[str, Any] = {}
        self._pool: dict[str, Any] | None = None
        self._quota: dict[str, Any] = {}
        self._reads: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    async def read(self, *, with_pool: bool) -> dict[str, Any]:
        """The status as JSON. Answers within about two seconds also when the service hangs, then with what is known."""
        keeper = self._keeper
        if keeper is not None:
            await self._fresh("identity", 30.0, self._read_identity)
            if keeper.lease is not None:
                await self._fresh("lease", 2.0, keeper.refresh)
            if with_pool:
                await self._fresh("pool", 1.0, self._read_pool)
        why_not = self._why_not()
        trouble = keeper.trouble if keeper else None
        return {
            "available": why_not is None,
            "why_not": why_not,
            "project": self._project_name(),
            "role": self._role(),
            "attachment": keeper.lease if keeper else None,
            "pending": keeper.pending if keeper else None,
            "last_end": keeper.last_end if keeper else None,
            "last_request": keeper.last_request if keeper else None,
            "pool": self._pool if with_pool else None,
            "limits": {"max_minutes": int(self._quota.get("max_lease_minutes") or DEFAULT_MAX_MINUTES)},
            "service": {"reachable": trouble is None, "message": sentence(trouble) if trouble else None},
            "notifications": keeper.notices.to_json() if keeper else [],
            "now": datetime.now(UTC).isoformat(),
        }

    async def preview(self, request: LeaseRequest) -> dict[str, Any]:
        """`{ok: true}`, or `{ok: false}` with reason, message, next_step and details.

        Raises:
            ServiceError: there is no service to ask.
        """
        if self._keeper is None:
            raise ServiceError("not_available", self._why_not() or "No GPU can be attached here.", status=409)
        try:
            answer = await self._keeper.call(self._keeper.client.preview(request))
        except ServiceError as error:
            if error.status is None:
                raise
            return {"ok": False, **refusal(error)}
        if answer.get("ok"):
            return {"ok": True}
        details = dict(answer.get("details") or {})
        for key in ("limit", "holders", "free_at", "nearest"):
            if answer.get(key) is not None:
                details.setdefault(key, answer[key])
        return {
            "ok": False,
            "reason": answer.get("reason") or "not_now",
            "message": answer.get("message") or "This cannot be met now.",
            "next_step": answer.get("next_step") or "",
            "details": details,
        }

    def may_attach(self) -> ServiceError | None:
        """Why an attach is refused before the service is asked, or None."""
        why_not = self._why_not()
        return ServiceError("not_available", why_not, status=409) if why_not else None

    def _why_not(self) -> str | None:
        if time.monotonic() - self._looked > _LOOK_AGAIN_SECONDS:
            self._looked, self._missing = time.monotonic(), self._environment()
        return self._for_good or self._missing or self._role_problem()

    async def _fresh(self, name: str, max_age: float, read: Callable[[], Awaitable[None]]) -> None:
        """Read again what is older than `max_age` seconds; waits a moment for it, and no longer."""
        if time.monotonic() - self._reads.get(name, -1e9) < max_age:
            return
        task = self._running.get(name)
        if task is None or task.done():
            task = self._running[name] = asyncio.ensure_future(self._read(name, read))
        await asyncio.wait({task}, timeout=_PATIENCE_SECONDS)

    async def _read(self, name: str, read: Callable[[], Awaitable[None]]) -> None:
        try:
            await read()
        except ServiceError:
            # The keeper has noted it for the page; a pool that may be long out of date is worse than none.
            if name == "pool":
                self._pool = None
            self._reads[name] = time.monotonic() - 1.0
            return
        self._reads[name] = time.monotonic()

    async def _read_identity(self) -> None:
        keeper = self._keeper
        assert keeper is not None
        self._identity = await keeper.call(keeper.client.me())
        place = self._identity.get("workspace") or {}
        if place.get("team") and place.get("project"):
            self._quota = await keeper.call(keeper.client.quota(place["team"], place["project"]))

    async def _read_pool(self) -> None:
        assert self._keeper is not None
        self._pool = await self._keeper.call(self._keeper.client.pool())

    def _project_name(self) -> str | None:
        place = self._identity.get("workspace") or {}
        return f"{place['team']}/{place['project']}" if place.get("team") and place.get("project") else None

    def _role(self) -> str | None:
        if self._identity.get("admin"):
            return "admin"
        role = (self._identity.get("workspace") or {}).get("role")
        return str(role) if role else None

    def _role_problem(self) -> str | None:
        if not self._identity:
            return None
        if self._project_name() is None:
            return (
                "This workspace was not opened in a project, so there is no quota to attach a GPU on. "
                "Stop it and open it again from the hub's page, in a project."
            )
        role = self._role()
        if role is not None and role not in _MAY_ATTACH:
            return (
                f"You are a {role} of {self._project_name()}, and only editors and owners attach GPUs. "
                "Ask an owner of the project for the editor role."
            )
        return None


def sentence(error: ServiceError) -> str:
    """What is wrong and the next step."""
    return f"{_message(error)} {error.next_step}".strip()


def _message(error: ServiceError) -> str:
    # The address of the service is for the log; the reader of a page can do nothing with it.
    return "The Elara service does not answer." if error.reason == "service_unreachable" else error.message


def refusal(error: ServiceError) -> dict[str, Any]:
    """A refusal as the front end reads it."""
    return {
        "reason": error.reason,
        "message": _message(error),
        "next_step": error.next_step,
        "details": error.details,
    }
