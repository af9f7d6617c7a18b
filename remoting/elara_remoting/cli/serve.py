"""`elara serve`: this machine's devices for programs on other machines, without a hub."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import click

from elara_remoting.cli.options import device_options, exclusive, share_of, share_options

DEFAULT_PORT = 7470


@click.command()
@click.option(
    "--listen",
    default=f"127.0.0.1:{DEFAULT_PORT}",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen. For other machines name an address of this one, or 0.0.0.0 for all of them.",
)
@click.option(
    "--advertise",
    metavar="HOST",
    help="The name or address under which other machines reach this one, when it is not the one listened on.",
)
@click.option("--emulate", type=click.IntRange(1, 64), metavar="N", help="Offer N emulated devices (CPU).")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    default=Path("elara-offer.json"),
    show_default=True,
    help="Where to write the offer; it holds the secret, so treat it like a key. - prints it as one line.",
)
@share_options
@device_options
def serve(
    listen: str,
    advertise: str | None,
    emulate: int | None,
    output: Path,
    share: int | None,
    memory: int | None,
    device_memory: int | None,
    threads: int | None,
) -> None:
    """Offer this machine's devices until Ctrl-C.

    \b
    here:   elara serve --listen 0.0.0.0:7470
            (copy elara-offer.json to the other machine, privately)
    there:  elara run --from elara-offer.json -- python train.py

    Connections are encrypted (TLS 1.3, with a certificate made for this offer) and need the offer's secret.
    """
    exclusive(share, memory)
    from elara_remoting.node.addresses import split_address

    try:
        address = split_address(listen, DEFAULT_PORT)
    except ValueError:
        raise click.BadParameter(f"{listen!r} is not HOST:PORT.", param_hint="--listen") from None
    sys.exit(asyncio.run(_serve(address, advertise, emulate, output, share, memory, device_memory, threads)))


async def _serve(
    listen: tuple[str, int],
    advertise: str | None,
    emulate: int | None,
    output: Path,
    share: int | None,
    memory: int | None,
    device_memory: int | None,
    threads: int | None,
) -> int:
    from elara_remoting.cli import hosting
    from elara_remoting.cli.command import Signals
    from elara_remoting.node.atomics import AtomicsMissing
    from elara_remoting.node.data_port import DataPortError
    from elara_remoting.node.devices import DeviceError, find_devices
    from elara_remoting.node.node import Node, NodeOptions
    from elara_remoting.node.servers import ServerStartError

    try:
        source = find_devices(emulate, device_memory, seed="serve")
    except DeviceError as error:
        raise click.UsageError(str(error)) from error
    part = share_of(share, memory, min(device.memory_bytes for device in source.devices()))
    signals = Signals()
    with hosting.private_folder("serve") as folder, hosting.node_log(folder) as log:
        # The local socket is for programs of this machine; they find it by its path in the offer.
        options = NodeOptions(hosting.local_socket(folder), listen, advertise, threads, log)
        node = Node(source, options, emit=lambda message: None)
        try:
            await node.start()
            await node.wait_warm()
            _publish(node.lease_all(part, memory), output)
            for device in node.devices():
                click.echo(f"Offering {device.model}{' [emulated (CPU)]' if device.emulated else ''}", err=True)
            click.echo(
                f"Listening on {node.addresses.tcp}. Ctrl-C ends the offer and every program's use of it.", err=True
            )
            if str(output) != "-":
                click.echo(f"On the other machine: elara run --from {output} -- COMMAND", err=True)
            await asyncio.Event().wait()
        except (ServerStartError, DataPortError, AtomicsMissing) as error:
            raise click.ClickException(str(error)) from error
        except asyncio.CancelledError:
            pass  # asked to end, in the usual way
        finally:
            _withdraw(output)
            await node.close()
    return 0 if signals.received else 1


def _publish(offer: dict[str, Any], output: Path) -> None:
    text = json.dumps(offer)
    if str(output) == "-":
        click.echo(text)
        return
    from elara_remoting.attachment import write_private

    try:
        write_private(output.absolute(), text + "\n")
    except OSError as error:
        raise click.ClickException(
            f"The offer cannot be written to {output}: {error.strerror}. Name another file with -o."
        ) from error


def _withdraw(output: Path) -> None:
    if str(output) != "-":
        output.unlink(missing_ok=True)
