"""Nodes: how one joins, and what its messages change. Each message is one transaction."""

from __future__ import annotations

import hashlib
import logging
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from elara_hub.accounting.events import SERVICE, record
from elara_hub.core import Core, Unit
from elara_hub.database.models import UNRELEASED, DeviceRow, JoinToken, Lease, LeaseDevice, LeasePart, Node
from elara_hub.pool import leases
from elara_hub.pool.certificates import NodeAuthority
from elara_hub.pool.live import Activity
from elara_hub.refusal import Refusal, not_found
from elara_remoting.types import Device, Grant

log = logging.getLogger("elara.nodes")

_SEEN_EVERY = timedelta(seconds=20)
_SENTENCE = 500
"""The most that is kept of a sentence that a node says of itself."""
_END_SENTENCES = {
    "expired": "The lease reached its time limit.",
    "node_stopped": "The node was stopped.",
}


@dataclass(frozen=True)
class NodeLease:
    """A lease as its node reports it."""

    lease_id: str
    grants: tuple[Grant, ...]
    state: str
    activity: Activity

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NodeLease:
        grants = tuple(sorted((Grant.from_json(g) for g in data.get("grants") or []), key=lambda grant: grant.ordinal))
        used = [int(number) for number in data.get("used_bytes") or []]
        ordinals = [grant.ordinal for grant in grants] or list(range(len(used)))
        activity = Activity(
            used_bytes=dict(zip(ordinals, used, strict=False)),
            busy=bool(data.get("busy")),
            last_active=None if data.get("last_active") is None else float(data["last_active"]),
            sessions=int(data.get("sessions") or 0),
        )
        return cls(str(data["lease_id"]).replace("-", ""), grants, str(data.get("state", "")), activity)


def data_ports(session: Session) -> list[str]:
    """Addresses (``host:port``) of the nodes that take connections over TCP, in order."""
    ports = select(Node.data_tcp).where(Node.removed_at.is_(None), Node.data_tcp.is_not(None))
    return sorted({port for port in session.scalars(ports) if port})


def make_join_token(core: Core, unit: Unit, name: str, actor: str) -> str:
    """A one-time token; only its hash is kept, so it can be shown just now and never again."""
    token = secrets.token_urlsafe(32)
    lifetime = timedelta(minutes=core.settings.join_token_minutes)
    unit.session.add(
        JoinToken(
            token_hash=_hash(token), name=name, created_by=actor, created_at=unit.now, expires_at=unit.now + lifetime
        )
    )
    record(unit.session, unit.now, "node.invited", actor, name=name)
    return token


def join(unit: Unit, authority: NodeAuthority, token: str, name: str, public_key_pem: str) -> tuple[str, str]:
    """Spend a join token; returns the new node's id and certificate (PEM).

    Raises:
        Refusal: the token is unknown, spent or too old, or the key is none.
    """
    session = unit.session
    row = session.scalars(select(JoinToken).where(JoinToken.token_hash == _hash(token))).first()
    if row is None or row.used_at is not None or row.expires_at < unit.now:
        raise Refusal(
            "bad_join_token",
            "This join token is not known, was used before, or is too old.",
            "Have an administrator make a new one (elara nodes token).",
            status=403,
        )
    node_id = uuid.uuid4().hex
    certificate = authority.certify(node_id, public_key_pem)
    row.used_at = unit.now
    session.add(Node(id=node_id, name=name, public_key_pem=public_key_pem.strip(), created_at=unit.now))
    session.flush()
    record(session, unit.now, "node.joined", SERVICE, node_id=node_id, name=name, invited_by=row.created_by)
    return node_id, certificate


def admitted(session: Session, node_id: str, public_key_pem: str) -> Node:
    """The node that proved itself with that key.

    Raises:
        Refusal: it was removed, or its row belongs to another key.
    """
    node = session.get(Node, node_id)
    if node is None or node.removed_at is not None or node.public_key_pem.strip() != public_key_pem.strip():
        raise Refusal(
            "node_removed",
            "This node does not belong to the pool any more.",
            "Join it again with a new token (elara nodes token).",
            status=403,
        )
    return node


