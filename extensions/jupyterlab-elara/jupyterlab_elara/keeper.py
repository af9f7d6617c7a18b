"""Keeps this workspace's lease: attaches, heartbeats, watches for its end, and never lets go without a reason.

One keeper a Jupyter server, shared by all of its notebooks. What it must not do matters most: while the service cannot
be reached it changes nothing (running work goes on), and when the Jupyter server stops it leaves the lease alone (the
hub ends the leases of a workspace that stops; a restarted server finds its lease again).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from elara_remoting import workspace
from elara_remoting.workspace import Lease, LeaseRequest, ServiceError
from jupyterlab_elara.client import OPEN_STATES, ServiceClient
from jupyterlab_elara.leases import held_in_file, is_loss, same_lease, seconds_left, why_ended
from jupyterlab_elara.notices import Notices, due_warning, passed_warnings, warning_text

ACTIVITY_KEY = "elara_last_activity"
"""jupyter_server takes every setting that ends like this for a sign of life."""


class Keeper:
    """The lease of one workspace. All methods run on the Jupyter server's event loop."""

    def __init__(
        self,
        client: ServiceClient,
        runtime_dir: Path,
        settings: MutableMapping[str, Any],
        *,
        heartbeat_seconds: float = 15.0,
        tick_seconds: float = 1.0,
        patience_seconds: float = 25.0,
        log: logging.Logger | None = None,
    ) -> None:
        self.client = client
        self.runtime_dir = runtime_dir
        self.notices = Notices()
        self.lease: Lease | None = None
        self.pending: Lease | None = None
        self.last_end: dict[str, str] | None = None
        self.last_request: dict[str, Any] | None = None
        self.trouble: ServiceError | None = None
        self._settings = settings
        self._heartbeat_seconds = heartbeat_seconds
        self._tick_seconds = tick_seconds
        self._patience_seconds = patience_seconds
        self._log = log or logging.getLogger(__name__)
        self._attaching: asyncio.Task[Lease] | None = None
        self._loop: asyncio.Task[None] | None = None
        self._found_again = False
        self._server = ""
        self._next_beat = 0.0
        self._next_chores = 0.0
        self._forget_found = False
        self._foreign: set[str] = set()
        self._beats_without_file = 0
        self._warned: set[int] = set()
        self._to_end: set[str] = set()

    def start(self) -> None:
        """Begin to keep. A lease that the attachment file names is shown at once, before the service confirms it."""
        self.lease = held_in_file(self.runtime_dir)
        self._loop = asyncio.get_running_loop().create_task(self._run(), name="elara-keeper")

    async def stop(self) -> None:
        """End the background work. The lease stays: the hub ends it when the workspace has stopped."""
        if self._attaching is not None:
            self._attaching.cancel()
        if self._loop is not None:
            self._loop.cancel()
        await asyncio.gather(*filter(None, (self._attaching, self._loop)), return_exceptions=True)
        await self.client.aclose()

    # -- what the user asks for ---------------------------------------------------------------------------------

    async def attach(self, request: LeaseRequest) -> Lease:
        """Ask for devices; returns the active lease, or a pending one when that takes longer than the patience.

        Raises:
            ServiceError: refused, or something is attached or on its way already.
        """
        if self._attaching is not None and not self._attaching.done():
            raise ServiceError(
                "already_starting", "A GPU is being attached already.", "Wait for it, or cancel it first.", status=409
            )
        if self.lease is not None:
            raise ServiceError(
                "already_attached",
                "This workspace has a GPU attached already, for all of its notebooks.",
                "Detach it first, then attach another.",
                status=409,
            )
        self.last_request = request.to_json()
        self.last_end = None
        self._attaching = asyncio.get_running_loop().create_task(self._attach(request), name="elara-attach")
        done, _ = await asyncio.wait({self._attaching}, timeout=self._patience_seconds)
        if done:
            if self._attaching.cancelled():
                raise ServiceError("cancelled", "The request was cancelled.", "Attach again when you like.", status=409)
            return self._attaching.result()
        self._attaching.add_done_callback(self._report_late_failure)
        return self.pending or {"id": "", "state": "starting", "devices": []}

    async def extend(self, minutes: int) -> Lease:
        """Prolong the lease.

        Raises:
            ServiceError: nothing is attached, or the service refuses.
        """
        lease = self._held()
        extended = await workspace.extend(self.client, self.runtime_dir, str(lease["id"]), minutes)
        self._see(extended)
        self._warned &= passed_warnings(seconds_left(extended))
        return extended

    async def detach(self) -> None:
        """Take the devices from the kernels and hand the lease back, or cancel a request that is under way.

        Returns also when the service cannot be told just now: the devices are gone from the kernels, and the keeper
        goes on trying.

        Raises:
            ServiceError: nothing is attached or on its way.
        """
        if self._attaching is not None and not self._attaching.done():
            self._attaching.cancel()
            await asyncio.gather(self._attaching, return_exceptions=True)
            self.pending = None
            return
        lease_id = str(self._held()["id"])
        self.lease = None
        self.last_end = None
        self._to_end.add(lease_id)
        try:
            await workspace.release(self.client, self.runtime_dir, lease_id)
            self._to_end.discard(lease_id)
        except ServiceError as error:
            self._log.warning("The lease %s could not be handed back yet: %s", lease_id, error)
            self._note_trouble(error)

    async def call(self, question: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        """Await an answer of the service that is not about the lease, and remember whether the service answers.

        Raises:
            ServiceError: as the question.
        """
        try:
            answer = await question
        except ServiceError as error:
            if error.status is None:
                self._note_trouble(error)
            raise
        self.trouble = None
        return answer

    async def refresh(self) -> None:
        """Read the lease anew, for a page that is looking at it."""
        if self.lease is None or str(self.lease["id"]) in self._to_end:
            return
        await self._ask(self.client.lease(str(self.lease["id"])))

    # -- in the background --------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._tick()
            except ServiceError as error:
                self._note_trouble(error)
            except Exception:
                # A defect here must not end the heartbeats: the lease would be taken for abandoned.
                self._log.exception("The attachment's keeper met an error; it goes on")
            await asyncio.sleep(self._tick_seconds)

    async def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next_chores:
            self._next_chores = now + min(self._heartbeat_seconds, 5.0)
            await self._chores()
        if self.lease is None and not self._is_attaching() and self._found_again:
            await self._adopt_from_file()
        if self.lease is not None:
            self._warn()
            if now >= self._next_beat:
                self._next_beat = now + self._heartbeat_seconds
                await self._beat()

    async def _chores(self) -> None:
        """What waits for the service to be reachable again."""
        try:
            if not self._found_again:
                await self._find_again()
            for lease_id in list(self._to_end):
                with suppress_missing():
                    await self.client.end(lease_id)
                self._to_end.discard(lease_id)
        except ServiceError as error:
            self._note_trouble(error)

    async def _find_again(self) -> None:
        """Which leases does the service hold for this workspace? After a start, keep one; after a failure, end them."""
        identity = await self.client.me()
        self._server = str((identity.get("workspace") or {}).get("server") or "")
        leases = await self.client.open_leases(self._server)
        self.trouble = None
        if self._is_attaching():
            return  # ask again when the user's own request is done
        held = self.lease
        leases = [lease for lease in leases if lease["id"] not in self._to_end]
        if held is not None and not any(same_lease(lease["id"], held["id"]) for lease in leases):
            await self._ask(self.client.lease(str(held["id"])), beats=True)
        elif self._forget_found:
            self._to_end.update(
                str(lease["id"]) for lease in leases if not (held and same_lease(lease["id"], held["id"]))
            )
        elif leases:
            lease, *others = sorted(leases, key=lambda entry: entry["state"] != "active")
            self._to_end.update(str(other["id"]) for other in others)
            if lease["state"] == "active":
                await self._hold(lease)
            else:
                self._attaching = asyncio.get_running_loop().create_task(self._resume(lease), name="elara-attach")
                self._attaching.add_done_callback(self._report_late_failure)
        self._found_again, self._forget_found = True, False

    async def _adopt_from_file(self) -> None:
        """`elara attach` in a terminal attaches for the whole workspace; keep that lease like our own."""
        found = held_in_file(self.runtime_dir)
        if found is None or found["id"] in self._foreign:
            return
        for lease in await self.client.open_leases(self._server):
            if same_lease(lease["id"], found["id"]) and lease["id"] not in self._to_end:
                self._take(lease)
                return
        # Not from this service: `elara serve` on some machine, say. None of our business.
        self._foreign.add(str(found["id"]))

    async def _beat(self) -> None:
        lease = self.lease
        if lease is None:
            return
        await self._ask(self.client.heartbeat(str(lease["id"])), beats=True)
        if self.lease is None or self.lease["state"] != "active":
            return
        in_file = held_in_file(self.runtime_dir)
        self._beats_without_file = (
            0 if in_file and same_lease(in_file["id"], self.lease["id"]) else self._beats_without_file + 1
        )
        # The first time may be `elara detach` on its way between the file and the service.
        if self._beats_without_file > 1:
            await self._hold(self.lease)

    async def _ask(self, question: Awaitable[Lease], *, beats: bool = False) -> None:
        """Await an answer about the held lease, and draw the conclusions."""
        asked_about = self.lease
        try:
            lease = await question
        except ServiceError as error:
            if error.status != 404:
                if beats:
                    raise
                self._note_trouble(error)
                return
            lease = {**(asked_about or {}), "state": "ended", "end_reason": "unknown_lease", "end_message": ""}
        self.trouble = None
        if self.lease is None or asked_about is None or not same_lease(self.lease["id"], asked_about["id"]):
            return  # detached while the question was under way
        if lease["state"] in OPEN_STATES:
            self._see(lease)
        else:
            await self._ended(lease)

    def _see(self, lease: Lease) -> None:
        self.lease = lease
        active = lease.get("last_active")
        if lease.get("busy"):
            self._settings[ACTIVITY_KEY] = datetime.now(UTC)
        elif active:
            self._settings[ACTIVITY_KEY] = datetime.fromisoformat(str(active))

    async def _ended(self, lease: Lease) -> None:
        reason, message = why_ended(lease)
        lost = is_loss(lease)
        # First the kernels, then the page: whoever reads here that nothing is attached finds it so in the file as well.
        await workspace.mark_detached(self.runtime_dir, str(lease["id"]), message, lost=lost)
        if self.lease is None or not same_lease(self.lease["id"], lease["id"]):
            return  # detached by the user meanwhile
        self.lease = None
        self.last_end = {"reason": reason, "message": message}
        self.notices.add("lost" if lost else "ended", message, str(lease["id"]))
        self._log.warning("The lease %s ended (%s)", lease["id"], reason)

    def _warn(self) -> None:
        left = seconds_left(self.lease)
        warning = due_warning(left, self._warned)
        if warning is not None and left is not None and left > 0:
            self._warned |= passed_warnings(left)
            self.notices.add("ending", warning_text(left), str((self.lease or {}).get("id")))

    # -- attaching ----------------------------------------------------------------------------------------------

    def _is_attaching(self) -> bool:
        return self._attaching is not None and not self._attaching.done()

    async def _attach(self, request: LeaseRequest) -> Lease:
        try:
            lease = await workspace.attach(self.client, self.runtime_dir, request, on_state=self._on_state)
            self._take(lease)
            return lease
        except (ServiceError, asyncio.CancelledError) as error:
            if isinstance(error, ServiceError) and error.status is not None:
                if error.reason == "already_attached":
                    self._found_again = False  # by whom? Find that lease and show it
                raise
            # The request may have reached the service, and its answer not us: look for it, and hand it back.
            if self.pending is not None:
                self._to_end.add(str(self.pending["id"]))
            self._forget_found, self._found_again = True, False
            raise
        finally:
            self.pending = None

    async def _resume(self, lease: Lease) -> Lease:
        """Go on waiting for a lease that was queued or starting when this server stopped."""
        self.pending = lease
        try:
            while lease["state"] in ("queued", "starting"):
                asked = asyncio.get_running_loop().time()
                with suppress(ServiceError):
                    lease = self.pending = await self.client.lease(str(lease["id"]), wait_for="active")
                if asyncio.get_running_loop().time() - asked < 1:
                    await asyncio.sleep(1)
            if lease["state"] != "active":
                reason, message = why_ended(lease)
                raise ServiceError(reason, message, "Ask for devices again.")
            await self._hold(lease)
            return lease
        except asyncio.CancelledError:
            self._to_end.add(str(lease["id"]))
            raise
        finally:
            self.pending = None

    async def _hold(self, lease: Lease) -> None:
        """Write the attachment of an active lease (the epoch stays when it is there already) and keep the lease."""
        grants = await self.client.attachment(str(lease["id"]))
        await workspace.write_attachment(self.runtime_dir, grants, lease)
        self._take(lease)

    def _take(self, lease: Lease) -> None:
        if self.lease is None or not same_lease(self.lease["id"], lease["id"]):
            # A lease shorter than a warning's time is not warned about the moment it begins.
            self._warned = passed_warnings(seconds_left(lease))
        self._see(lease)
        self.trouble = None
        self.last_end = None
        self._beats_without_file = 0
        self._next_beat = asyncio.get_running_loop().time() + self._heartbeat_seconds

    async def _on_state(self, lease: Lease) -> None:
        self.pending = lease if lease["state"] in ("queued", "starting") else self.pending

    def _report_late_failure(self, task: asyncio.Task[Lease]) -> None:
        """The page no longer waits for this request's answer: say it by a notice."""
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if not isinstance(error, ServiceError):
            self._log.error("Attaching failed", exc_info=error)
            error = ServiceError("failed", "The GPU could not be attached.", "Try again.")
        self.last_end = {"reason": error.reason, "message": str(error)}
        self.notices.add("ended", str(error), "")

    def _held(self) -> Lease:
        if self.lease is None:
            raise ServiceError("not_attached", "No GPU is attached to this workspace.", "Attach one first.", status=409)
        return self.lease

    def _note_trouble(self, error: ServiceError) -> None:
        if self.trouble is None or self.trouble.reason != error.reason:
            self._log.warning("%s", error)
        self.trouble = error


@contextmanager
def suppress_missing() -> Iterator[None]:
    """A lease that the service does not know need not be ended."""
    try:
        yield
    except ServiceError as error:
        if error.status != 404:
            raise
