"""The Elara service's REST as a workspace uses it, and the one error that every answer but a good one becomes."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from elara_remoting.types import InvalidValue, parse_memory, parse_share

_POLL_SECONDS = 20

Lease = dict[str, Any]


class ServiceError(Exception):
    """The service refused, failed or could not be reached; the text is for the user.

    `reason` is a stable label, `status` the HTTP status (None when there was no answer), `details` what the service
    added.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        next_step: str = "",
        details: Mapping[str, Any] | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.next_step = next_step
        self.details = dict(details or {})
        self.status = status

    def __str__(self) -> str:
        return f"{self.message} {self.next_step}".strip()

    def to_json(self) -> dict[str, Any]:
        """The body that section 7 of the contracts gives an error."""
        return {
            "error": {
                "reason": self.reason,
                "message": self.message,
                "next_step": self.next_step,
                "details": self.details,
            }
        }


@dataclass(frozen=True)
class LeaseRequest:
    """What a user asks for. `share` (thousandths) and `memory_bytes` exclude each other; neither: whole devices."""

    count: int = 1
    share: int | None = None
    memory_bytes: int | None = None
    model: str | None = None
    minutes: int | None = None
    wait: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LeaseRequest:
        """Read a request body.

        Raises:
            ServiceError: (reason `bad_request`) a value cannot be read; says which and what is accepted.
        """
        try:
            if data.get("share") is not None and data.get("memory_bytes") is not None:
                raise InvalidValue("give either a share of the device or an amount of memory, not both")
            return cls(
                count=_whole_number("count", data.get("count"), 1),
                share=None if data.get("share") is None else parse_share(data["share"]),
                memory_bytes=None if data.get("memory_bytes") is None else parse_memory(data["memory_bytes"]),
                model=str(data["model"]) if data.get("model") else None,
                minutes=None if data.get("minutes") is None else _whole_number("minutes", data["minutes"], 60),
                wait=bool(data.get("wait", False)),
            )
        except InvalidValue as error:
            text = str(error)
            raise ServiceError("bad_request", f"{text[:1].upper()}{text[1:]}.", "Correct it and try again.") from error

    def to_json(self) -> dict[str, Any]:
        """The body of `POST /leases`; what was left out stays out, so the service's defaults hold."""
        body: dict[str, Any] = {"count": self.count, "wait": self.wait}
        for key in ("share", "memory_bytes", "model", "minutes"):
            value = getattr(self, key)
            if value is not None:
                body[key] = value
        return body


def _whole_number(name: str, value: Any, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidValue(f"{name} must be a whole number of 1 or more")
    try:
        number = int(value)
    except ValueError:
        raise InvalidValue(f"{name} must be a whole number of 1 or more, not {value!r}") from None
    if number < 1:
        raise InvalidValue(f"{name} must be 1 or more, not {number}")
    return number


class WorkspaceClient:
    """The service's REST, as a workspace's own token may use it. Close it, or use it as an async context manager."""

    def __init__(
        self,
        api_url: str,
        token: str,
        *,
        timeout: float = 10.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.api_url = api_url.rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=self.api_url,
            headers={"Authorization": f"token {token}"},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 5.0)),
            transport=transport,
            trust_env=not is_this_machine(self.api_url),
        )

    def __repr__(self) -> str:
        return f"WorkspaceClient({self.api_url!r})"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **options: Any) -> WorkspaceClient:
        """A client from `ELARA_API_URL` and `JUPYTERHUB_API_TOKEN`.

        Raises:
            ServiceError: (reason `not_a_workspace`) one of them is missing.
        """
        environment = os.environ if environment is None else environment
        api_url, token = environment.get("ELARA_API_URL"), environment.get("JUPYTERHUB_API_TOKEN")
        if not api_url or not token:
            raise ServiceError(
                "not_a_workspace",
                "This is not an Elara workspace, so there is no service to ask for devices.",
                "Open a workspace from the hub's page, or use `elara run --local 1 -- COMMAND` for local devices.",
            )
        return cls(api_url, token, **options)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def me(self) -> dict[str, Any]:
        return await self._call("GET", "/me")

    async def pool(self) -> dict[str, Any]:
        return await self._call("GET", "/pool")

    async def preview(self, request: LeaseRequest) -> dict[str, Any]:
        return await self._call("POST", "/leases/preview", json=request.to_json())

    async def request_lease(self, request: LeaseRequest) -> Lease:
        """`POST /leases`; the answer may still be queued or starting."""
        return await self._call("POST", "/leases", json=request.to_json(), limit=30.0)

    async def lease(self, lease_id: str, *, wait_for: str | None = None, hold_seconds: int = _POLL_SECONDS) -> Lease:
        """`GET /leases/{id}`; with `wait_for` the service holds the answer until that state, or `hold_seconds`."""
        if wait_for is None:
            return await self._call("GET", f"/leases/{lease_id}")
        parameters = {"wait_for": wait_for, "timeout": hold_seconds}
        return await self._call("GET", f"/leases/{lease_id}", params=parameters, limit=hold_seconds + 10.0)

    async def attachment(self, lease_id: str) -> dict[str, Any]:
        """`GET /leases/{id}/attachment`: holds secrets, so it goes to `write_attachment` and nowhere else."""
        return await self._call("GET", f"/leases/{lease_id}/attachment")

    async def heartbeat(self, lease_id: str) -> Lease:
        return await self._call("POST", f"/leases/{lease_id}/heartbeat", json={})

    async def extend(self, lease_id: str, minutes: int) -> Lease:
        return await self._call("POST", f"/leases/{lease_id}/extend", json={"minutes": minutes})

    async def end(self, lease_id: str) -> Lease:
        return await self._call("DELETE", f"/leases/{lease_id}")

    async def _call(self, method: str, path: str, *, limit: float | None = None, **options: Any) -> dict[str, Any]:
        if limit is not None:
            options["timeout"] = limit
        try:
            response = await self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise ServiceError(
                "service_unreachable",
                f"The Elara service at {self.api_url} does not answer ({type(error).__name__}).",
                "Devices that are attached keep working. Try again in a moment; if it lasts, tell your administrator.",
            ) from error
        try:
            body = response.json()
        except ValueError:
            body = None
        if response.is_success and isinstance(body, dict):
            return body
        raise _error_from(response.status_code, body)


def is_this_machine(url: str) -> bool:
    """Whether a URL leads to this very machine: then no proxy of the environment may come between."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _error_from(status: int, body: Any) -> ServiceError:
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict) and error.get("message"):
        return ServiceError(
            str(error.get("reason") or "refused"),
            str(error["message"]),
            str(error.get("next_step") or ""),
            error.get("details") if isinstance(error.get("details"), dict) else None,
            status,
        )
    if status in (401, 403):
        return ServiceError(
            "not_allowed",
            "The Elara service did not accept this workspace's token.",
            "Restart the workspace from the hub's page; if that does not help, tell your administrator.",
            status=status,
        )
    return ServiceError(
        "unexpected_answer",
        f"The Elara service gave an answer that makes no sense here (HTTP status {status}).",
        "Try again in a moment; if it lasts, tell your administrator.",
        status=status,
    )