def remove(core: Core, unit: Unit, node_id: str, actor: str) -> Node:
    """Take a node out of the pool; its leases end, its id is never used again."""
    session = unit.session
    node = session.get(Node, node_id)
    if node is None or node.removed_at is not None:
        raise not_found("node", node_id)
    node.removed_at = unit.now
    session.execute(update(DeviceRow).where(DeviceRow.node_id == node_id).values(usable=False, present=False))
    for lease in _leases_on(session, node_id):
        leases.end(core, unit, lease, "node_removed", f"An administrator took the node {node.name} away.", actor)
    record(session, unit.now, "node.removed", actor, node_id=node_id, name=node.name)
    return node


def arrived(core: Core, unit: Unit, node: Node, hello: dict[str, Any]) -> None:
    """A node's `hello`: what it has, and which leases it still knows. Ends the leases that it lost."""
    last_seen, restarted = node.last_seen, node.boot_id is not None and node.boot_id != hello.get("boot_id")
    node.boot_id = str(hello["boot_id"]) if hello.get("boot_id") else None
    node.agent_version = str(hello["agent_version"]) if hello.get("agent_version") else None
    node.device_users = str(hello["device_users"])[:_SENTENCE] if hello.get("device_users") else None
    node.data_local = hello.get("data_local")
    node.data_tcp = hello.get("data_tcp")
    _store_devices(core, unit, node, hello.get("devices") or [])
    record(unit.session, unit.now, "node.connected", SERVICE, node_id=node.id, restarted=restarted)
    _compare(core, unit, node, hello.get("leases") or [], lost_since=last_seen if restarted else None, first=True)
    node.last_seen = unit.now
    node_id = node.id
    unit.followers.append(lambda: core.live.mark_heard(node_id))
    unit.wake = True


def reported(core: Core, unit: Unit, node: Node, status: dict[str, Any]) -> None:
    """A node's `status`."""
    # A removed node still tells of leases that end there, but nothing it says makes its devices usable again.
    if "devices" in status and node.removed_at is None:
        _store_devices(core, unit, node, status["devices"])
    _compare(core, unit, node, status.get("leases") or [], lost_since=None, first=False)
    if node.last_seen is None or unit.now - node.last_seen > _SEEN_EVERY:
        node.last_seen = unit.now


def left(core: Core, unit: Unit, node_id: str) -> None:
    """The channel is gone: nothing new is placed there; leases live on, for their work does not pass through here."""
    unit.session.execute(update(DeviceRow).where(DeviceRow.node_id == node_id).values(usable=False))
    unit.session.execute(update(Node).where(Node.id == node_id).values(last_seen=unit.now))
    record(unit.session, unit.now, "node.disconnected", SERVICE, node_id=node_id)
    unit.touched |= {lease.id for lease in _leases_on(unit.session, node_id)}


def lease_message(core: Core, unit: Unit, node: Node, message: dict[str, Any]) -> None:
    """`lease_ready`, `lease_failed` or `lease_ended`."""
    lease_id = str(message["lease_id"]).replace("-", "")
    part = unit.session.get(LeasePart, (lease_id, node.id))
    if part is None:
        if message["type"] == "lease_ready":
            unit.tell(node.id, {"type": "lease_stop", "lease_id": lease_id, "reason": "unknown"})
        return
    lease = unit.session.get_one(Lease, lease_id)
    match message["type"]:
        case "lease_ready":
            grants = [Grant.from_json(grant) for grant in message["grants"]]
            _ready(core, unit, lease, part, grants)
        case "lease_failed":
            text = str(message.get("message") or "The node could not start it.")
            leases.end(core, unit, lease, "start_failed", f"The node {node.name} refused the lease: {text}")
        case "lease_ended":
            reason = str(message.get("reason") or "ended")
            sentence = _END_SENTENCES.get(reason, f"The node {node.name} ended the lease ({reason}).")
            leases.end(core, unit, lease, reason, sentence)
            usage = message.get("usage")
            leases.release_part(core, unit, lease, part, usage=usage if isinstance(usage, dict) else None)


def _ready(core: Core, unit: Unit, lease: Lease, part: LeasePart, grants: list[Grant]) -> None:
    if lease.target != "active":
        leases.tell_stop(unit, lease, part.node_id)
        return
    # Before the state says "active": whoever sees that state fetches the grants at once.
    core.live.set_grants(lease.id, grants)
    leases.part_ready(core, unit, lease, part)


