"""`elara node`: the agent of a machine with devices."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from elara_remoting.cli.options import Memory

if TYPE_CHECKING:
    from elara_remoting.node.agent import Agent

DEFAULT_PORT = 7470


@click.command()
@click.option(
    "--api",
    "--join",
    "api_url",
    required=True,
    metavar="URL",
    help="The service's API, like https://gpus.example.org/services/elara/api/v1.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=lambda: Path.home() / ".local" / "state" / "elara-node",
    show_default="~/.local/state/elara-node",
    help="The node's folder: its identity, its journal, its local socket.",
)
@click.option(
    "--name", default=lambda: socket.gethostname(), show_default="the host's name", help="What pages call it."
)
@click.option(
    "--join-token-file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="A file with the one-time token from an administrator (- reads standard input). "
    "The first start needs it; later it may be gone.",
)
@click.option(
    "--token",
    envvar="ELARA_JOIN_TOKEN",
    help="The token itself. Other users of the machine can see it; a file or the variable ELARA_JOIN_TOKEN is better.",
)
@click.option("--emulate", type=click.IntRange(1, 64), metavar="N", help="Offer N emulated devices (CPU).")
@click.option(
    "--device-memory",
    type=Memory(),
    metavar="MEMORY",
    help="The memory of each emulated device, like 2GiB (the default). Does not concern NVIDIA devices.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help=f"Take connections from other machines there (port {DEFAULT_PORT} by default). Without it: this machine only.",
)
@click.option("--advertise", metavar="HOST", help="The name or address under which workspaces reach this machine.")
@click.option("--socket-group", metavar="GROUP", help="Let the members of this group use the local socket too.")
@click.option(
    "--device-users",
    envvar="ELARA_DEVICE_USERS",
    default="auto",
    show_default=True,
    metavar="USERS",
    help="Whom device servers run as when the agent is root: auto (a user id of its own for each session, from 61184 "
    "to 65519), another range like 200000-200999, the name of one account, or agent (the agent's own user). An agent "
    "that is not root says so in its log and goes on as its own user.",
)
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads of a device server. All by default.")
def node(
    api_url: str,
    data: Path,
    name: str,
    join_token_file: Path | None,
    token: str | None,
    emulate: int | None,
    device_memory: int | None,
    listen: str | None,
    advertise: str | None,
    socket_group: str | None,
    device_users: str,
    threads: int | None,
) -> None:
    """Offer this machine's devices to an Elara service, until it is stopped."""
    from elara_remoting.node.addresses import split_address
    from elara_remoting.node.agent import Agent, AgentOptions
    from elara_remoting.node.atomics import AtomicsMissing
    from elara_remoting.node.channel import channel_url
    from elara_remoting.node.data_port import DataPortError
    from elara_remoting.node.devices import DeviceError, find_devices
    from elara_remoting.node.identity import IdentityError
    from elara_remoting.node.users import DeviceUsersError

    _log_to_stderr()
    try:
        channel_url(api_url)
        address = split_address(listen, DEFAULT_PORT) if listen else None
        group = _group_id(socket_group)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    try:
        options = AgentOptions(
            api_url=api_url.rstrip("/"),
            state=data,
            name=name,
            join_token=_read_token(join_token_file) or token,
            listen=address,
            advertise=advertise,
            socket_group=group,
            threads=threads,
            device_users=device_users,
        )
        agent_source = find_devices(emulate, device_memory, seed=str(data.absolute()))
        sys.exit(asyncio.run(_run(lambda: Agent(options, agent_source))))
    except (IdentityError, DataPortError, AtomicsMissing, DeviceError, DeviceUsersError) as error:
        raise click.ClickException(str(error)) from error


async def _run(make: Callable[[], Agent]) -> int:
    from elara_remoting.cli.command import Signals

    signals = Signals()
    agent = make()
    try:
        await agent.run()
    except asyncio.CancelledError:
        if signals.received is None:
            raise
    return 0


def _read_token(path: Path | None) -> str | None:
    if path is None:
        return None
    if str(path) != "-" and not path.exists():
        # A node that has joined needs none; one that has not says so itself.
        return None
    with click.open_file(str(path), encoding="utf-8") as stream:
        return stream.read().strip() or None


def _group_id(name: str | None) -> int | None:
    if name is None:
        return None
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ValueError(f"There is no group {name!r} on this machine") from None


def _log_to_stderr() -> None:
    level = os.environ.get("ELARA_LOG", "INFO").upper()
    known = level if level in ("DEBUG", "INFO", "WARNING", "ERROR") else "INFO"
    logging.basicConfig(level=known, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for noisy in ("websockets", "httpx", "httpcore", "asyncio"):
        # At DEBUG websockets would log every message, and grants hold secrets.
        logging.getLogger(noisy).setLevel(logging.WARNING)
