"""The node's data port: reads who a connection is for and hands the socket to that session's device server.

The agent is never in the way of the bytes. What it reads is 64 bytes long; everything else here is about those who do
not send them: slowly, never, wrongly, or in great numbers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from elara_remoting.node import preamble as first_bytes
from elara_remoting.node.flood import FloodGuard
from elara_remoting.node.leases import Leases
from elara_remoting.node.preamble import BadPreamble, Kind, Preamble
from elara_remoting.node.refused import Refused

log = logging.getLogger(__name__)

PREAMBLE_SECONDS = 5.0
MAX_HALF_OPEN = 128
"""Connections that have not said yet what they are for; one more drops the oldest of them."""
_LINGER_SECONDS = 1.0
_LONGEST_PATH = 107


class DataPortError(RuntimeError):
    """The data port cannot be opened; the text says why and what to do."""


@dataclass(frozen=True)
class LocalSocket:
    """Where the local socket lies. With a group its members may connect too, else only this user."""

    path: Path
    group_id: int | None = None


class DataPort:
    """Listens on a local socket, on TCP, or both. `open_*` before use, `start` to serve, `close` at the end."""

    def __init__(self) -> None:
        self._listeners: list[tuple[socket.socket, bool]] = []
        self._path: Path | None = None
        self._leases: Leases | None = None
        self._acceptors: list[asyncio.Task[None]] = []
        self._waiting: dict[asyncio.Task[None], None] = {}
        self._strangers = FloodGuard(log)
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def half_open(self) -> int:
        """How many connections have not sent their first bytes yet."""
        return len(self._waiting)

    def open_local(self, where: LocalSocket) -> str:
        """Listen on a local socket and return its path.

        Raises:
            DataPortError: the path is too long, or the folder cannot be written.
        """
        path = where.path
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise DataPortError(
                f"The path {path} is too long for a local socket ({_LONGEST_PATH} bytes at most). "
                "Choose a shorter folder."
            )
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # of a former life: whoever holds the node's lock is the only one here
            before = os.umask(0o177)
            try:
                listener.bind(str(path))
            finally:
                os.umask(before)
            if where.group_id is not None:
                os.chown(path.parent, -1, where.group_id)
                path.parent.chmod(0o710)
                os.chown(path, -1, where.group_id)
                path.chmod(0o660)
        except OSError as error:
            listener.close()
            raise DataPortError(f"The local socket {path} cannot be made: {error.strerror or error}.") from error
        self._path = path
        self._listen(listener, over_tcp=False)
        return str(path)

    def open_tcp(self, host: str, port: int) -> int:
        """Listen on an address (port 0: any free one) and return the port.

        Raises:
            DataPortError: the address is not this machine's, or the port is taken.
        """
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            listener = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise DataPortError(f"{host} is not an address of this machine: {error.strerror or error}.") from error
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            raise DataPortError(
                f"The node cannot listen on {host}:{port}: {error.strerror or error}. Choose another address or port."
            ) from error
        self._listen(listener, over_tcp=True)
        return int(listener.getsockname()[1])

    def _listen(self, listener: socket.socket, *, over_tcp: bool) -> None:
        listener.setblocking(False)
        listener.listen(256)
        self._listeners.append((listener, over_tcp))

    def start(self, leases: Leases) -> None:
        """Serve connections for these leases."""
        self._leases = leases
        for listener, over_tcp in self._listeners:
            self._acceptors.append(asyncio.create_task(self._accept(listener, over_tcp), name="data port"))

    async def close(self) -> None:
        tasks = [*self._acceptors, *self._waiting, *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener, _ in self._listeners:
            listener.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def _accept(self, listener: socket.socket, over_tcp: bool) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                # Out of descriptors, most likely: those that wait will give some back.
                log.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(0.1)
                continue
            connection.setblocking(False)
            task = asyncio.create_task(self._serve(connection, over_tcp))
            self._waiting[task] = None
            task.add_done_callback(self._forget)
            if len(self._waiting) > MAX_HALF_OPEN:
                # An honest client sends its first bytes at once, so the oldest is the least likely to be one.
                oldest = next(iter(self._waiting))
                del self._waiting[oldest]
                oldest.cancel()
                self._strangers.warn(
                    "a connection was refused: more than %d have not said what they are for", MAX_HALF_OPEN
                )

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._waiting.pop(task, None)
        self._connections.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a connection failed", exc_info=task.exception())

    async def _serve(self, connection: socket.socket, over_tcp: bool) -> None:
        with connection:
            try:
                try:
                    async with asyncio.timeout(PREAMBLE_SECONDS):
                        data = await _read_exactly(connection, first_bytes.SIZE)
                except TimeoutError:
                    raise Refused("The connection sent nothing that tells what it is for, and was closed.") from None
                finally:
                    self._not_waiting()
                if data is not None:
                    await self._hand_over(first_bytes.parse(data), connection, over_tcp)
            except (Refused, BadPreamble) as error:
                self._strangers.warn("a connection%s was refused: %s", " over TCP" if over_tcp else "", error)
                await _answer(connection, first_bytes.refusal(str(error)))
            except OSError as error:
                log.debug("a connection broke: %s", error)

    def _not_waiting(self) -> None:
        task = asyncio.current_task()
        if task is not None and task in self._waiting:
            del self._waiting[task]
            self._connections.add(task)

    async def _hand_over(self, preamble: Preamble, connection: socket.socket, over_tcp: bool) -> None:
        assert self._leases is not None
        if preamble.kind == Kind.USAGE:
            # In clear and without the secret, so for those only who may open the local socket.
            usage = None if over_tcp else self._leases.usage_now(preamble.lease_id)
            if usage is None:
                raise Refused("This node tells no usage of that lease.")
            await _answer(connection, first_bytes.usage_answer(json.dumps(usage)))
            return
        if preamble.kind == Kind.PEER:
            await self._leases.connect_peers(preamble)
            await _answer(connection, first_bytes.PEER_ANSWER)
            return
        if over_tcp:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if preamble.kind == Kind.LINK:
            server = self._leases.peer_of_link(preamble, over_tcp=over_tcp)
            # The calling node waits for it; what follows is between the device servers.
            await asyncio.get_running_loop().sock_sendall(connection, first_bytes.PEER_ANSWER)
            connection.setblocking(True)
            server.hand_over(f"link {preamble.peer_ordinal}", connection.fileno())
            return
        connection.setblocking(True)  # as the device server expects it: the flag travels with the socket
        await self._leases.connect(preamble, connection, over_tcp=over_tcp)


async def _read_exactly(connection: socket.socket, size: int) -> bytes | None:
    """`size` bytes and not one more (the rest is the device server's); None when the other side closed before."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        piece = await loop.sock_recv(connection, size - len(data))
        if not piece:
            return None
        data += piece
    return data


async def _answer(connection: socket.socket, data: bytes) -> None:
    """Send, then wait for the other side to close: closing first, with its bytes unread, could take the answer back."""
    loop = asyncio.get_running_loop()
    with suppress(OSError, TimeoutError):
        connection.setblocking(False)
        async with asyncio.timeout(_LINGER_SECONDS):
            await loop.sock_sendall(connection, data)
            connection.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(connection, 4096):
                pass
