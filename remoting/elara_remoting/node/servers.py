"""The agent's side of the zygote: keeps one warm, starts device servers through it, and knows when each has ended."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from elara_remoting.node import process
from elara_remoting.node.users import DeviceUsers, DeviceUsersError

log = logging.getLogger(__name__)

ZYGOTE = (sys.executable, "-m", "elara_remoting.node.zygote")
"""The command of a zygote; the number of its channel follows."""
WARM_SECONDS = 120.0
"""How long a zygote may take to import torch (a cold disk) before it is given up."""
SPAWN_SECONDS = 10.0
TERM_SECONDS = 1.0
_PAUSES = (0.05, 0.5, 0.0)
"""After each try to start a device server that failed."""
_MAX_BACK_OFF = 30.0
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TZ")
_KEPT_PREFIXES = ("ELARA_OPERATOR_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "ASAN_", "UBSAN_")


class ServerStartError(RuntimeError):
    """No device server could be started; the text is a sentence for the user of the session."""


@dataclass(eq=False)
class DeviceServer:
    """A running device server. `ended` is set once the kernel has reported its end; `reason` says why where it told."""

    pid: int
    pidfd: int
    control: socket.socket = field(repr=False)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""
    uid: int | None = None
    on_end: Callable[[DeviceServer], None] | None = field(default=None, repr=False)
    peers: set[DeviceServer] = field(default_factory=set, repr=False)
    """Those that it is connected with, for copies between devices."""

    def hand_over(self, what: str, connection: int) -> bool:
        """Pass another connection to the running server; False when it does not take any."""
        if self.ended.is_set():
            return False
        try:
            socket.send_fds(self.control, [what.encode()], [connection])
        except OSError:
            return False  # it ends at this moment, or somebody floods it
        return True

    def signal(self, number: int) -> None:
        """Send a signal; a process that has ended is left alone (a pidfd never names another one)."""
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)


class DeviceServers:
    """Starts and ends device servers. Make one a process; `start` before use, `close` at the end."""

    def __init__(
        self,
        *,
        log_stream: IO[Any] | int | None = None,
        zygote: tuple[str, ...] = ZYGOTE,
        users: DeviceUsers | None = None,
    ) -> None:
        self._log_stream = log_stream
        self.users = users or DeviceUsers()
        self._command = zygote
        self._zygote: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._warm = asyncio.Event()
        self._broken: str | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._servers: set[DeviceServer] = set()
        self._idle: DeviceServer | None = None
        self._filling: asyncio.Task[None] | None = None
        self.warm_seconds: float | None = None

    @property
    def zygote_pid(self) -> int | None:
        return self._zygote.pid if self._zygote is not None else None

    async def start(self) -> None:
        """Begin to warm a zygote; `wait_warm` tells when it is ready."""
        process.adopt_orphans()
        self._keeper = asyncio.create_task(self._keep_zygote(), name="zygote keeper")

    async def wait_warm(self, seconds: float = WARM_SECONDS) -> None:
        """Return once a device server could start at once.

        Raises:
            ServerStartError: it cannot (no core for this torch), or it took longer than `seconds`.
        """
        try:
            async with asyncio.timeout(seconds):
                while not self._warm.is_set():
                    await self._warm.wait()
        except TimeoutError:
            raise ServerStartError(self._broken or "The device server did not get ready in time.") from None
        if self._broken is not None:
            raise ServerStartError(self._broken)

    async def spawn(
        self, descriptors: list[int], options: dict[str, Any], on_end: Callable[[DeviceServer], None]
    ) -> DeviceServer:
        """Start a device server on a connection and return it running.

        `descriptors` stay the caller's: the connection, the ledger and, for a client on this machine, a pidfd of its
        process. `options` are the other arguments of the core's `serve`, `secret` as hex. `on_end` is called once, in
        the event loop, when the process is gone.

        Raises:
            ServerStartError: it did not start.
        """
        starting = asyncio.ensure_future(self._spawn(descriptors, options, on_end))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Whoever wanted it went away: a server that starts all the same must not stay.
            starting.add_done_callback(_kill_unwanted)
            raise

    async def _spawn(
        self, descriptors: list[int], options: dict[str, Any], on_end: Callable[[DeviceServer], None]
    ) -> DeviceServer:
        for pause in _PAUSES:
            server = self._take_idle()
            if server is None:
                await self.wait_warm()
                server = await self._start_idle()
            if server is not None and self._assign(server, descriptors, options):
                server.on_end = on_end
                self._refill()
                return server
            # The zygote died in that moment, most likely: once its keeper has noticed, the next one is waited for.
            await asyncio.sleep(pause)
        raise ServerStartError("The node could not start a device server; its log says why.")

    def _assign(self, server: DeviceServer, descriptors: list[int], options: dict[str, Any]) -> bool:
        """Give a waiting device server its session; False when it is gone."""
        if server.ended.is_set():
            return False
        try:
            server.uid = self.users.take()
        except DeviceUsersError as error:
            raise ServerStartError(str(error)) from error
        order = {"type": "serve", "uid": server.uid, "own_user": self.users.exclusive, **options}
        try:
            socket.send_fds(server.control, [json.dumps(order).encode() + b"\n"], descriptors)
        except OSError:
            server.signal(signal.SIGKILL)
            return False
        return True

    def _take_idle(self) -> DeviceServer | None:
        server, self._idle = self._idle, None
        return server if server is not None and not server.ended.is_set() else None

    def _refill(self) -> None:
        """Have one device server wait for the next session, so that this one need not wait for a fork."""
        if self._idle is None and (self._filling is None or self._filling.done()) and self._channel is not None:
            self._filling = asyncio.create_task(self._fill(), name="device server in reserve")

    async def _fill(self) -> None:
        server = await self._start_idle()
        if self._idle is None:
            self._idle = server
        elif server is not None:
            server.signal(signal.SIGKILL)

    async def _start_idle(self) -> DeviceServer | None:
        """A device server that waits for its session; None when the zygote did not make one."""
        channel = self._channel
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            try:
                if channel is None:
                    raise BrokenPipeError
                socket.send_fds(channel, [b'{"type": "spawn"}\n'], [theirs.fileno()])
            finally:
                theirs.close()
            async with asyncio.timeout(SPAWN_SECONDS):
                data = await asyncio.get_running_loop().sock_recv(ours, 4096)
            if not data:
                raise BrokenPipeError
            pid = int(json.loads(data)["pid"])
            server = DeviceServer(pid, os.pidfd_open(pid), ours)
            self._watch(server)
            return server
        except TimeoutError:
            log.error("the zygote did not start a device server within %.0f s; it is replaced", SPAWN_SECONDS)
            ours.close()
            if channel is self._channel and self._zygote is not None:
                self._zygote.kill()
            return None
        except OSError:
            ours.close()
            return None
        except BaseException:
            ours.close()  # the device server, should there be one, ends by that
            raise

    def _watch(self, server: DeviceServer) -> None:
        self._servers.add(server)
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(server.pidfd)
            with suppress(ChildProcessError):
                server.reason = _how_it_ended(os.waitpid(server.pid, os.WNOHANG)[1])
            with suppress(OSError, ValueError, KeyError):
                server.reason = str(json.loads(server.control.recv(4096))["reason"])
            self.users.give_back(server.uid)
            server.control.close()
            self._servers.discard(server)
            for peer in server.peers:
                peer.peers.discard(server)
            server.ended.set()
            os.close(server.pidfd)
            if server.on_end is not None:
                log.info("device server %d ended%s", server.pid, f": {server.reason}" if server.reason else "")
                server.on_end(server)

        loop.add_reader(server.pidfd, ended)

    async def stop(self, servers: list[DeviceServer], *, grace: float = TERM_SECONDS) -> None:
        """End device servers: SIGTERM, after `grace` seconds SIGKILL; returns when all are gone."""
        for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            for server in servers:
                server.signal(number)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    for server in servers:
                        await server.ended.wait()
                    return

    async def close(self) -> None:
        """End all device servers and the zygote."""
        tasks = [task for task in (self._keeper, self._filling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.stop(list(self._servers), grace=0.2)
        self._end_zygote()

    async def _keep_zygote(self) -> None:
        back_off = 0.1
        while True:
            started = time.monotonic()
            try:
                await self._run_zygote()
            except (OSError, ValueError, KeyError) as error:
                log.error("the zygote failed: %s", error)
            lived = time.monotonic() - started
            # One that lived well and was killed is replaced at once; one that cannot start must not burn the CPU.
            back_off = 0.1 if lived > 30 and self._broken is None else min(back_off * 3, _MAX_BACK_OFF)
            log.warning("the zygote ended; another one starts in %.1f s (running sessions go on)", back_off)
            await asyncio.sleep(back_off)

    async def _run_zygote(self) -> None:
        """One life of a zygote: start, warm, wait for its end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            self._zygote = self._start_zygote(theirs.fileno())
        finally:
            theirs.close()
        loop = asyncio.get_running_loop()
        try:
            try:
                async with asyncio.timeout(WARM_SECONDS):
                    first = await loop.sock_recv(ours, 65536)
            except TimeoutError:
                log.error("the zygote did not get ready within %.0f s", WARM_SECONDS)
                return
            message = json.loads(first) if first else {"type": "gone"}
            if message["type"] == "ready":
                self._channel, self._broken = ours, None
                self.warm_seconds = float(message["warm_seconds"])
                self._warm.set()
                self._refill()
                log.info("warm: torch %s in %.1f s", message["torch"], self.warm_seconds)
                await self._until_closed(ours)
            elif message["type"] == "broken":
                self._broken = f"This node cannot start device servers: {message['message']}"
                log.error("%s", self._broken)
                self._warm.set()  # whoever waits is told
        finally:
            if self._broken is None:
                self._warm.clear()
            self._channel = None
            ours.close()
            self._end_zygote()

    def _start_zygote(self, channel: int) -> subprocess.Popen[bytes]:
        output = self._log_stream if self._log_stream is not None else 2
        return subprocess.Popen(
            [*self._command, str(channel)],
            pass_fds=(channel,),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(),
        )

    @staticmethod
    async def _until_closed(channel: socket.socket) -> None:
        with suppress(OSError):
            while await asyncio.get_running_loop().sock_recv(channel, 65536):
                pass

    def _end_zygote(self) -> None:
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote.wait()
            self._zygote = None


def _environment() -> dict[str, str]:
    """What a device server may know of the agent's environment: no token, no address, nothing of a user."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_ENVIRONMENT or name.startswith(_KEPT_PREFIXES)
    }
    return {**kept, "ELARA_DISABLE": "1", "PYTHONUNBUFFERED": "1"}


def _kill_unwanted(starting: asyncio.Future[DeviceServer]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().signal(signal.SIGKILL)


def _how_it_ended(status: int) -> str:
    """For one that said nothing itself."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit status {code}" if code else ""
    name = signal.Signals(-code).name
    return f"killed by {name}" if -code in (signal.SIGTERM, signal.SIGKILL) else f"crashed: {name}"
