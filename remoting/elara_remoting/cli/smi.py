"""`elara smi`: what is attached in this workspace."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from elara_remoting import attachment as attachments
from elara_remoting.attachment import ATTACHED, LOST, Attachment
from elara_remoting.types import format_memory, format_share

_USAGE_SECONDS = 2.0
_UNKNOWN = "not known"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def smi(as_json: bool) -> None:
    """Show the devices that are attached here, with the memory in use."""
    folder = os.environ.get("ELARA_RUNTIME_DIR")
    state = _read(folder)
    attached = state is not None and state.state == ATTACHED and not _expired(state)
    usage = asyncio.run(_usage(state)) if state is not None and attached else {}
    if as_json:
        click.echo(json.dumps(_as_json(state, attached, usage), indent=2))
        return
    if state is None or not attached:
        click.echo(_nothing(folder, state))
        return
    _print_table(state, usage)


def _read(folder: str | None) -> Attachment | None:
    if not folder:
        return None
    try:
        return attachments.read(Path(folder))
    except (attachments.MalformedAttachment, OSError) as error:
        raise click.ClickException(
            f"The attachment of this workspace cannot be read ({error}). Detach and attach again."
        ) from error


def _expired(state: Attachment) -> bool:
    return state.expires != 0 and state.expires <= time.time()


def _nothing(folder: str | None, state: Attachment | None) -> str:
    """Why there is no device, and what to do."""
    if not folder:
        return (
            "No device is attached, and this is not an Elara workspace.\n"
            "Run a command with local devices:  elara run --local 1 -- python train.py"
        )
    if state is not None and state.state == ATTACHED:
        what = "No device is attached: the time of the last attachment is over."
    elif state is not None and state.state == LOST:
        what = f"No device is attached: the last one was lost{_because(state)}."
    else:
        what = "No device is attached."
    how = "Attach one:  elara attach  (or the Attach GPU button of a notebook)"
    if not os.environ.get("ELARA_API_URL"):
        how = "Run a command with local devices:  elara run --local 1 -- python train.py"
    return f"{what}\n{how}"


def _because(state: Attachment) -> str:
    return f" ({state.reason})" if state.reason else ""


async def _usage(state: Attachment) -> dict[int, dict[str, Any]]:
    """Memory in use by ordinal: asked of the node on this machine, else of the service; empty where neither tells."""
    found: dict[int, dict[str, Any]] = {}
    for path in {device.local for device in state.devices if device.local}:
        for entry in await _ask_node(path, state.lease):
            found[int(entry["ordinal"])] = entry
    if len(found) < len(state.devices):
        for entry in await _ask_service(state.lease):
            if entry.get("used_bytes") is not None:
                found.setdefault(int(entry["ordinal"]), {"used_bytes": int(entry["used_bytes"])})
    return found


async def _ask_node(path: str, lease_id: str) -> list[dict[str, Any]]:
    from elara_remoting.node.preamble import USAGE_MAGIC, Kind, Preamble

    try:
        async with asyncio.timeout(_USAGE_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(Preamble(Kind.USAGE, 0, lease_id, "00" * 16).pack())
            head = await reader.readexactly(len(USAGE_MAGIC) + 2)
            body = await reader.readexactly(int.from_bytes(head[-2:], "little"))
            writer.close()
        answer = json.loads(body) if head.startswith(USAGE_MAGIC) else []
    except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
        return []
    return answer if isinstance(answer, list) else []


async def _ask_service(lease_id: str) -> list[dict[str, Any]]:
    if not os.environ.get("ELARA_API_URL") or not os.environ.get("JUPYTERHUB_API_TOKEN"):
        return []
    from elara_remoting.service_client import ServiceError, WorkspaceClient

    try:
        async with WorkspaceClient.from_environment(timeout=_USAGE_SECONDS) as client:
            devices = (await client.lease(lease_id)).get("devices")
            return devices if isinstance(devices, list) else []
    except ServiceError:
        return []


def _as_json(state: Attachment | None, attached: bool, usage: dict[int, dict[str, Any]]) -> dict[str, Any]:
    if state is None or not attached:
        return {"state": "detached" if state is None or state.state == ATTACHED else state.state, "devices": []}
    return {
        "state": state.state,
        "lease_id": state.lease,
        "expires": state.expires or None,
        "devices": [
            {
                "ordinal": device.ordinal,
                "model": device.model,
                "uuid": device.uuid,
                "emulated": device.emulated,
                "share": device.share,
                "memory_bytes": device.memory_bytes,
                "used_bytes": usage.get(device.ordinal, {}).get("used_bytes"),
                "sessions": usage.get(device.ordinal, {}).get("sessions"),
            }
            for device in state.devices
        ],
    }


def _print_table(state: Attachment, usage: dict[int, dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    left = "no end" if not state.expires else f"{max(0, int(state.expires - time.time())) // 60} min left"
    table = Table(title=f"Elara: attached, {left}", title_justify="left", box=box.ROUNDED)
    for name in ("Device", "Model", "Kind"):
        table.add_column(name)
    table.add_column("Share", justify="right")
    table.add_column("Memory", justify="right", no_wrap=True)
    table.add_column("Sessions", justify="right")
    for device in state.devices:
        facts = usage.get(device.ordinal, {})
        used = format_memory(int(facts["used_bytes"])) if "used_bytes" in facts else _UNKNOWN
        table.add_row(
            f"cuda:{device.ordinal}",
            device.model,
            "emulated (CPU)" if device.emulated else "GPU",
            format_share(device.share),
            f"{used} / {format_memory(device.memory_bytes)}",
            str(facts.get("sessions", "")),
        )
    Console(width=None if sys.stdout.isatty() else 110).print(table)
