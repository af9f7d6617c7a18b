"""`/leases`: ask for devices, follow, extend, hand back."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from elara_hub.api.bodies import EmptyBody, LeaseBody, MinutesBody
from elara_hub.auth.guards import Core, FrequentUser, FrequentWorkspaceCaller, User, WorkspaceCaller
from elara_hub.auth.identity import Identity
from elara_hub.database.models import Lease, Project, ProjectMember, Team, TeamMember, Workspace
from elara_hub.pool import leases, requests
from elara_hub.pool.views import attachment_json, lease_json
from elara_hub.refusal import Refusal, not_found
from elara_hub.services import Services
from elara_hub.tenancy.access import attaching_workspace, roles_in_project, running_workspace
from elara_hub.tenancy.permissions import Action, allowed

router = APIRouter(prefix="/leases", tags=["leases"])

LeaseId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="32 hex characters")]
State = Literal["queued", "starting", "active", "ending", "ended"]
_LONGEST_HOLD = 60.0
_MOST_LISTED = 500


@router.post("", status_code=201, summary="Ask for devices, for the calling workspace")
def ask(found: Core, caller: WorkspaceCaller, body: LeaseBody) -> dict[str, Any]:
    core = found.core
    with core.change() as unit:
        workspace = attaching_workspace(unit.session, caller)
        lease = requests.request_lease(core, unit, workspace, body.to_request())
        return lease_json(core, unit.session, [lease])[0]


@router.post("/preview", summary="What the answer to such a request would be now; grants nothing")
def preview(found: Core, caller: FrequentWorkspaceCaller, body: LeaseBody) -> dict[str, Any]:
    with found.core.read() as session:
        workspace = attaching_workspace(session, caller)
        try:
            requests.preview(found.core, session, workspace, body.to_request())
        except Refusal as refusal:
            details = refusal.details
            return {
                "ok": False,
                "reason": refusal.reason,
                "message": refusal.message,
                "next_step": refusal.next_step,
                "nearest": details.get("nearest"),
                "details": details,
            }
    return {"ok": True}


@router.get("", summary="Leases that you may see: yours, and those of projects that you own or lead")
def listing(
    found: Core, user: FrequentUser, mine: bool = False, state: State | None = None
) -> dict[str, list[dict[str, Any]]]:
    with found.core.read() as session:
        return {"leases": lease_json(found.core, session, visible(session, user, mine=mine, state=state))}


@router.get("/{lease_id}", summary="One lease; with `wait_for` the answer is held until that state, or the end")
async def one(
    found: Core,
    user: FrequentUser,
    lease_id: LeaseId,
    wait_for: State | None = None,
    timeout: Annotated[float, Query(ge=0, le=_LONGEST_HOLD, allow_inf_nan=False)] = 20.0,  # noqa: ASYNC109 - the contract's name
) -> dict[str, Any]:
    deadline = time.monotonic() + timeout
    with found.core.waiters.watch(lease_id) as changed:
        while True:
            changed.clear()
            lease = await asyncio.to_thread(_look, found, user, lease_id)
            reached = wait_for is None or lease["state"] in (wait_for, "ended")
            left = deadline - time.monotonic()
            if reached or left <= 0:
                return lease
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                continue


@router.get("/{lease_id}/attachment", summary="Addresses and secret of a lease; for its own workspace only")
async def attachment(found: Core, caller: WorkspaceCaller, lease_id: LeaseId) -> dict[str, Any]:
    # After a restart of the service the grants come back with the node's next hello: wait for it a little.
    deadline = time.monotonic() + 5.0
    with found.core.waiters.watch(lease_id) as changed:
        while True:
            changed.clear()
            content = await asyncio.to_thread(_grants, found, caller, lease_id)
            if content is not None:
                return content
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                await asyncio.wait_for(changed.wait(), min(left, 0.5))
            except TimeoutError:
                continue
    raise Refusal(
        "not_ready",
        "The lease's node is not connected to the service just now, so the addresses are not known.",
        "Try again in a moment.",
        status=503,
    )


@router.post("/{lease_id}/heartbeat", summary="The lease's workspace lives")
def heartbeat(found: Core, caller: FrequentWorkspaceCaller, lease_id: LeaseId, body: EmptyBody) -> dict[str, Any]:
    with found.core.read() as session:
        lease = _of_workspace(session, caller, lease_id)
        _beat(found, lease)
        return lease_json(found.core, session, [lease])[0]


@router.post("/{lease_id}/extend", summary="Prolong a lease of yours")
def extend(found: Core, user: User, lease_id: LeaseId, body: MinutesBody) -> dict[str, Any]:
    core = found.core
    with core.change() as unit:
        lease = _mine(unit.session, user, lease_id)
        requests.extend(core, unit, lease, body.minutes, user.name)
        return lease_json(core, unit.session, [lease])[0]


@router.delete("/{lease_id}", summary="Hand a lease back; asking twice is harmless")
def end(found: Core, user: User, lease_id: LeaseId) -> dict[str, Any]:
    core = found.core
    with core.change() as unit:
        lease = unit.session.get(Lease, lease_id)
        if lease is None or not _may_see(unit.session, user, lease):
            raise not_found("lease", lease_id)
        by_holder = lease.user == user.name
        reason, message = ("detached", "Detached.") if by_holder else ("ended_by", f"Ended by {user.name}.")
        leases.end(core, unit, lease, reason, message, user.name)
        return lease_json(core, unit.session, [lease])[0]


def visible(session: Session, user: Identity, *, mine: bool, state: str | None) -> list[Lease]:
    """Newest first, at most 500."""
    query = select(Lease)
    if mine or user.server is not None:
        query = query.where(Lease.user == user.name)
    elif not user.admin:
        owned = select(ProjectMember.project_id).where(ProjectMember.user == user.name, ProjectMember.role == "owner")
        led = (
            select(Project.id)
            .join(TeamMember, TeamMember.team_id == Project.team_id)
            .where(TeamMember.user == user.name, TeamMember.role == "lead")
        )
        query = query.where(or_(Lease.user == user.name, Lease.project_id.in_(owned), Lease.project_id.in_(led)))
    if user.server is not None:
        # A workspace's own token sees the leases of its own project only.
        here = running_workspace(session, user.name, user.server)
        query = query.where(Lease.project_id == (here.project_id if here is not None else -1))
    if state is not None:
        query = query.where(Lease.state == state)
    return list(session.scalars(query.order_by(Lease.created_at.desc(), Lease.id).limit(_MOST_LISTED)))


def _may_see(session: Session, user: Identity, lease: Lease) -> bool:
    if user.server is not None:
        here = running_workspace(session, user.name, user.server)
        return lease.user == user.name and here is not None and here.project_id == lease.project_id
    if lease.user == user.name:
        return True
    project = session.get_one(Project, lease.project_id)
    team = session.get_one(Team, project.team_id)
    return allowed(Action.END_LEASE, roles_in_project(session, team, project, user))


def _mine(session: Session, user: Identity, lease_id: str) -> Lease:
    lease = session.get(Lease, lease_id)
    if lease is None or lease.user != user.name or not _may_see(session, user, lease):
        raise not_found("lease", lease_id)
    return lease


def _of_workspace(session: Session, caller: Identity, lease_id: str) -> Lease:
    """The lease, if it belongs to the very workspace whose token asks."""
    lease = session.get(Lease, lease_id)
    workspace = None if lease is None else session.get(Workspace, lease.workspace_id)
    if lease is None or workspace is None or (workspace.user, workspace.server) != (caller.name, caller.server):
        raise not_found("lease", lease_id)
    if workspace.stopped_at is not None and lease.state != "ended":
        raise not_found("lease", lease_id)
    return lease


def _beat(found: Services, lease: Lease) -> None:
    if lease.target == "active":
        found.core.live.beat(lease.id)


def _look(found: Services, user: Identity, lease_id: str) -> dict[str, Any]:
    with found.core.read() as session:
        lease = session.get(Lease, lease_id)
        if lease is None or not _may_see(session, user, lease):
            raise not_found("lease", lease_id)
        if user.server == lease.server and user.name == lease.user:
            # Who waits for a lease lives.
            _beat(found, lease)
        return lease_json(found.core, session, [lease])[0]


def _grants(found: Services, caller: Identity, lease_id: str) -> dict[str, Any] | None:
    with found.core.read() as session:
        lease = _of_workspace(session, caller, lease_id)
        if lease.state != "active":
            raise Refusal(
                "not_active",
                f"The lease is {lease.state}, so there is nothing to attach.",
                "Wait until it is active." if lease.target == "active" else "Attach again.",
            )
        return attachment_json(found.core, session, lease)