def _compare(
    core: Core, unit: Unit, node: Node, reports: list[Any], *, lost_since: datetime | None, first: bool
) -> None:
    """Bring what the node has in line with what the rows say."""
    session = unit.session
    reported_leases = {lease.lease_id: lease for lease in (NodeLease.from_json(entry) for entry in reports)}
    held = session.execute(
        select(LeasePart, Lease)
        .join(Lease, Lease.id == LeasePart.lease_id)
        .where(LeasePart.node_id == node.id, UNRELEASED)
    )
    for part, lease in held.all():
        report = reported_leases.pop(lease.id, None)
        if report is not None:
            core.live.set_activity(lease.id, node.id, report.activity)
            if lease.target != "active":
                leases.tell_stop(unit, lease, node.id, again_after=5.0)
                continue
            if report.grants:
                core.live.set_grants(lease.id, report.grants)
                if report.state == "active":
                    leases.part_ready(core, unit, lease, part)
            if first and lease.state == "active":
                leases.tell_neighbours(core, unit, lease)
        elif lease.target != "active":
            # Its confirmation, with the usage, may have been lost with the old channel: ask for it again.
            part.used_until = part.used_until or lost_since
            leases.tell_stop(unit, lease, node.id, again_after=0.0 if first else 5.0)
        elif part.state == "ready":
            _lost(core, unit, lease, part, node, lost_since)
        elif first:
            leases.tell_start(core, unit, lease, node.id)
    for lease_id in reported_leases:
        # Of a lease that is over for us, or that we never knew: the node shall not keep it.
        unit.tell(node.id, {"type": "lease_stop", "lease_id": lease_id, "reason": "unknown"}, again_after=5.0)


def _lost(core: Core, unit: Unit, lease: Lease, part: LeasePart, node: Node, since: datetime | None) -> None:
    """The node had the lease and has it no more: it was restarted, or ended the lease while it was not connected."""
    over = lease.ends_at is not None and lease.ends_at <= unit.now
    if over:
        leases.end(core, unit, lease, "expired", _END_SENTENCES["expired"])
    else:
        leases.end(
            core, unit, lease, "node_restarted", f"The node {node.name} was restarted, and the devices were lost."
        )
    # Asked by `lease_stop`, the node confirms; an agent that remembers the lease adds its usage. Of a restarted node
    # that does not, it is known only until when it was heard of.
    part.used_until = since


def _store_devices(core: Core, unit: Unit, node: Node, entries: list[Any]) -> None:
    session = unit.session
    devices = [Device.from_json(entry) for entry in entries]
    rows = {row.uuid: row for row in session.scalars(select(DeviceRow).where(DeviceRow.node_id == node.id))}
    before = {key: (row.present, row.healthy, row.usable) for key, row in rows.items()}
    for device in devices:
        if device.memory_bytes <= 0:
            continue
        row = rows.get(device.uuid)
        if row is None:
            row = DeviceRow(node_id=node.id, uuid=device.uuid, used_share=0)
            session.add(row)
        row.ordinal, row.model, row.memory_bytes = device.index, device.model, device.memory_bytes
        row.emulated, row.healthy, row.fault = device.emulated, device.healthy, device.fault
        row.present, row.usable = True, device.healthy
    for key, row in rows.items():
        if key not in {device.uuid for device in devices}:
            row.present = row.usable = False
    session.flush()
    for key, row in rows.items():
        present, healthy, usable = before[key]
        if row.usable and not usable:
            unit.wake = True
        if (present and not row.present) or (healthy and not row.healthy):
            _device_failed(core, unit, node, row)
    if len(rows) != len(devices):
        unit.wake = True


def _device_failed(core: Core, unit: Unit, node: Node, row: DeviceRow) -> None:
    what = row.fault or ("the device is gone" if not row.present else "the device is not healthy")
    record(unit.session, unit.now, "device.failed", SERVICE, node_id=node.id, uuid=row.uuid, fault=what)
    for lease in _leases_on(unit.session, node.id, row.id):
        leases.end(core, unit, lease, "device_lost", f"The device {row.model} on {node.name} failed: {what}.")


def _leases_on(session: Session, node_id: str, device_id: int | None = None) -> list[Lease]:
    query = select(Lease).join(LeaseDevice, LeaseDevice.lease_id == Lease.id)
    query = query.where(LeaseDevice.released_at.is_(None), LeaseDevice.node_id == node_id)
    if device_id is not None:
        query = query.where(LeaseDevice.device_id == device_id)
    return list(session.scalars(query.distinct()))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
