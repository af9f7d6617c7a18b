"""Reading a lease: what the attachment file says of it, how long it lasts, why it ended."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from elara_remoting import attachment as attachments
from elara_remoting.workspace import Lease

_FAULTS = ("node_", "device_", "unknown_lease")
"""How reasons of an end begin that is nobody's wish and no limit."""

_ENDINGS = {
    "expired": "The time of the GPU was up, so it was handed back.",
    "idle": "The GPU was handed back because nothing used it.",
    "workspace_lost": "The GPU was handed back because the service heard nothing from this workspace.",
    "unknown_lease": "The service no longer knows this lease, so its GPU is gone.",
}


def held_in_file(runtime_dir: Path) -> Lease | None:
    """The lease that the attachment file names, with what the file knows of it; None when nothing is attached."""
    try:
        current = attachments.read(runtime_dir)
    except attachments.MalformedAttachment:
        return None
    if current is None or current.state != attachments.ATTACHED or not current.lease:
        return None
    first = current.devices[0] if current.devices else None
    return {
        "id": current.lease,
        "state": "active",
        "count": len(current.devices),
        "share": first.share if first else None,
        "memory_bytes": first.memory_bytes if first else None,
        "devices": [
            {
                "ordinal": device.ordinal,
                "uuid": device.uuid,
                "model": device.model,
                "emulated": device.emulated,
                "node": "",
                "share": device.share,
                "memory_bytes": device.memory_bytes,
                "used_bytes": 0,
            }
            for device in current.devices
        ],
        "ends_at": datetime.fromtimestamp(current.expires, UTC).isoformat() if current.expires else None,
        "busy": False,
        "queue_position": None,
    }


def same_lease(one: object, other: object) -> bool:
    """Whether two lease ids are the same one: the attachment file writes a UUID without its hyphens."""
    return str(one).replace("-", "") == str(other).replace("-", "")


def seconds_left(lease: Mapping[str, Any] | None) -> float | None:
    """Until the lease ends by this machine's clock; None when it does not end by itself."""
    ends_at = (lease or {}).get("ends_at")
    if not ends_at:
        return None
    return (datetime.fromisoformat(str(ends_at)) - datetime.now(UTC)).total_seconds()


def is_loss(lease: Mapping[str, Any]) -> bool:
    """Did the lease end by a fault, and not by its time or somebody's wish?"""
    reason = str(lease.get("end_reason") or "")
    return reason.startswith(_FAULTS)


def why_ended(lease: Mapping[str, Any]) -> tuple[str, str]:
    """The reason label and a sentence for the user."""
    reason = str(lease.get("end_reason") or "ended")
    return reason, str(lease.get("end_message") or _ENDINGS.get(reason) or f"The GPU was handed back ({reason}).")
