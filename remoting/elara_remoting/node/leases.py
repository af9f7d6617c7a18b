"""The leases of a node at work: carries out what the lease table decides, and runs the sessions of each lease."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from elara_remoting.node import lease_table as table
from elara_remoting.node import links, process
from elara_remoting.node.addresses import Addresses
from elara_remoting.node.certificates import LeaseCertificate, lease_certificate
from elara_remoting.node.ledger import Ledger, LedgerFull
from elara_remoting.node.preamble import Kind, Preamble
from elara_remoting.node.refused import Refused
from elara_remoting.node.servers import DeviceServer, DeviceServers, ServerStartError
from elara_remoting.types import WHOLE, Device, Grant

log = logging.getLogger(__name__)

BUSY_SECONDS = 5.0
"""A lease counts as busy this long after its last operator."""
GRACE_SECONDS = 60.0
"""How long a device server keeps a session whose connection was lost, unless the client asks for less."""
REMEMBERED_SESSIONS = 64
STOP_SECONDS = 1.0
"""What a device server gets to end by itself; SIGKILL follows."""

Message = dict[str, Any]
Emit = Callable[[Message], None]


@dataclass
class _Session:
    """One client process on one device. `server` is None while `starting` is at work on it."""

    ordinal: int
    slot: int
    starting: asyncio.Task[Any] | None
    server: DeviceServer | None = None
    linkable: bool = False
    """Whether it was given what it needs to answer device servers of other nodes."""


@dataclass
class _Lease:
    """What the node keeps for a lease while it lives; nothing of it is ever written to disk."""

    secret: str = field(repr=False)
    certificate: LeaseCertificate
    devices: dict[int, table.LeaseDevice]
    ledgers: dict[int, Ledger]
    started_at: float
    sessions: dict[tuple[str, int], _Session] = field(default_factory=dict)
    sessions_begun: int = 0
    neighbours: dict[int, str] = field(default_factory=dict)
    """Of the lease's devices on other nodes, where those nodes' data ports are (host:port)."""
    ended: dict[tuple[str, int], str] = field(default_factory=dict)
    """Why the latest sessions ended, for a client that comes back to one."""


class Leases:
    """All leases of a node. `emit` gets the messages of the node channel that they cause. `close` ends them."""

    def __init__(
        self,
        devices: Sequence[Device],
        servers: DeviceServers,
        addresses: Addresses,
        emit: Emit,
        *,
        threads: int | None = None,
        grace_seconds: float = GRACE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._devices = {device.uuid: device for device in devices}
        self._servers = servers
        self._addresses = addresses
        self._emit = emit
        self._threads = threads or os.cpu_count() or 1
        self._grace_seconds = grace_seconds
        self._clock = clock
        self.table = table.LeaseTable(devices)
        self._leases: dict[str, _Lease] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None

    def start_lease(self, request: table.StartRequest) -> None:
        self._perform(self.table.start(request, self._clock()))

    def extend_lease(self, lease_id: str, ttl_seconds: float) -> None:
        self.table.extend(lease_id, ttl_seconds, self._clock())
        self._arm()

    def stop_lease(self, lease_id: str, reason: str) -> None:
        self._perform(self.table.stop(lease_id, reason))

    async def close(self, reason: str = "node_stopped") -> None:
        """End every lease and wait until nothing is left of them."""
        for lease_id in list(self.table.rows):
            self.stop_lease(lease_id, reason)
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._expiry is not None:
            self._expiry.cancel()

    async def connect(self, preamble: Preamble, connection: socket.socket, *, over_tcp: bool) -> None:
        """Hand a connection over to its session's device server; the caller still closes its own copy.

        Raises:
            Refused: there is no such lease or device, or no room for one more session.
        """
        lease = self._active(preamble.lease_id)
        wanted = lease.devices.get(preamble.ordinal)
        if wanted is None:
            raise Refused(f"Device {preamble.ordinal} of this lease is not on this node. Attach again.")
        if preamble.kind != Kind.COMMANDS:
            raise Refused("This node takes one connection a session and device; it has no bulk connections yet.")
        key = (preamble.session_id, preamble.ordinal)
        if preamble.resume:
            self._resume(lease, key, connection, over_tcp=over_tcp)
            return
        if key in lease.sessions:
            raise Refused("This session already has a connection to the device; a program opens it only once.")
        ledger = lease.ledgers[preamble.ordinal]
        try:
            slot = ledger.take_slot()
            session = _Session(preamble.ordinal, slot, asyncio.current_task(), linkable=bool(lease.neighbours))
        except LedgerFull as error:
            raise Refused(f"No more sessions: {error}. Shut down a kernel that uses the device.") from error
        lease.sessions[key] = session
        try:
            options = self._options(lease, wanted, session, over_tcp=over_tcp)
            client = None if over_tcp else process.pidfd_of_peer(connection)
            descriptors = [connection.fileno(), ledger.fd, *([] if client is None else [client])]
            try:
                server = await self._servers.spawn(
                    descriptors, options, lambda ended: self._session_ended(lease, key, ended.reason)
                )
            finally:
                if client is not None:
                    os.close(client)
        except BaseException as error:
            self._session_ended(lease, key)
            if isinstance(error, ServerStartError):
                raise Refused(str(error)) from error
            raise
        if server.ended.is_set():
            return
        session.server, session.starting = server, None
        ledger.bind(session.slot, server.pid)
        lease.sessions_begun += 1

    def _active(self, lease_id: str) -> _Lease:
        lease, row = self._leases.get(lease_id), self.table.rows.get(lease_id)
        if lease is None or row is None or row.state != table.State.ACTIVE:
            raise Refused("This node has no such lease: it has ended, or the node was restarted. Attach again.")
        return lease

    def set_neighbours(self, lease_id: str, neighbours: dict[int, str]) -> None:
        """Where the lease's devices on other nodes are reached; a lease that is not here is none of this node's."""
        lease = self._leases.get(lease_id)
        if lease is not None:
            lease.neighbours = neighbours

    async def connect_peers(self, preamble: Preamble) -> None:
        """Connect the device servers of one session's two devices: here once, between nodes anew at each call.

        Whoever names a lease and a session may ask for it: all that comes of it is a socket between two processes that
        serve the same client and hold its data already. Between nodes they ask each other for what the client told
        both, and the only addresses that are called are those that the service named.

        Raises:
            Refused: the session is not on both devices, or the other node is not reached.
        """
        lease = self._active(preamble.lease_id)
        first = _server_of(lease, preamble.session_id, preamble.ordinal)
        if preamble.peer_ordinal in lease.neighbours:
            await links.connect_to_neighbour(first, lease.neighbours[preamble.peer_ordinal], preamble)
        else:
            second = _server_of(lease, preamble.session_id, preamble.peer_ordinal)
            links.connect_pair(first, second, preamble)

    def peer_of_link(self, preamble: Preamble, *, over_tcp: bool) -> DeviceServer:
        """Whom a connection from another node is for, which has yet to prove itself to it.

        Raises:
            Refused: the lease has no such neighbour, or the session is not here.
        """
        lease = self._active(preamble.lease_id)
        if not over_tcp or preamble.peer_ordinal not in lease.neighbours:
            raise Refused("This node knows of no such device on another node.")
        server = _server_of(lease, preamble.session_id, preamble.ordinal)
        if not lease.sessions[preamble.session_id, preamble.ordinal].linkable:
            raise Refused("This session began before its node knew of the other one.")
        return server

    def _resume(self, lease: _Lease, key: tuple[str, int], connection: socket.socket, *, over_tcp: bool) -> None:
        """Pass the next connection of a session to its device server, which asks it for the secret.

        Raises:
            Refused: there is no such session (any more).
        """
        session = lease.sessions.get(key)
        if session is None or session.server is None:
            why = lease.ended.get(key)
            raise Refused(f"Its device server has ended{f' ({why})' if why else ''}.")
        if not session.server.hand_over("resume tcp" if over_tcp else "resume local", connection.fileno()):
            raise Refused("Its device server is about to end.")

    def grants(self, lease_id: str) -> list[Grant]:
        """What the lease's workspace needs to connect; holds the secret."""
        lease = self._leases[lease_id]
        return [
            Grant(
                ordinal=device.ordinal,
                device_uuid=device.uuid,
                secret=lease.secret,
                ca_pem=lease.certificate.certificate_pem,
                memory_bytes=device.memory_bytes,
                local=self._addresses.local,
                tcp=self._addresses.tcp,
            )
            for device in lease.devices.values()
        ]

    def usage_now(self, lease_id: str) -> list[Message] | None:
        """Per device `{ordinal, used_bytes, peak_bytes, cap_bytes, sessions}`; None for a lease that is not here."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return None
        readings = [(ordinal, ledger.read()) for ordinal, ledger in lease.ledgers.items()]
        return [
            {
                "ordinal": ordinal,
                "used_bytes": reading.used_bytes,
                "peak_bytes": reading.peak_bytes,
                "cap_bytes": reading.cap_bytes,
                "sessions": reading.sessions,
            }
            for ordinal, reading in readings
        ]

    def server_pids(self, lease_id: str) -> list[int]:
        """The processes of the lease's running sessions."""
        sessions = self._leases[lease_id].sessions.values()
        return [session.server.pid for session in sessions if session.server is not None]

    def report(self) -> list[Message]:
        """The `NodeLease` of each lease, for `hello` and `status`. Holds secrets: it goes over the channel only."""
        return [
            self._report_one(lease_id, lease) for lease_id, lease in self._leases.items() if lease_id in self.table.rows
        ]

    def usages(self) -> dict[str, tuple[int, Message]]:
        """Generation and usage so far of each lease, without any secret: what the agent keeps on disk."""
        return {
            lease_id: (self.table.rows[lease_id].request.generation, self._usage(lease))
            for lease_id, lease in self._leases.items()
            if lease_id in self.table.rows
        }

    def _report_one(self, lease_id: str, lease: _Lease) -> Message:
        row = self.table.rows[lease_id]
        readings = [ledger.read() for ledger in lease.ledgers.values()]
        last = max(reading.activity.last_active_ns for reading in readings) / 1e9
        return {
            "lease_id": lease_id,
            "generation": row.request.generation,
            "state": str(row.state),
            "used_bytes": [reading.used_bytes for reading in readings],
            "cap_bytes": [reading.cap_bytes for reading in readings],
            "sessions": len(lease.sessions),
            "busy": bool(last) and time.time() - last < BUSY_SECONDS,
            "last_active": last or None,
            "grants": [grant.to_json() for grant in self.grants(lease_id)],
        }

    def _options(
        self, lease: _Lease, wanted: table.LeaseDevice, session: _Session, *, over_tcp: bool
    ) -> dict[str, Any]:
        device = self._devices[wanted.uuid]
        # An emulated device's share of compute is its share of this machine's threads; a GPU's is not arbitrated yet.
        threads = max(1, -(-self._threads * wanted.share // WHOLE)) if device.emulated else self._threads
        return {
            "tls_cert": lease.certificate.certificate_pem if over_tcp else "",
            "tls_key": lease.certificate.key_pem if over_tcp else "",
            "peer_cert": lease.certificate.certificate_pem if session.linkable else "",
            "peer_key": lease.certificate.key_pem if session.linkable else "",
            "secret": lease.secret,
            "slot": session.slot,
            "device": "cpu" if device.emulated else "cuda:0",
            "visible": device.uuid,
            "model": device.model,
            "memory_bytes": wanted.memory_bytes,
            "emulated": device.emulated,
            "torch_threads": threads,
            "grace_seconds": self._grace_seconds,
        }

    def _session_ended(self, lease: _Lease, key: tuple[str, int], why: str = "") -> None:
        session = lease.sessions.pop(key, None)
        if session is not None:
            lease.ledgers[session.ordinal].reclaim(session.slot)
            lease.ended[key] = why
            if len(lease.ended) > REMEMBERED_SESSIONS:
                del lease.ended[next(iter(lease.ended))]

    def _perform(self, actions: list[table.Action]) -> None:
        for action in actions:
            match action:
                case table.Prepare():
                    self._prepare(action.request)
                case table.Announce():
                    grants = [grant.to_json() for grant in self.grants(action.lease_id)]
                    self._tell("lease_ready", action.lease_id, action.generation, grants=grants)
                case table.Fail():
                    log.warning("lease %s refused: %s", action.lease_id, action.message)
                    extra = {"reason": action.reason, "message": action.message}
                    self._tell("lease_failed", action.lease_id, action.generation, **extra)
                case table.Stop():
                    task = asyncio.get_running_loop().create_task(self._stop(action.lease_id))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                case table.Confirm():
                    usage = action.usage
                    self._tell("lease_ended", action.lease_id, action.generation, reason=action.reason, usage=usage)
        self._arm()

    def _tell(self, kind: str, lease_id: str, generation: int, **extra: Any) -> None:
        self._emit({"type": kind, "lease_id": lease_id, "generation": generation, **extra})

    def _prepare(self, request: table.StartRequest) -> None:
        host = self._addresses.tcp.rpartition(":")[0] if self._addresses.tcp else None
        ordered = sorted(request.devices, key=lambda device: device.ordinal)
        self._leases[request.lease_id] = _Lease(
            secret=secrets.token_hex(32),
            certificate=lease_certificate(request.lease_id, host),
            devices={device.ordinal: device for device in ordered},
            ledgers={device.ordinal: Ledger(device.memory_bytes) for device in ordered},
            started_at=self._clock(),
        )
        log.info("lease %s: %d device(s)", request.lease_id, len(ordered))
        self._perform(self.table.prepared(request.lease_id, request.generation))

    async def _stop(self, lease_id: str) -> None:
        lease = self._leases[lease_id]
        starting = [session.starting for session in lease.sessions.values() if session.starting is not None]
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        running = [session.server for session in lease.sessions.values() if session.server is not None]
        await self._servers.stop(running, grace=STOP_SECONDS)
        usage = self._usage(lease)
        del self._leases[lease_id]
        for ledger in lease.ledgers.values():
            ledger.close()
        log.info("lease %s ended: %s", lease_id, self.table.rows[lease_id].end_reason)
        self._perform(self.table.stopped(lease_id, usage, self._clock()))

    def _usage(self, lease: _Lease) -> Message:
        seconds = self._clock() - lease.started_at
        readings = [ledger.read() for ledger in lease.ledgers.values()]
        return {
            "seconds": round(seconds, 3),
            "device_seconds": round(seconds * sum(device.share for device in lease.devices.values()) / WHOLE, 3),
            "busy_seconds": round(sum(reading.activity.busy_ns for reading in readings) / 1e9, 3),
            "operators": sum(reading.activity.operators for reading in readings),
            "peak_bytes": [reading.peak_bytes for reading in readings],
            "sessions": lease.sessions_begun,
        }

    def _arm(self) -> None:
        """Set the timer for the next lease to expire."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        deadline = self.table.next_deadline()
        if deadline is not None:
            delay = max(0.0, deadline - self._clock())
            self._expiry = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        self._perform(self.table.expire(self._clock()))


def _server_of(lease: _Lease, session_id: str, ordinal: int) -> DeviceServer:
    """Raises Refused: the session has none on that device of this node."""
    session = lease.sessions.get((session_id, ordinal))
    if session is None or session.server is None:
        raise Refused("There is no such session here to connect with another.")
    return session.server
