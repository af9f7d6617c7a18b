"""The node's channel to the service (docs/contracts.md, section 6): dial, prove, report, obey; again and again.

The channel may be down for as long as it likes: leases go on until their time is over.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from elara_remoting import __version__
from elara_remoting.node.certificates import sign_challenge
from elara_remoting.node.identity import Identity
from elara_remoting.node.lease_table import StartRequest, canonical_id
from elara_remoting.node.leases import Message
from elara_remoting.node.node import Node
from elara_remoting.service_client import is_this_machine

log = logging.getLogger(__name__)

REPORT_SECONDS = 2.0
"""Between two reports while there are leases; without any the service says how often."""
_HANDSHAKE_SECONDS = 20.0
_FIRST_BACK_OFF, _LONGEST_BACK_OFF = 0.2, 15.0
_LONGEST_TTL = 10 * 366 * 86400.0
_KEPT_ENDINGS = 1000


class Turned(RuntimeError):
    """The service does not want this node; the text is its sentence."""


class Channel:
    """Keeps the node in touch with the service. `send` from the event loop; `run` until cancelled."""

    def __init__(self, api_url: str, identity: Identity, node: Callable[[], Node]) -> None:
        self._url = channel_url(api_url)
        self._identity = identity
        self._node = node
        self._boot_id = uuid.uuid4().hex
        self._outbox: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._sent = asyncio.Event()
        self._sent.set()
        self._connected = False
        self.welcomed = asyncio.Event()

    def send(self, message: Message) -> None:
        """Send when connected. What happened meanwhile, the next `hello` tells, except for the ends of leases."""
        if self._connected or message["type"] == "lease_ended":
            self._outbox.append(message)
            while len(self._outbox) > _KEPT_ENDINGS and not self._connected:
                self._outbox.popleft()
            self._sent.clear()
            self._wake.set()

    async def flush(self, seconds: float) -> None:
        """Wait until everything has been sent, but not longer than `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds if self._connected else 0):
                await self._sent.wait()

    async def run(self) -> None:
        back_off = _FIRST_BACK_OFF
        while True:
            try:
                await self._one_connection()
                back_off = _FIRST_BACK_OFF
            except Turned as refusal:
                log.error("the service refused this node: %s", refusal)
                back_off = _LONGEST_BACK_OFF
            except (OSError, WebSocketException, TimeoutError, ValueError, KeyError, TypeError) as error:
                log.warning("no channel to the service: %s: %s", type(error).__name__, error)
            if self.welcomed.is_set():
                self.welcomed.clear()
                back_off = _FIRST_BACK_OFF
            # Jitter, so that the nodes of a restarted service do not come all at once.
            await asyncio.sleep(back_off * random.uniform(0.5, 1.0))  # noqa: S311 - no secret depends on it
            back_off = min(back_off * 2, _LONGEST_BACK_OFF)

    async def _one_connection(self) -> None:
        """From dialling to the loss of the connection."""
        proxy: Literal[True] | None = None if is_this_machine(self._url) else True
        async with connect(self._url, open_timeout=_HANDSHAKE_SECONDS, max_size=2**20, proxy=proxy) as socket:
            try:
                async with asyncio.timeout(_HANDSHAKE_SECONDS):
                    challenge = _expect(await _receive(socket), "challenge")
                    hello = await self._hello(str(challenge["nonce"]))
                    # From here on the outbox fills: what happens now is not in `hello` any more.
                    self._connected = True
                    await socket.send(json.dumps(hello))
                    welcome = _expect(await _receive(socket), "welcome")
                every = _positive(welcome.get("heartbeat_seconds", 10.0), 3600.0)
                self.welcomed.set()
                log.info("connected to %s", self._url)
                await _until_first_ends(self._read(socket), self._write(socket), self._report(every))
            finally:
                self._connected = False
                kept = [message for message in self._outbox if message["type"] == "lease_ended"]
                self._outbox = deque(kept)

    async def _hello(self, nonce: str) -> Message:
        node = self._node()
        devices = await asyncio.to_thread(node.devices)
        # No await below: the leases are reported as they are at the moment from which on the outbox fills.
        return {
            "type": "hello",
            "node_id": self._identity.node_id,
            "certificate_pem": self._identity.certificate_pem,
            "signature": sign_challenge(self._identity.key_pem, nonce),
            "boot_id": self._boot_id,
            "agent_version": __version__,
            "data_local": node.addresses.local,
            "data_tcp": node.addresses.tcp,
            "device_users": node.servers.users.sentence,
            "devices": [device.to_json() for device in devices],
            "leases": node.leases.report(),
        }

    async def _read(self, socket: ClientConnection) -> None:
        while True:
            message = await _receive(socket)
            try:
                self._obey(message)
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                # Its name only: a message of the service could hold anything.
                log.warning("the service sent a %r that makes no sense: %r", message.get("type"), error)

    def _obey(self, message: Message) -> None:
        leases = self._node().leases
        match message.get("type"):
            case "lease_start":
                request = StartRequest.from_json(message)
                _positive(request.ttl_seconds, _LONGEST_TTL)
                leases.start_lease(request)
            case "lease_extend":
                ttl = _positive(message["ttl_seconds"], _LONGEST_TTL)
                leases.extend_lease(canonical_id(message["lease_id"]), ttl)
            case "lease_neighbours":
                named = {int(entry["ordinal"]): str(entry["tcp"]) for entry in message["devices"]}
                leases.set_neighbours(canonical_id(message["lease_id"]), named)
            case "lease_stop":
                leases.stop_lease(canonical_id(message["lease_id"]), str(message.get("reason") or "stopped"))
            case "refused":
                raise Turned(str(message.get("message") or "no reason given"))
            case other:
                log.info("the service sent a %r, which this version does not know", other)

    async def _write(self, socket: ClientConnection) -> None:
        while True:
            while self._outbox:
                # Taken out only once it is sent: the end of a lease must not get lost with the connection.
                await socket.send(json.dumps(self._outbox[0]))
                self._outbox.popleft()
            self._sent.set()
            self._wake.clear()
            await self._wake.wait()

    async def _report(self, every: float) -> None:
        while True:
            node = self._node()
            busy = bool(node.leases.table.rows)
            await asyncio.sleep(min(REPORT_SECONDS, every) if busy else every)
            devices = [device.to_json() for device in await asyncio.to_thread(node.devices)]
            self.send({"type": "status", "devices": devices, "leases": node.leases.report()})


def channel_url(api_url: str) -> str:
    """The WebSocket address that belongs to the API's.

    Raises:
        ValueError: it is not an http or https address.
    """
    parts = urlsplit(api_url)
    schemes = {"http": "ws", "https": "wss"}
    if parts.scheme not in schemes or not parts.netloc:
        raise ValueError(f"{api_url} is not an address of the form https://HOST/services/elara/api/v1")
    return urlunsplit((schemes[parts.scheme], parts.netloc, parts.path.rstrip("/") + "/nodes/channel", "", ""))


async def _receive(socket: ClientConnection) -> Message:
    message = json.loads(await socket.recv())
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message


def _expect(message: Message, kind: str) -> Message:
    if message.get("type") == "refused":
        raise Turned(str(message.get("message") or "no reason given"))
    if message.get("type") != kind:
        raise ValueError(f"a {message.get('type')!r} came where a {kind!r} was due")
    return message


def _positive(value: Any, largest: float) -> float:
    number = float(value)
    if not (math.isfinite(number) and 0 < number <= largest):
        raise ValueError(f"{value!r} is out of range")
    return number


async def _until_first_ends(*work: Awaitable[None]) -> None:
    """Run all, end all when one ends, and raise what it raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
