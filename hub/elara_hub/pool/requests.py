"""What a workspace asks of the pool: a lease, a preview of one, more time. Each is one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from elara_hub.accounting.events import record
from elara_hub.contract import LIVE_STATES
from elara_hub.core import Core, Unit
from elara_hub.database.models import UNFINISHED, WANTED, Lease, LeasePart, Project, Workspace
from elara_hub.pool import leases, refusals
from elara_hub.pool.decide import Ask, Entry, Verdict, serve
from elara_hub.pool.state import entries_of, pool_devices, queued_leases, quotas
from elara_hub.refusal import Refusal


@dataclass(frozen=True)
class Request:
    """What is asked for, as the pool's rules read it."""

    ask: Ask
    minutes: int = 60
    wait: bool = False


def request_lease(core: Core, unit: Unit, workspace: Workspace, request: Request) -> Lease:
    """Grant devices to a workspace, or queue the request when it may wait.

    Raises:
        Refusal: a limit stands in the way; says which, who holds the devices and what can be had instead.
    """
    session = unit.session
    check_request(core, session, workspace, request)
    lease = _new_lease(unit, workspace, request)
    verdict = serve_queue(core, unit, newcomer=lease)
    if verdict.slots:
        return lease
    if verdict.lasting or not request.wait:
        raise refusals.for_verdict(session, workspace.project_id, request.ask, str(verdict.limit))
    record(session, unit.now, "lease.queued", lease.user, lease=lease, limit=verdict.limit)
    unit.followers.append(lambda: core.live.beat(lease.id))
    unit.touched.add(lease.id)
    return lease


def preview(core: Core, session: Session, workspace: Workspace, request: Request) -> None:
    """The same judgement without granting anything.

    Raises:
        Refusal: what `request_lease` would raise now.
    """
    check_request(core, session, workspace, request)
    queue = queued_leases(session)
    entries = [*entries_of(queue), Entry(workspace.project_id, request.ask)]
    verdict = _judge(session, entries)[-1]
    if not verdict.slots:
        raise refusals.for_verdict(session, workspace.project_id, request.ask, str(verdict.limit))


def check_request(core: Core, session: Session, workspace: Workspace, request: Request) -> None:
    """Limits that no device is needed to judge.

    Raises:
        Refusal: one of them is passed.
    """
    project = session.get_one(Project, workspace.project_id)
    if request.minutes > project.max_lease_minutes:
        raise refusals.too_long(project.max_lease_minutes, request.minutes)
    if request.ask.count > core.settings.max_devices_per_lease:
        raise refusals.too_many(core.settings.max_devices_per_lease, request.ask.count)
    live = session.scalars(
        select(Lease).where(UNFINISHED, WANTED, Lease.workspace_id == workspace.id, Lease.state.in_(LIVE_STATES))
    ).first()
    if live is not None:
        raise Refusal(
            "already_attached",
            f"This workspace already has a lease ({live.state}).",
            "Detach it first, or use it: all notebooks of a workspace share it.",
            details={"limit": "workspace", "lease_id": live.id, "holders": [], "free_at": None, "nearest": None},
        )


def serve_queue(core: Core, unit: Unit, newcomer: Lease | None = None) -> Verdict:
    """Grant what can be granted to those who wait, in order; `newcomer` stands last. Returns the last one's verdict."""
    queue = [lease for lease in queued_leases(unit.session) if newcomer is None or lease.id != newcomer.id]
    if newcomer is not None:
        queue.append(newcomer)
    if not queue:
        return Verdict()
    verdicts = _judge(unit.session, entries_of(queue))
    for lease, verdict in zip(queue, verdicts, strict=True):
        if verdict.slots:
            leases.grant(core, unit, lease, verdict.slots)
    return verdicts[-1]


def _judge(session: Session, entries: Sequence[Entry]) -> list[Verdict]:
    known = quotas(session, {entry.project for entry in entries})
    verdicts = serve(entries, pool_devices(session, roomy_for=[entry.ask for entry in entries]), known)
    if all(verdict.slots for verdict in verdicts):
        return verdicts
    # Somebody goes without: to tell which limit it is, and who holds back whom, takes the whole pool.
    return serve(entries, pool_devices(session), known)


def _new_lease(unit: Unit, workspace: Workspace, request: Request) -> Lease:
    lease = Lease(
        id=uuid.uuid4().hex,
        workspace_id=workspace.id,
        project_id=workspace.project_id,
        user=workspace.user,
        server=workspace.server,
        state="queued",
        target="active",
        generation=1,
        count=request.ask.count,
        wanted_share=request.ask.share,
        wanted_memory=request.ask.memory_bytes,
        wanted_model=request.ask.model,
        minutes=request.minutes,
        created_at=unit.now,
    )
    unit.session.add(lease)
    unit.session.flush()
    return lease


def extend(core: Core, unit: Unit, lease: Lease, minutes: int, actor: str) -> None:
    """Move the end of a placed lease; the time ahead may never pass the project's longest lease.

    Raises:
        Refusal: too long, or there is nothing to extend.
    """
    session = unit.session
    if lease.target != "active" or lease.ends_at is None:
        raise Refusal(
            "not_extendable",
            f"This lease cannot be extended: it is {lease.state}.",
            "Attach again." if lease.target == "ended" else "Wait until it has its devices.",
        )
    longest = session.get_one(Project, lease.project_id).max_lease_minutes
    wanted = max(lease.ends_at, unit.now) + timedelta(minutes=minutes)
    latest = unit.now + timedelta(minutes=longest)
    if wanted > latest:
        raise refusals.extension_too_long(longest, most_minutes(lease.ends_at, latest))
    lease.ends_at = wanted
    parts = session.scalars(select(LeasePart).where(LeasePart.lease_id == lease.id, LeasePart.state != "released"))
    for part in parts:
        # Noted before the node hears of it: a share is never thought free too early.
        part.sure_end = max(part.sure_end, leases.sure_end(core, wanted))
        message = {"type": "lease_extend", "lease_id": lease.id, "ttl_seconds": leases.ttl(core, unit.now, lease)}
        unit.tell(part.node_id, message)
    record(session, unit.now, "lease.extended", actor, lease=lease, minutes=minutes)
    unit.touched.add(lease.id)


def most_minutes(ends_at: datetime, latest: datetime) -> int:
    """Whole minutes by which a lease may still be extended."""
    return max(0, int((latest - ends_at).total_seconds() // 60))
