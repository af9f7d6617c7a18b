"""The node agent: a node, its channel to the service, its journal, and an orderly end."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from elara_remoting.attachment import write_private
from elara_remoting.node import identity as identities
from elara_remoting.node.channel import Channel
from elara_remoting.node.data_port import LocalSocket
from elara_remoting.node.devices import DeviceSource
from elara_remoting.node.journal import Journal
from elara_remoting.node.leases import Message
from elara_remoting.node.node import Node, NodeOptions
from elara_remoting.node.servers import ZYGOTE, ServerStartError
from elara_remoting.node.users import AUTOMATIC

log = logging.getLogger(__name__)

JOURNAL_SECONDS = 2.0
_FAREWELL_SECONDS = 2.0
_LONGEST_SOCKET_PATH = 100


@dataclass(frozen=True)
class AgentOptions:
    """How an agent runs. `state` is its folder; `join_token` is used only when the node has no identity yet."""

    api_url: str
    state: Path
    name: str
    join_token: str | None = None
    listen: tuple[str, int] | None = None
    advertise: str | None = None
    socket_group: int | None = None
    threads: int | None = None
    zygote: tuple[str, ...] = ZYGOTE
    device_users: str = AUTOMATIC


class Agent:
    """`run` until cancelled; an orderly end stops every lease and tells the service their usage."""

    def __init__(self, options: AgentOptions, source: DeviceSource) -> None:
        """Take the state folder, and join when the node has no identity yet.

        Raises:
            IdentityError: it cannot; the text says what to do.
        """
        self._state = options.state
        self._lock = identities.lock(options.state)
        try:
            identity = _identity(options)
            socket_path = _socket_path(options.state)
        except BaseException:
            os.close(self._lock)
            raise
        self._socket_folder = socket_path.parent
        self._ready_file = options.state / "ready"
        self._ready_file.unlink(missing_ok=True)
        self._journal = Journal(options.state / "leases.json")
        self.channel = Channel(options.api_url, identity, lambda: self.node)
        local = LocalSocket(socket_path, options.socket_group)
        node_options = NodeOptions(
            local,
            options.listen,
            options.advertise,
            options.threads,
            zygote=options.zygote,
            device_users=options.device_users,
        )
        self.node = Node(source, node_options, emit=self._emit)

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            DataPortError, AtomicsMissing: the node cannot start; the text says what to do.
        """
        former = self._journal.former_leases()
        await self.node.start()
        for confirmation in former:
            # Their device servers died with the agent: the kernel saw to that.
            log.warning("lease %s was lost when the agent ended", confirmation.lease_id)
            self.node.leases.table.remember(confirmation)
        work = [asyncio.create_task(part) for part in (self.channel.run(), self._keep_journal(), self._tell_ready())]
        try:
            # Not gather: it would pass a cancellation on to the channel, which is still needed for the farewell.
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            self._ready_file.unlink(missing_ok=True)
            await self._end(work)

    async def _end(self, work: list[asyncio.Task[None]]) -> None:
        """Stop the leases while the channel still stands, so that their usage is told."""
        channel, *others = work
        for task in others:
            task.cancel()
        await self.node.leases.close("node_stopped")
        await self.channel.flush(_FAREWELL_SECONDS)
        channel.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        self._journal.write({})
        await self.node.close()
        if self._socket_folder != self._state.absolute() / "data":
            with suppress(OSError):
                self._socket_folder.rmdir()
        os.close(self._lock)

    def _emit(self, message: Message) -> None:
        self.channel.send(message)

    async def _keep_journal(self) -> None:
        while True:
            self._journal.write(self.node.leases.usages())
            await asyncio.sleep(JOURNAL_SECONDS)

    async def _tell_ready(self) -> None:
        """Write the `ready` file once the service has welcomed the node and a device server is warm.

        A disk that is full at that moment costs the file, and not the node.
        """
        await self.channel.welcomed.wait()
        while True:
            with suppress(ServerStartError):
                await self.node.wait_warm()
                break
            await asyncio.sleep(1.0)
        log.info("ready: %d device(s)", len(self.node.devices()))
        told = False
        while True:
            try:
                return write_private(self._ready_file, f"{os.getpid()}\n")
            except OSError as error:
                if not told:
                    log.warning("the file %s cannot be written (tried again until it can): %s", self._ready_file, error)
                told = True
            await asyncio.sleep(1.0)


def _identity(options: AgentOptions) -> identities.Identity:
    identity = identities.load(options.state)
    if identity is not None:
        return identity
    if not options.join_token:
        raise identities.IdentityError(
            "This node has not joined a service yet. Get a join token from an administrator and start again "
            "with --join-token-file FILE."
        )
    identity = identities.join(options.state, options.api_url, options.join_token, options.name)
    log.info("joined as node %s", identity.node_id)
    return identity


def _socket_path(state: Path) -> Path:
    """Where the local socket goes: into the state folder, or, where that path is too long, a short one."""
    path = state.absolute() / "data" / "data.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(state.absolute())).hexdigest()[:12]
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    folder = base / f"elara-node-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise identities.IdentityError(
            f"The folder {folder} is not this user's own. Remove it, or choose a shorter --data."
        )
    return folder / "data.sock"
