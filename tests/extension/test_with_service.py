"""The keeper and the status before the real service, with a node that speaks the real channel."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from elara_remoting import attachment as attachments
from elara_remoting.workspace import LeaseRequest
from jupyterlab_elara.client import ServiceClient
from jupyterlab_elara.keeper import Keeper
from jupyterlab_elara.status import StatusBoard

from .waiting import until

sys.path.insert(0, str(Path(__file__).parent.parent / "service"))

from service_world import API, World, device, open_world  # type: ignore[import-not-found]


class Workspace:
    """A keeper with its status, as one Jupyter server has them."""

    def __init__(self, world: World, token: str, folder: Path) -> None:
        client = ServiceClient(world.url + API, token)
        self.keeper = Keeper(client, folder, {}, heartbeat_seconds=0.2, tick_seconds=0.05)
        self.board = StatusBoard(self.keeper, None)
        self.folder = folder

    async def status(self) -> dict[str, Any]:
        return await self.board.read(with_pool=True)

    def file_state(self) -> str:
        current = attachments.read(self.folder)
        return current.state if current else "none"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    # A test that turns the clock forward must not look like a workspace that fell silent, or idled.
    grace: dict[str, Any] = {"heartbeat_grace": 1e6, "idle_minutes": 0}
    async with open_world(tmp_path / "service", f"sqlite:///{tmp_path / 'elara.sqlite'}", **grace) as opened:
        await opened.node("n1", [device(0), device(1)])
        yield opened


@pytest.fixture
async def ada(world: World, tmp_path: Path) -> AsyncIterator[Workspace]:
    (tmp_path / "ada").mkdir()
    workspace = Workspace(world, await world.workspace("ada"), tmp_path / "ada")
    workspace.keeper.start()
    yield workspace
    await workspace.keeper.stop()


async def test_the_status_tells_project_role_limits_and_what_is_free(ada: Workspace) -> None:
    status = await ada.status()
    assert (status["available"], status["why_not"]) == (True, None)
    assert (status["project"], status["role"]) == ("demo/digits", "owner")
    assert status["limits"]["max_minutes"] >= 60
    (model,) = status["pool"]["models"]
    assert (model["free_whole"], model["emulated"]) == (2, True)


async def test_attach_extend_detach(ada: Workspace, world: World) -> None:
    lease = await ada.keeper.attach(LeaseRequest(count=2, share=250, minutes=30))
    assert ada.file_state() == "attached"
    assert [each["share"] for each in lease["devices"]] == [250, 250]
    extended = await ada.keeper.extend(15)
    assert extended["ends_at"] > lease["ends_at"]
    assert (await ada.status())["attachment"]["id"] == lease["id"]
    await ada.keeper.detach()
    assert ada.file_state() == "detached"
    await world.until_free(2000)


async def test_a_refusal_names_holders_and_the_nearest(ada: Workspace, world: World) -> None:
    assert await ada.board.preview(LeaseRequest(minutes=60)) == {"ok": True}
    await world.ok("PUT", "/projects/demo/digits/members/ben", "user-root", {"role": "editor"})
    await world.attach(await world.workspace("ben"), count=1, share=750)
    refused = await ada.board.preview(LeaseRequest(count=2, minutes=60))
    assert refused["ok"] is False
    assert refused["message"] and refused["next_step"]
    assert refused["details"]["holders"][0]["user"] == "ben"
    assert refused["details"]["nearest"]["count"] == 1
    assert refused["details"]["free_at"]


async def test_viewers_are_told_whom_to_ask(world: World, tmp_path: Path) -> None:
    await world.ok("PUT", "/projects/demo/digits/members/cem", "user-root", {"role": "viewer"})
    (tmp_path / "cem").mkdir()
    cem = Workspace(world, await world.workspace("cem"), tmp_path / "cem")
    status = await cem.status()
    assert status["available"] is False
    assert "Ask an owner" in status["why_not"]
    await cem.keeper.stop()


async def test_a_restarted_server_finds_its_lease_again(ada: Workspace, world: World) -> None:
    lease = await ada.keeper.attach(LeaseRequest(share=500, minutes=30))
    await ada.keeper.stop()
    again = Workspace(world, "workspace-ada-", ada.folder)
    again.keeper.start()
    await until(lambda: again.keeper.lease is not None and again.keeper.lease.get("created_at"), "the service's answer")
    assert again.keeper.lease is not None
    assert again.keeper.lease["id"] == lease["id"]
    assert ada.file_state() == "attached"
    await again.keeper.detach()
    await again.keeper.stop()
    await world.until_free(2000)


async def test_the_end_of_the_time_is_told(ada: Workspace, world: World) -> None:
    await ada.keeper.attach(LeaseRequest(share=500, minutes=30))
    world.clock.forward(31 * 60)
    await until(lambda: ada.keeper.lease is None, "the end of the lease")
    assert ada.file_state() == "detached"
    assert ada.keeper.last_end is not None
    assert ada.keeper.last_end["reason"] == "expired"


async def test_a_failed_device_is_a_loss(ada: Workspace, world: World) -> None:
    lease = await ada.keeper.attach(LeaseRequest(share=500, minutes=30))
    node = world.nodes[0]
    for each in node.devices:
        if each["uuid"] == lease["devices"][0]["uuid"]:
            each.update(healthy=False, fault="it fell off the bus")
    await node.status()
    await until(lambda: ada.keeper.lease is None, "the end of the lease")
    assert ada.file_state() == "lost"
    assert [notice["kind"] for notice in ada.keeper.notices.to_json()] == ["lost"]
    assert "fell off the bus" in ada.keeper.notices.to_json()[0]["message"]
