"""`elara lease` and `elara nodes`. (`elara node` runs a node's agent.)"""

from __future__ import annotations

from typing import Any

import click

from elara_hub.commands.client import Service
from elara_hub.commands.output import show, show_table, with_service
from elara_remoting.types import format_memory, format_share


@click.group()
def lease() -> None:
    """Leases: who holds which devices."""


@lease.command("list")
@click.option("--all", "everything", is_flag=True, help="Ended ones too.")
@with_service
def list_leases(service: Service, everything: bool, as_json: bool) -> None:
    """List leases that you may see."""
    answer = service.call("GET", "/leases")
    shown = [entry for entry in answer["leases"] if everything or entry["state"] != "ended"]
    columns = {"Lease": "id", "State": "state", "User": "user", "Project": "place", "Devices": "what", "Ends": "until"}
    rows = [_row(entry) for entry in shown]
    show_table({"leases": shown}, as_json, rows, columns, "Nobody holds any device.")


@lease.command("end")
@click.argument("lease_id", metavar="LEASE")
@with_service
def end_lease(service: Service, lease_id: str, as_json: bool) -> None:
    """End a lease; its workspace goes on without the devices."""
    answer = service.call("DELETE", f"/leases/{lease_id}")
    show(answer, as_json, f"The lease {lease_id} of {answer['user']} is {answer['state']}.")


@click.group()
def nodes() -> None:
    """Nodes of the pool: list, make a join token, remove."""


@nodes.command("list")
@with_service
def list_nodes(service: Service, as_json: bool) -> None:
    """List nodes and their devices."""
    answer = service.call("GET", "/nodes")
    rows = [
        {"id": node["id"], "name": node["name"], "state": "connected" if node["connected"] else "not connected"}
        | _device(device)
        for node in answer["nodes"]
        for device in node["devices"] or [None]
    ]
    columns = {"Node": "name", "Id": "id", "State": "state", "Device": "model", "Memory": "memory", "Free": "free"}
    show_table(answer, as_json, rows, columns, "No node has joined yet. Make a token: elara nodes token NAME")


@nodes.command("token")
@click.argument("name")
@with_service
def make_token(service: Service, name: str, as_json: bool) -> None:
    """Make a one-time token with which a new node joins; it is shown only now."""
    answer = service.call("POST", "/nodes/join-tokens", {"name": name})
    show(answer, as_json, str(answer["token"]))


@nodes.command("remove")
@click.argument("node_id", metavar="ID")
@click.confirmation_option(prompt="Leases on it end, and it needs a new token to come back. Go on?")
@with_service
def remove_node(service: Service, node_id: str, as_json: bool) -> None:
    """Take a node out of the pool."""
    answer = service.call("DELETE", f"/nodes/{node_id}")
    show(answer, as_json, f"The node {answer['name']} was removed.")


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    devices = entry["devices"]
    what = f"{entry['count']} wanted"
    if devices:
        label = devices[0]["model"] + _label(devices[0])
        what = f"{len(devices)} x {format_share(devices[0]['share'])} {label}"
    return entry | {
        "place": f"{entry['team']}/{entry['project']}",
        "what": what,
        "until": entry["ended_at"] or entry["ends_at"],
    }


def _device(device: dict[str, Any] | None) -> dict[str, Any]:
    if device is None:
        return {}
    return {
        "model": device["model"] + _label(device),
        "memory": format_memory(device["memory_bytes"]),
        "free": format_share(device["free_share"]) if device["free_share"] else "none",
    }


def _label(device: dict[str, Any]) -> str:
    return " emulated (CPU)" if device["emulated"] and "emulated" not in device["model"].lower() else ""
