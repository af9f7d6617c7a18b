"""`elara run`: a command with devices attached, for as long as it runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from elara_remoting.cli.options import device_options, exclusive, share_of, share_options

_CONNECT_SECONDS = 5.0


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option(
    "--local",
    "count",
    type=click.IntRange(1, 64),
    metavar="N",
    help="N devices of this machine: its NVIDIA devices, or emulated ones that compute on the CPU where it has none.",
)
@click.option(
    "--from",
    "offer",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="The devices of another machine, as `elara serve` wrote them into FILE there (- reads standard input).",
)
@share_options
@device_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(
    count: int | None,
    offer: Path | None,
    share: int | None,
    memory: int | None,
    device_memory: int | None,
    threads: int | None,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND with devices attached; PyTorch in it sees them as cuda:0, cuda:1, ...

    \b
    elara run --local 2 -- python train.py
    elara run --local 1 -p 1/4 --device-memory 8GiB -- pytest
    elara run --from offer.json -- python train.py

    The devices last as long as the command, whose exit status is returned. No service is needed.
    """
    exclusive(share, memory)
    if (count is None) == (offer is None):
        raise click.UsageError("Say which devices: --local N for this machine's, or --from FILE for another machine's.")
    if not command:
        raise click.UsageError("Say what to run: elara run --local 1 -- COMMAND")
    if "/" not in command[0] and shutil.which(command[0]) is None:
        from elara_remoting.cli.command import not_found

        sys.exit(not_found(command[0]))
    if offer is not None:
        if (share, memory, device_memory, threads) != (None, None, None, None):
            raise click.UsageError("What another machine offers is decided there: --from takes no -p, -m or others.")
        status = asyncio.run(_run_from(read_offer(offer), command))
    else:
        status = asyncio.run(_run_local(count or 1, share, memory, device_memory, threads, command))
    sys.exit(status)


def read_offer(path: Path) -> dict[str, Any]:
    """What `elara serve` wrote.

    Raises:
        click.ClickException: the file cannot be read, or is none.
    """
    try:
        with click.open_file(str(path), encoding="utf-8") as stream:
            offer = json.load(stream)
        if not isinstance(offer, dict) or not isinstance(offer.get("devices"), list) or not offer["devices"]:
            raise ValueError
    except OSError as error:
        raise click.UsageError(f"The file {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise click.UsageError(
            f"{path} is not an offer of devices. Copy the file that `elara serve` wrote on the other machine."
        ) from error
    return offer


async def _run_local(
    count: int,
    share: int | None,
    memory: int | None,
    device_memory: int | None,
    threads: int | None,
    command: tuple[str, ...],
) -> int:
    from elara_remoting.cli import hosting
    from elara_remoting.cli.command import Signals
    from elara_remoting.node.atomics import AtomicsMissing
    from elara_remoting.node.data_port import DataPortError
    from elara_remoting.node.node import Node, NodeOptions
    from elara_remoting.node.servers import ServerStartError

    source = hosting.devices_for(count, device_memory, seed="run")
    part = share_of(share, memory, min(device.memory_bytes for device in source.devices()))
    signals = Signals()
    with hosting.private_folder("run") as folder, hosting.node_log(folder) as log:
        options = NodeOptions(hosting.local_socket(folder), threads=threads, log_stream=log)
        node = Node(source, options, emit=lambda message: None)
        try:
            await node.start()
            await node.wait_warm()
            return await _attached(folder, node.lease_all(part, memory), command, signals)
        except (ServerStartError, DataPortError, AtomicsMissing) as error:
            raise click.ClickException(str(error)) from error
        except asyncio.CancelledError:
            return 128 + (signals.received or 2)
        finally:
            await node.close()


async def _run_from(offer: dict[str, Any], command: tuple[str, ...]) -> int:
    from elara_remoting.cli import hosting
    from elara_remoting.cli.command import Signals

    signals = Signals()
    try:
        await _check_reachable(offer)
        with hosting.private_folder("run") as folder:
            return await _attached(folder, offer, command, signals)
    except asyncio.CancelledError:
        return 128 + (signals.received or 2)


async def _attached(folder: Path, attachment: Mapping[str, Any], command: tuple[str, ...], signals: Any) -> int:
    from elara_remoting.cli.command import run_command
    from elara_remoting.workspace import ServiceError, store_attachment

    try:
        store_attachment(folder, attachment, expires=0)
    except ServiceError as error:
        raise click.UsageError(
            "The offer lacks something that this version needs. Use the same elara-remoting on both machines."
        ) from error
    # The one variable that leads to the devices; a workspace's own folder must not be written to.
    return await run_command(command, {**os.environ, "ELARA_RUNTIME_DIR": str(folder)}, signals)


async def _check_reachable(offer: dict[str, Any]) -> None:
    """Find out before the command starts that nobody is there.

    Raises:
        click.ClickException: nothing answers at an address.
    """
    from elara_remoting.node.addresses import split_address

    for address in {str(device.get("tcp") or "") for device in offer["devices"]} - {""}:
        try:
            host, port = split_address(address, 0)
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, writer = await asyncio.open_connection(host, port)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        except (OSError, ValueError, TimeoutError):
            raise click.ClickException(
                f"Nothing answers at {address}. Is `elara serve` still running there, and the port open to you?"
            ) from None
