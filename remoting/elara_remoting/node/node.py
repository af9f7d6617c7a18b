"""A node: devices, warm device servers, leases and a data port, put together. It knows nothing of a control plane.

The agent puts the channel to the service on top of it; `elara run --local` and `elara serve` use it as it is.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from elara_remoting.node import atomics
from elara_remoting.node.addresses import Addresses, join_address, own_address
from elara_remoting.node.data_port import DataPort, LocalSocket
from elara_remoting.node.devices import DeviceSource
from elara_remoting.node.lease_table import LeaseDevice, StartRequest
from elara_remoting.node.leases import GRACE_SECONDS, Leases, Message
from elara_remoting.node.servers import ZYGOTE, DeviceServers
from elara_remoting.node.users import AUTOMATIC, DeviceUsers
from elara_remoting.types import Device

log = logging.getLogger(__name__)

_WILDCARDS = ("", "0.0.0.0", "::", "[::]")  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True)
class NodeOptions:
    """How a node runs. `listen` is host and port for clients of other machines, `advertise` the host that they use;
    `threads` is what the device servers may use of the CPU, all of it by default; `device_users` whom they run as
    (`users.DeviceUsers`); `grace_seconds` is how long they wait for a client whose connection was lost (0: not at all).
    """

    local: LocalSocket | None
    listen: tuple[str, int] | None = None
    advertise: str | None = None
    threads: int | None = None
    log_stream: IO[Any] | int | None = None
    zygote: tuple[str, ...] = ZYGOTE
    device_users: str = AUTOMATIC
    grace_seconds: float = GRACE_SECONDS


class Node:
    """`start` opens the data port and begins to warm; `close` ends every lease and leaves no process.

    Raises:
        DeviceUsersError: device servers cannot run as the users that the options name.
    """

    def __init__(self, source: DeviceSource, options: NodeOptions, emit: Callable[[Message], None]) -> None:
        self.source = source
        self._options = options
        self._emit = emit
        gpus = not all(device.emulated for device in source.devices())
        users = DeviceUsers(options.device_users, loads_later=gpus)
        self.servers = DeviceServers(log_stream=options.log_stream, zygote=options.zygote, users=users)
        self.data_port = DataPort()
        self.addresses = Addresses(None, None)
        self._leases: Leases | None = None

    @property
    def leases(self) -> Leases:
        assert self._leases is not None, "the node has not been started"
        return self._leases

    def devices(self) -> list[Device]:
        """The devices with their present health."""
        return self.source.devices()

    async def start(self) -> None:
        """Open the data port and begin to warm a device server.

        Raises:
            DataPortError: an address cannot be used.
            AtomicsMissing: libatomic is not installed.
        """
        atomics.require()
        options = self._options
        try:
            local = self.data_port.open_local(options.local) if options.local is not None else None
            tcp = None
            if options.listen is not None:
                host, _ = options.listen
                port = self.data_port.open_tcp(*options.listen)
                tcp = join_address(options.advertise or (own_address() if host in _WILDCARDS else host), port)
        except BaseException:
            await self.data_port.close()
            raise
        self.addresses = Addresses(local, tcp)
        self._leases = Leases(
            self.devices(),
            self.servers,
            self.addresses,
            self._emit,
            threads=options.threads,
            grace_seconds=options.grace_seconds,
        )
        log.log(logging.INFO if self.servers.users.apart else logging.WARNING, "%s", self.servers.users.sentence)
        await self.servers.start()
        self.data_port.start(self._leases)

    async def close(self, reason: str = "node_stopped") -> None:
        await self.data_port.close()
        if self._leases is not None:
            await self._leases.close(reason)
        await self.servers.close()
        self.source.close()

    def lease_all(self, share: int, memory_bytes: int | None) -> dict[str, Any]:
        """One lease on every device, without end: what `GET /leases/{id}/attachment` of a service would answer.

        `share` in thousandths; `memory_bytes` caps each device, and is the share of its memory by default.
        """
        lease_id = uuid.uuid4().hex
        devices = self.devices()
        caps = [memory_bytes or device.memory_bytes * share // 1000 for device in devices]
        wanted = tuple(
            LeaseDevice(device.uuid, ordinal, share, cap)
            for ordinal, (device, cap) in enumerate(zip(devices, caps, strict=True))
        )
        self.leases.start_lease(StartRequest(lease_id, 1, wanted, None))
        return {
            "lease_id": lease_id,
            "devices": [
                {
                    **grant.to_json(),
                    "uuid": device.uuid,
                    "model": device.model,
                    "emulated": device.emulated,
                    "share": share,
                }
                for grant, device in zip(self.leases.grants(lease_id), devices, strict=True)
            ],
        }

    async def wait_warm(self) -> None:
        await self.servers.wait_warm()
