"""Drives leases from what they are to what they shall be: one loop, the same at a start as at any other time."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from sqlalchemy import select, update

from elara_hub.contract import LIVE_STATES
from elara_hub.core import Core, Unit
from elara_hub.database.models import MOVING, UNFINISHED, UNRELEASED, WANTED, DeviceRow, Lease, LeasePart, Node
from elara_hub.pool import leases
from elara_hub.pool.requests import serve_queue

log = logging.getLogger("elara.reconciler")

_RESEND = 5.0


class Reconciler:
    """`prepare` once, then `run` for ever; `tick` is one round and may be called by itself."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._wake = asyncio.Event()

    def prepare(self) -> None:
        """At the service's start: no node is connected yet, and every lease's workspace gets its grace anew."""
        core = self._core
        with core.change() as unit:
            unit.session.execute(update(DeviceRow).values(usable=False))
            held = select(LeasePart.node_id).where(UNRELEASED)
            known = select(Node.id).where(Node.removed_at.is_(None) | Node.id.in_(held))
            core.live.expect(unit.session.scalars(known).all())
            for lease_id in unit.session.scalars(select(Lease.id).where(UNFINISHED, Lease.state.in_(LIVE_STATES))):
                core.live.beat(lease_id)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._core.wake = lambda: _set(loop, self._wake)
        while True:
            self._wake.clear()
            try:
                await self._round()
            except Exception:
                log.exception("a round of the reconciler failed; the next one tries again")
                await asyncio.sleep(self._core.settings.reconcile_seconds)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._core.settings.reconcile_seconds)

    async def _round(self) -> None:
        """One `tick` in a thread. At the service's end it is waited for: nothing is written once that is over."""
        work = asyncio.ensure_future(asyncio.to_thread(self.tick))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work})
            raise

    def tick(self) -> None:
        """One round, in one transaction."""
        core = self._core
        with core.change() as unit:
            self._end_overdue(unit)
            self._end_silent(unit)
            self._end_idle(unit)
            self._end_on_lost_nodes(unit)
            self._drive_parts(unit)
            serve_queue(core, unit)
            # A round's own wake would make it spin; what it started is looked at in the next round.
            unit.wake = False

    def _end_overdue(self, unit: Unit) -> None:
        query = select(Lease).where(UNFINISHED, WANTED, Lease.ends_at <= unit.now)
        for lease in unit.session.scalars(query).all():
            leases.end(self._core, unit, lease, "expired", "The lease reached its time limit.")
        limit = unit.now - timedelta(seconds=self._core.settings.start_timeout)
        starting = select(Lease).where(UNFINISHED, WANTED, Lease.state == "starting", Lease.placed_at <= limit)
        for lease in unit.session.scalars(starting).all():
            message = f"The node did not get the devices ready within {self._core.settings.start_timeout:.0f} seconds."
            leases.end(self._core, unit, lease, "start_timeout", message)

    def _end_silent(self, unit: Unit) -> None:
        for lease_id in self._core.live.silent_longer_than(self._core.settings.heartbeat_grace):
            lease = unit.session.get(Lease, lease_id)
            if lease is None or lease.target != "active":
                self._core.live.forget(lease_id)
                continue
            message = "The workspace gave no sign of life, so its devices were taken back."
            leases.end(self._core, unit, lease, "workspace_lost", message)

    def _end_idle(self, unit: Unit) -> None:
        minutes = self._core.settings.idle_minutes
        if minutes <= 0:
            return
        limit = unit.now - timedelta(minutes=minutes)
        query = select(Lease).where(UNFINISHED, WANTED, Lease.state == "active", Lease.active_at <= limit)
        for lease in unit.session.scalars(query).all():
            activity = self._core.live.activity(lease.id)
            if activity.busy or (activity.last_active is not None and _moment(activity.last_active) > limit):
                continue
            message = f"Nothing was computed on the devices for {minutes} minutes, so they were taken back."
            leases.end(self._core, unit, lease, "idle", message)

    def _end_on_lost_nodes(self, unit: Unit) -> None:
        for node_id in self._core.live.lost_longer_than(self._core.settings.node_loss):
            query = (
                select(Lease, Node.name)
                .join(LeasePart, LeasePart.lease_id == Lease.id)
                .join(Node, Node.id == LeasePart.node_id)
                .where(LeasePart.node_id == node_id, UNRELEASED, WANTED)
            )
            for lease, name in unit.session.execute(query).all():
                message = (
                    f"The node {name} has not been connected for {self._core.settings.node_loss / 60:.0f} minutes."
                )
                leases.end(self._core, unit, lease, "node_lost", message)

    def _drive_parts(self, unit: Unit) -> None:
        query = select(LeasePart, Lease).join(Lease, Lease.id == LeasePart.lease_id).where(MOVING)
        connected = self._core.live.connected()
        # After a restart of the service a node first gets time to say what became of its leases, and when; also one
        # that is connected already and whose first message is still being taken in.
        heard = self._core.live.heard()
        missed = set(self._core.live.lost_longer_than(self._core.settings.node_clock_margin))
        for part, lease in unit.session.execute(query).all():
            if lease.target == "active":
                if part.node_id in connected:
                    leases.tell_start(self._core, unit, lease, part.node_id, again_after=_RESEND)
            elif part.sure_end <= unit.now and part.node_id in (heard | missed):
                leases.release_part(self._core, unit, lease, part, presumed=True)
            else:
                leases.tell_stop(unit, lease, part.node_id, again_after=_RESEND)


def _moment(unix_seconds: float) -> datetime:
    return datetime.fromtimestamp(unix_seconds, UTC)


def _set(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with suppress(RuntimeError):  # at the end of the service its loop is closed already
        loop.call_soon_threadsafe(event.set)
