"""The service's REST as this server extension uses it: what every workspace uses, and a few reads more."""

from __future__ import annotations

from typing import Any

from elara_remoting.workspace import Lease, WorkspaceClient

OPEN_STATES = ("queued", "starting", "active")
"""The states of a lease that is still worth waiting for or keeping."""


class ServiceClient(WorkspaceClient):
    """A `WorkspaceClient` that can also find this workspace's leases again and read the project's limits."""

    async def open_leases(self, server: str) -> list[Lease]:
        """The leases of this user's `server` (the name of the workspace) that have not ended."""
        answer = await self._call("GET", "/leases", params={"mine": "true"})
        leases: list[Lease] = answer.get("leases") or answer.get("items") or []
        return [lease for lease in leases if lease["state"] in OPEN_STATES and (lease.get("server") or "") == server]

    async def quota(self, team: str, project: str) -> dict[str, Any]:
        """`{max_device_share, max_lease_minutes}` of the project."""
        return await self._call("GET", f"/projects/{team}/{project}/quota")
