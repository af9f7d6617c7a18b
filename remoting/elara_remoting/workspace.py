"""What a workspace does with the Elara service: ask for devices, write the attachment, extend, hand back.

`elara attach` and the JupyterLab server extension both stand on this module, so the two behave alike. Everything that a
user may read is a `ServiceError`: a reason label, a sentence, and the next step.

The order matters: kernels learn of an attachment only after its devices are ready, and of a detach before its device
servers are stopped, so that they see "detached" and not a broken connection.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from elara_remoting import attachment as attachments
from elara_remoting.attachment import ATTACHED, DETACHED, LOST, AttachedDevice, Attachment
from elara_remoting.service_client import Lease, LeaseRequest, ServiceError, WorkspaceClient
from elara_remoting.types import Grant

__all__ = [
    "Lease",
    "LeaseRequest",
    "ServiceError",
    "WorkspaceClient",
    "acquire",
    "attach",
    "expiry",
    "extend",
    "mark_detached",
    "note_expiry",
    "release",
    "store_attachment",
    "store_detached",
    "write_attachment",
]

START_SECONDS = 90.0
"""How long a granted lease may take to become active before it is handed back."""
_DETACH_REASON = "the attachment was detached"

StateCallback = Callable[[Lease], Awaitable[None]]


async def acquire(
    client: WorkspaceClient,
    request: LeaseRequest,
    *,
    on_state: StateCallback | None = None,
    start_seconds: float = START_SECONDS,
) -> Lease:
    """Ask for a lease and wait until it is active; a queued one (`wait`) waits for as long as it takes.

    `on_state` hears of the lease at once and at each change of its state. When the wait is cancelled or fails, the
    lease is handed back.

    Raises:
        ServiceError: refused, ended before it became active, or not started within `start_seconds`.
    """
    lease = await client.request_lease(request)
    try:
        return await _until_active(client, lease, on_state, start_seconds)
    except BaseException:
        # Cancelled by the user or refused by the node: in no case may the share stay taken.
        with suppress(ServiceError):
            await asyncio.shield(client.end(str(lease["id"])))
        raise


async def _until_active(
    client: WorkspaceClient, lease: Lease, on_state: StateCallback | None, start_seconds: float
) -> Lease:
    clock = asyncio.get_running_loop().time
    state, deadline = None, clock() + start_seconds
    while True:
        if lease["state"] != state:
            state = lease["state"]
            deadline = clock() + start_seconds
            if on_state is not None:
                await on_state(lease)
        if state == "active":
            return lease
        if state in ("ending", "ended"):
            raise ServiceError(
                str(lease.get("end_reason") or "ended"),
                str(lease.get("end_message") or "The lease ended before its devices were ready."),
                "Ask for devices again.",
            )
        if state != "queued" and clock() > deadline:
            raise ServiceError(
                "start_timeout",
                f"The node did not get the devices ready within {start_seconds:.0f} seconds, so they were handed back.",
                "Try again; if it happens again, tell your administrator.",
            )
        asked = clock()
        lease = await client.lease(str(lease["id"]), wait_for="active")
        if lease["state"] == state and clock() - asked < 0.2:
            await asyncio.sleep(0.2)  # a service that does not hold the answer must not be hammered


async def attach(
    client: WorkspaceClient,
    runtime_dir: Path | str,
    request: LeaseRequest,
    *,
    on_state: StateCallback | None = None,
) -> Lease:
    """`acquire`, fetch the attachment and write it: the whole way from a request to devices in every kernel.

    Raises:
        ServiceError: as `acquire`; nothing stays leased then.
    """
    lease = await acquire(client, request, on_state=on_state)
    try:
        await write_attachment(runtime_dir, await client.attachment(str(lease["id"])), lease)
    except BaseException:
        with suppress(ServiceError):
            await asyncio.shield(client.end(str(lease["id"])))
        raise
    return lease


async def write_attachment(
    runtime_dir: Path | str, attachment_json: Mapping[str, Any], lease: Mapping[str, Any]
) -> Attachment:
    """Write the attachment (and the leases' CA files) so that the kernels of this workspace see the devices.

    `attachment_json` is the answer of `GET /leases/{id}/attachment`. Writing the same lease with the same devices again
    keeps the epoch; anything else begins a new one.

    Raises:
        ServiceError: (reason `bad_attachment`) the service's answer lacks something.
    """
    return await asyncio.to_thread(store_attachment, Path(runtime_dir), attachment_json, expiry(lease))


def store_attachment(folder: Path, attachment_json: Mapping[str, Any], expires: int) -> Attachment:
    """`write_attachment` for callers without an event loop. `expires` in Unix seconds, 0 for never."""
    try:
        lease_id = str(attachment_json["lease_id"]).replace("-", "")
        entries = [(entry, Grant.from_json(entry)) for entry in attachment_json["devices"]]
        with _locked(folder):
            kept = {f"ca-{lease_id}-{grant.ordinal}.pem": grant.ca_pem for _, grant in entries if grant.tcp}
            for name, pem in kept.items():
                attachments.write_private(folder / name, pem)
            devices = attachments.renumber(
                AttachedDevice(
                    ordinal=grant.ordinal,
                    model=str(entry["model"]),
                    uuid=str(entry.get("uuid") or grant.device_uuid),
                    emulated=bool(entry["emulated"]),
                    share=int(entry["share"]),
                    memory_bytes=grant.memory_bytes,
                    secret=grant.secret,
                    local=grant.local,
                    tcp=grant.tcp,
                    ca=str(folder / f"ca-{lease_id}-{grant.ordinal}.pem") if grant.tcp else None,
                )
                for entry, grant in entries
            )
            current = attachments.read(folder)
            same = current is not None and (current.state, current.lease, current.devices) == (
                ATTACHED,
                lease_id,
                devices,
            )
            epoch = current.epoch if current is not None and same else attachments.next_epoch(folder)
            written = Attachment(epoch, ATTACHED, lease=lease_id, expires=expires, devices=devices)
            attachments.write(folder, written)
            for stale in folder.glob("ca-*.pem"):
                if stale.name not in kept:
                    stale.unlink(missing_ok=True)
            return written
    except (KeyError, TypeError, ValueError) as error:
        raise ServiceError(
            "bad_attachment",
            f"The service described the devices in a way that this workspace does not understand ({error!r}).",
            "The workspace and the service may be of different versions: restart the workspace.",
        ) from error


async def extend(client: WorkspaceClient, runtime_dir: Path | str, lease_id: str, minutes: int) -> Lease:
    """Prolong the lease by `minutes` and write its new end; running work notices nothing.

    Raises:
        ServiceError: the service refuses, for example because of the project's longest lease.
    """
    lease = await client.extend(lease_id, minutes)
    await asyncio.to_thread(note_expiry, Path(runtime_dir), lease_id, expiry(lease))
    return lease


def note_expiry(folder: Path, lease_id: str, expires: int) -> None:
    """Write a new end of the attached lease, in the same epoch; does nothing when another lease is attached."""
    with _locked(folder):
        current = attachments.read(folder)
        if current is not None and current.state == ATTACHED and current.lease == lease_id.replace("-", ""):
            attachments.write(folder, replace(current, expires=expires))


async def release(client: WorkspaceClient, runtime_dir: Path | str, lease_id: str) -> Lease:
    """Take the devices away from the kernels, then hand the lease back.

    Raises:
        ServiceError: the service could not be told; the devices are gone from the kernels all the same, and the service
            takes the lease back by itself once the workspace's heartbeats for it stop.
    """
    await mark_detached(runtime_dir, lease_id, _DETACH_REASON)
    return await client.end(lease_id)


async def mark_detached(runtime_dir: Path | str, lease_id: str, reason: str, *, lost: bool = False) -> None:
    """Write that the lease's devices are gone (`lost`: not by the user's wish); `reason` goes into error messages.

    Does nothing when another lease is attached by now, or none.
    """
    await asyncio.to_thread(store_detached, Path(runtime_dir), lease_id, reason, lost=lost)


def store_detached(folder: Path, lease_id: str, reason: str, *, lost: bool = False) -> None:
    """`mark_detached` for callers without an event loop."""
    with _locked(folder):
        current = attachments.read(folder)
        if current is None or current.state != ATTACHED or current.lease != lease_id.replace("-", ""):
            return
        state = LOST if lost else DETACHED
        attachments.write(folder, Attachment(current.epoch + 1, state, lease=current.lease, reason=reason))
        for stale in folder.glob("ca-*.pem"):
            stale.unlink(missing_ok=True)


def expiry(lease: Mapping[str, Any]) -> int:
    """The end of a lease in Unix seconds, 0 for never."""
    ends_at = lease.get("ends_at")
    return int(datetime.fromisoformat(str(ends_at)).timestamp()) if ends_at else 0


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time: the server extension and `elara attach` may write at once, and epochs must grow."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
