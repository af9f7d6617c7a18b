"""`elara attach` and `elara detach`: what the notebook's button does, for a terminal of the workspace."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elara_remoting import attachment as attachments
from elara_remoting.attachment import ATTACHED, Attachment
from elara_remoting.cli.options import exclusive, share_options
from elara_remoting.types import format_memory, format_share

if TYPE_CHECKING:
    from elara_remoting.workspace import Lease


@click.command()
@click.option("-n", "--count", type=click.IntRange(1, 64), default=1, show_default=True, help="How many devices.")
@share_options
@click.option("--model", help="Only devices of this model, as the pool names it.")
@click.option("--minutes", type=click.IntRange(1), help="For how long. The service's default when left out.")
@click.option("--wait", is_flag=True, help="Queue for devices that are taken, instead of giving up.")
def attach(
    count: int, share: int | None, memory: int | None, model: str | None, minutes: int | None, wait: bool
) -> None:
    """Attach devices to this workspace: running notebooks see them without a restart."""
    exclusive(share, memory)
    from elara_remoting.workspace import LeaseRequest

    request = LeaseRequest(count, share, memory, model, minutes, wait)
    _run(_attach(_runtime_folder(), request))


@click.command()
def detach() -> None:
    """Hand this workspace's devices back."""
    _run(_detach(_runtime_folder()))


async def _attach(folder: Path, request: Any) -> None:
    from elara_remoting import workspace

    current = attachments.read(folder)
    async with workspace.WorkspaceClient.from_environment() as client:
        if current is not None and current.state == ATTACHED and await _still_there(client, current):
            raise click.ClickException(
                f"{len(current.devices)} device(s) are attached already. Hand them back first: elara detach"
            )
        lease = await workspace.attach(client, folder, request, on_state=_tell_state)
    for device in lease.get("devices") or []:
        kind = "emulated (CPU)" if device["emulated"] else "GPU"
        click.echo(
            f"cuda:{device['ordinal']}  {device['model']}  [{kind}]  share {format_share(int(device['share']))}, "
            f"{format_memory(int(device['memory_bytes']))}"
        )
    click.echo(
        f"Attached until {lease['ends_at']}. Hand back with: elara detach" if lease.get("ends_at") else "Attached."
    )


async def _still_there(client: Any, current: Attachment) -> bool:
    """Whether the lease of the attachment on disk lives; when the service does not know it, it does not."""
    from elara_remoting.workspace import ServiceError

    try:
        lease = await client.lease(current.lease)
    except ServiceError as error:
        if error.status in (403, 404):
            return False
        raise
    return lease["state"] not in ("ending", "ended")


async def _tell_state(lease: Lease) -> None:
    if lease["state"] == "queued":
        place = lease.get("queue_position")
        click.echo(f"Queued{f', number {place}' if place else ''}. Ctrl-C gives the place up.")


async def _detach(folder: Path) -> None:
    from elara_remoting import workspace

    current = attachments.read(folder)
    if current is None or current.state != ATTACHED:
        click.echo("Nothing is attached.")
        return
    async with workspace.WorkspaceClient.from_environment() as client:
        await workspace.release(client, folder, current.lease)
    click.echo(f"Handed back {len(current.devices)} device(s).")


def _runtime_folder() -> Path:
    folder = os.environ.get("ELARA_RUNTIME_DIR")
    if not folder or not os.environ.get("ELARA_API_URL"):
        raise click.UsageError(
            "This is not an Elara workspace. Open one from the hub's page, or run a command with local devices: "
            "elara run --local 1 -- COMMAND"
        )
    return Path(folder)


def _run(work: Coroutine[Any, Any, None]) -> None:
    from elara_remoting.workspace import ServiceError

    try:
        asyncio.run(work)
    except ServiceError as error:
        raise click.ClickException(_sentence(error)) from error
    except attachments.MalformedAttachment as error:
        raise click.ClickException(f"This workspace's attachment cannot be read ({error}). Restart it.") from error
    except KeyboardInterrupt:
        click.echo("Given up; nothing is attached.", err=True)
        sys.exit(130)


def _sentence(error: Any) -> str:
    nearest = error.details.get("nearest")
    hint = ""
    if isinstance(nearest, dict) and "count" in nearest:
        hint = f"\nThis would fit now: elara attach -n {nearest['count']} -p {nearest.get('share', 1000)}"
    return f"{error}{hint}"
