"""`elara up`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from elara_hub.supervisor.problem import UpProblem

DEFAULT_MEMORY = "2GiB"


@click.command()
@click.option(
    "--engine",
    type=click.Choice(["local", "docker"]),
    default="local",
    show_default=True,
    help="What a workspace is: `local`, a process of this user, isolated from nobody; or `docker`, a container with "
    "volumes and a network that keep users apart. It needs a Docker Engine and the images of `elara images build`.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="The public port.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The public address. Anything but 127.0.0.1 lets other machines in; local mode isolates nobody, so do that "
    "only among people who trust one another. Traffic is not encrypted; docs/deploy.md has an installation with TLS.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path("elara-data"),
    show_default=True,
    help="The folder with all state; made when it is not there.",
)
@click.option(
    "--emulate",
    type=click.IntRange(0, 16),
    help="Offer this many emulated devices, which compute on the CPU. Default: 2 where there is no "
    "NVIDIA device, else none.",
)
@click.option("--device-memory", default=DEFAULT_MEMORY, show_default=True, help="Memory of an emulated device.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="The hub's configuration. Default: jupyterhub_config.py."
)
def up(
    engine: str, port: int, host: str, data: Path, emulate: int | None, device_memory: str, config: Path | None
) -> None:
    """Start every part of Elara on this machine, and stop them all with Ctrl-C.

    State lives in one folder, and with --engine docker homes and projects in Docker's volumes. A second start on the
    same folder finds users, projects, notebooks and runs again.
    """
    from elara_hub.supervisor.start import Wanted, run
    from elara_remoting.types import parse_memory

    try:
        memory = parse_memory(device_memory)
    except ValueError as error:
        raise click.BadParameter(f"{error}", param_hint="--device-memory") from error
    wanted = Wanted(
        port=port, host=host, data=data, emulate=emulate, device_memory=memory, config=config, engine=engine
    )
    try:
        asyncio.run(run(wanted, say=click.echo))
    except UpProblem as problem:
        click.secho(str(problem), fg="red", err=True)
        # Threads that wait for a part's last word must not keep the command from ending.
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(1)
