"""What the workspace does for its lease, seen from the attachment file and the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from elara_remoting import attachment as attachments
from elara_remoting.workspace import LeaseRequest, ServiceError, WorkspaceClient, attach, release
from jupyterlab_elara.client import ServiceClient
from jupyterlab_elara.keeper import ACTIVITY_KEY, Keeper

from .fake_service import TOKEN, FakeService
from .waiting import until

StartKeeper = Callable[..., Awaitable[Keeper]]
ONE = LeaseRequest(share=500, minutes=60)


@pytest.fixture
async def start_keeper(service: FakeService, tmp_path: Path) -> AsyncIterator[StartKeeper]:
    """Starts a keeper, as the start of a Jupyter server does; again on the same folder: its restart."""
    keepers = []

    async def start(settings: dict[str, Any] | None = None, **options: Any) -> Keeper:
        client = ServiceClient(service.url, TOKEN, timeout=2.0)
        options = {"heartbeat_seconds": 0.2, "tick_seconds": 0.05, "patience_seconds": 2.0, **options}
        keeper = Keeper(client, tmp_path, settings if settings is not None else {}, **options)
        keeper.start()
        keepers.append(keeper)
        return keeper

    yield start
    for keeper in keepers:
        await keeper.stop()


def state(folder: Path) -> str:
    current = attachments.read(folder)
    return current.state if current else "none"


async def test_attach_gives_kernels_a_device_and_detach_takes_it(
    service: FakeService, start_keeper: StartKeeper, tmp_path: Path
) -> None:
    keeper = await start_keeper()
    lease = await keeper.attach(ONE)
    assert lease["state"] == "active"
    written = attachments.read(tmp_path)
    assert written is not None
    assert (written.state, written.devices[0].share, written.devices[0].emulated) == ("attached", 500, True)
    await keeper.detach()
    assert state(tmp_path) == "detached"
    assert service.open_leases == []
    assert all(device.free == 1000 for device in service.devices)


async def test_a_held_lease_is_kept_alive(service: FakeService, start_keeper: StartKeeper) -> None:
    keeper = await start_keeper()
    await keeper.attach(ONE)
    await until(lambda: service.count("POST", "/heartbeat") >= 3, "three heartbeats")


async def test_a_second_attach_is_refused_with_the_next_step(start_keeper: StartKeeper) -> None:
    keeper = await start_keeper()
    await keeper.attach(ONE)
    with pytest.raises(ServiceError, match="attached already") as refused:
        await keeper.attach(ONE)
    assert refused.value.next_step


async def test_a_silent_service_changes_nothing(
    service: FakeService, start_keeper: StartKeeper, tmp_path: Path
) -> None:
    keeper = await start_keeper()
    await keeper.attach(ONE)
    before = attachments.read(tmp_path)
    service.answers = False
    await until(lambda: keeper.trouble, "the keeper's notice of the silence")
    assert keeper.trouble is not None
    assert "keep working" in str(keeper.trouble)
    assert attachments.read(tmp_path) == before
    assert keeper.lease is not None
    service.answers = True
    await until(lambda: keeper.trouble is None, "the end of the trouble")
    assert attachments.read(tmp_path) == before
    assert keeper.notices.to_json() == []


@pytest.mark.parametrize(
    ("reason", "kind", "written"), [("expired", "ended", "detached"), ("node_lost", "lost", "lost")]
)
async def test_a_lease_that_ends_is_told_to_kernels_and_user(
    service: FakeService, start_keeper: StartKeeper, tmp_path: Path, reason: str, kind: str, written: str
) -> None:
    keeper = await start_keeper()
    lease = await keeper.attach(ONE)
    service.end(lease["id"], reason, "This is why.")
    await until(lambda: keeper.lease is None, "the end of the lease")
    current = attachments.read(tmp_path)
    assert current is not None
    assert (current.state, current.reason) == (written, "This is why.")
    assert keeper.last_end == {"reason": reason, "message": "This is why."}
    assert [notice["kind"] for notice in keeper.notices.to_json()] == [kind]


async def test_a_lease_the_service_has_forgotten_is_lost(
    service: FakeService, start_keeper: StartKeeper, tmp_path: Path
) -> None:
    keeper = await start_keeper()
    await keeper.attach(ONE)
    service.leases.clear()
    await until(lambda: keeper.lease is None, "the end of the lease")
    assert state(tmp_path) == "lost"


async def test_the_user_is_warned_once_before_the_end_and_again_after_extending(
    service: FakeService, start_keeper: StartKeeper, tmp_path: Path
) -> None:
    keeper = await start_keeper()
    lease = await keeper.attach(ONE)
    service.leases[lease["id"]]["ends_at"] = (datetime.now(UTC) + timedelta(seconds=200)).isoformat()
    await until(lambda: keeper.notices.to_json(), "the warning")
    beats = service.count("POST", "/heartbeat")
    await until(lambda: service.count("POST", "/heartbeat") > beats + 2, "more heartbeats")
    assert [notice["kind"] for notice in keeper.notices.to_json()] == ["ending"]
    extended = await keeper.extend(30)
    current = attachments.read(tmp_path)
    assert current is not None
    assert current.epoch == 1, "an extension must not take the devices away"
    assert current.expires == int(datetime.fromisoformat(extended["ends_at"]).timestamp())
    service.leases[lease["id"]]["ends_at"] = (datetime.now(UTC) + timedelta(seconds=40)).isoformat()
    await until(lambda: len(keeper.notices.to_json()) == 2, "the second warning")


async def test_a_short_lease_does_not_begin_with_a_warning(service: FakeService, start_keeper: StartKeeper) -> None:
    keeper = await start_keeper()
    await keeper.attach(LeaseRequest(minutes=2))
    await until(lambda: service.count("POST", "/heartbeat") >= 3, "heartbeats")
    assert keeper.notices.to_json() == []


async def test_a_restarted_server_finds_its_lease_again(
    service: FakeService, start_keeper: StartKeeper, tmp_path: Path
) -> None:
    keeper = await start_keeper()
    lease = await keeper.attach(ONE)
    await keeper.stop()
    assert state(tmp_path) == "attached", "stopping the server must leave the lease to the hub"
    before = attachments.read(tmp_path)
    again = await start_keeper()
    assert again.lease is not None, "the page must not say detached until the service has answered"
    beats = service.count("POST", "/heartbeat")
    await until(lambda: service.count("POST", "/heartbeat") > beats, "a heartbeat of the restarted server")
    assert again.lease["id"] == lease["id"]
    assert attachments.read(tmp_path) == before


async def test_a_restarted_server_learns_that_its_lease_has_ended(
    service: FakeService, start_keeper: StartKeeper, tmp_path: Path
) -> None:
    keeper = await start_keeper()
    lease = await keeper.attach(ONE)
    await keeper.stop()
    service.end(lease["id"], "workspace_stopped", "The workspace was stopped.")
    again = await start_keeper()
    await until(lambda: again.lease is None, "the end of the lease")
    assert state(tmp_path) == "detached"


async def test_leases_of_other_servers_are_left_alone(service: FakeService, start_keeper: StartKeeper) -> None:
    service.server = "other"
    async with WorkspaceClient(service.url, TOKEN) as client:
        await client.request_lease(ONE)
    service.server = ""
    keeper = await start_keeper()
    await until(lambda: service.count("GET", "/leases") >= 1, "the search")
    assert keeper.lease is None
    assert len(service.open_leases) == 1


async def test_a_slow_request_is_pending_and_arrives(service: FakeService, start_keeper: StartKeeper) -> None:
    service.start_seconds = 1.0
    keeper = await start_keeper(patience_seconds=0.2)
    lease = await keeper.attach(ONE)
    assert lease["state"] == "starting"
    assert keeper.pending is not None
    await until(lambda: keeper.lease is not None, "the device")
    assert keeper.pending is None


async def test_a_queued_request_survives_the_servers_restart(
    service: FakeService, start_keeper: StartKeeper, tmp_path: Path
) -> None:
    service.queue = True
    async with WorkspaceClient(service.url, TOKEN) as client:
        queued = await client.request_lease(LeaseRequest(wait=True))
    keeper = await start_keeper()
    await until(lambda: keeper.pending is not None, "the queued lease")
    service.activate(queued["id"], {"count": 1})
    await until(lambda: keeper.lease is not None, "the device")
    assert state(tmp_path) == "attached"


async def test_cancelling_a_queued_request_gives_its_place_back(
    service: FakeService, start_keeper: StartKeeper
) -> None:
    service.queue = True
    keeper = await start_keeper(patience_seconds=0.2)
    lease = await keeper.attach(LeaseRequest(wait=True))
    assert lease["state"] == "queued"
    await keeper.detach()
    await until(lambda: service.open_leases == [], "the end of the queued lease")
    assert keeper.pending is None


async def test_a_request_that_fails_late_is_told_by_a_notice(service: FakeService, start_keeper: StartKeeper) -> None:
    service.start_seconds = 30
    keeper = await start_keeper(patience_seconds=0.2)
    lease = await keeper.attach(ONE)
    service.end(lease["id"], "node_lost", "The node did not answer.")
    await until(lambda: keeper.notices.to_json(), "the notice")
    assert "The node did not answer." in keeper.notices.to_json()[0]["message"]


async def test_a_refusal_reaches_the_user_with_its_details(service: FakeService, start_keeper: StartKeeper) -> None:
    service.occupy("grace")
    keeper = await start_keeper()
    with pytest.raises(ServiceError) as refused:
        await keeper.attach(ONE)
    assert refused.value.details["holders"][0]["user"] == "grace"
    assert keeper.notices.to_json() == []


async def test_detach_while_the_service_is_silent_frees_the_share_later(
    service: FakeService, start_keeper: StartKeeper, tmp_path: Path
) -> None:
    keeper = await start_keeper()
    await keeper.attach(ONE)
    service.answers = False
    await keeper.detach()
    assert state(tmp_path) == "detached"
    assert keeper.lease is None
    service.answers = True
    await until(lambda: service.open_leases == [], "the end of the lease")


async def test_a_lease_attached_in_a_terminal_is_kept_too(
    service: FakeService, start_keeper: StartKeeper, tmp_path: Path
) -> None:
    keeper = await start_keeper()
    async with WorkspaceClient(service.url, TOKEN) as client:
        lease = await attach(client, tmp_path, ONE)
        await until(lambda: keeper.lease is not None, "the attachment of the terminal")
        await until(lambda: service.count("POST", "/heartbeat") >= 1, "a heartbeat")
        await release(client, tmp_path, lease["id"])
        await until(lambda: keeper.lease is None, "the detach in the terminal")


async def test_devices_of_another_source_are_none_of_the_keepers_business(
    service: FakeService, start_keeper: StartKeeper, tmp_path: Path
) -> None:
    keeper = await start_keeper()
    await until(lambda: service.count("GET", "/leases") >= 1, "the search after the start")
    foreign = attachments.Attachment(epoch=1, state="attached", lease="ab" * 16)
    attachments.write(tmp_path, foreign)
    await until(lambda: service.count("GET", "/leases") >= 2, "a look at the attachment file")
    assert keeper.lease is None
    assert attachments.read(tmp_path) == foreign


async def test_only_a_busy_device_is_a_sign_of_life(service: FakeService, start_keeper: StartKeeper) -> None:
    settings: dict[str, Any] = {}
    keeper = await start_keeper(settings)
    lease = await keeper.attach(ONE)
    await until(lambda: service.count("POST", "/heartbeat") >= 2, "heartbeats of an idle device")
    assert ACTIVITY_KEY not in settings
    service.leases[lease["id"]]["busy"] = True
    await until(lambda: ACTIVITY_KEY in settings, "the activity of a busy device")
    assert (datetime.now(UTC) - settings[ACTIVITY_KEY]).total_seconds() < 5
