"""Deaths and restarts of every part: nothing leaks, nothing is granted twice, nobody loses a lease without a reason."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from service_world import Clock, FakeHub, World, device, open_service, open_world, serving


async def test_a_silent_workspace_loses_its_lease_after_the_grace(world: World) -> None:
    await world.node("n1", [device(0)])
    token = await world.workspace("ada")
    lease = await world.attach(token)
    world.clock.forward(55)
    assert (await world.ok("POST", f"/leases/{lease['id']}/heartbeat", token, {}))["state"] == "active"
    world.clock.forward(55)
    assert (await world.get("/leases?state=active", "user-ada"))["leases"], "a heartbeat gives the whole grace anew"
    world.clock.forward(10)
    await world.until_free(1000)
    assert (await world.get(f"/leases/{lease['id']}", "user-ada"))["end_reason"] == "workspace_lost"


async def test_a_stopped_workspace_frees_its_devices_at_once(world: World) -> None:
    await world.node("n1", [device(0)])
    token = await world.workspace("ada")
    lease = await world.attach(token)
    path = "/services/elara/api/v1/internal/workspaces/ada/-"
    assert (await world.http.delete(path, headers=world.internal)).status_code == 200
    await world.until_free(1000)
    assert (await world.get(f"/leases/{lease['id']}", "user-ada"))["end_reason"] == "workspace_stopped"
    refusal = await world.refused("POST", "/leases", token, {})
    assert refusal["reason"] == "no_project", "the token of a stopped workspace attaches nothing"


async def test_a_share_is_not_granted_again_before_the_node_lets_go(world: World) -> None:
    node = await world.node("n1", [device(0)])
    token = await world.workspace("ada")
    lease = await world.attach(token, minutes=10)
    node.obeys = False
    ended = await world.ok("DELETE", f"/leases/{lease['id']}", token)
    assert ended["state"] == "ending"
    assert (await world.refused("POST", "/leases", token, {}))["reason"] == "no_capacity"
    await node.ended(lease["id"], "detached")
    await world.until_free(1000)
    node.obeys = True
    await world.attach(token)


async def test_shares_of_a_vanished_node_wait_for_its_own_clock(world: World) -> None:
    node = await world.node("n1", [device(0)])
    token = await world.workspace("ada")
    lease = await world.attach(token, minutes=10)
    await node.disconnect()
    assert (await world.ok("DELETE", f"/leases/{lease['id']}", token))["state"] == "ending"
    world.clock.forward(10 * 60 + 20)
    assert (await world.get(f"/leases/{lease['id']}", token))["state"] == "ending", "the node's margin is not over"
    world.clock.forward(20)
    assert (await world.state(lease["id"], token, "ended"))["end_reason"] == "detached"
    kinds = [event["kind"] for event in (await world.get("/events?limit=500", "user-root"))["events"]]
    assert "lease.presumed_released" in kinds
    node.leases.clear()
    await node.connect()
    await world.until_free(1000)


async def test_a_channel_that_breaks_harms_no_lease(world: World) -> None:
    node = await world.node("n1", [device(0)])
    token = await world.workspace("ada")
    lease = await world.attach(token)
    await node.disconnect()

    async def gone() -> bool:
        return await world.free() == 0 and not (await world.get("/nodes", "user-root"))["nodes"][0]["connected"]

    await world.until(gone)
    assert (await world.get(f"/leases/{lease['id']}", token))["state"] == "active"
    await node.connect()
    assert (await world.get(f"/leases/{lease['id']}", token))["state"] == "active"
    assert (await world.get(f"/leases/{lease['id']}/attachment", token))["devices"][0]["secret"]
    await world.ok("DELETE", f"/leases/{lease['id']}", token)
    await world.until_free(1000)


async def test_a_restarted_node_ends_the_leases_that_it_lost(world: World) -> None:
    node = await world.node("n1", [device(0)])
    token = await world.workspace("ada")
    lease = await world.attach(token)
    await node.disconnect()
    node.leases.clear()
    node.boot_id = uuid.uuid4().hex
    await node.connect()
    assert (await world.state(lease["id"], token, "ended"))["end_reason"] == "node_restarted"
    await world.until_free(1000)
    await world.attach(token)


async def test_a_lost_node_ends_its_leases_and_says_so(world: World) -> None:
    node = await world.node("n1", [device(0)])
    token = await world.workspace("ada")
    lease = await world.attach(token, minutes=60)
    await node.disconnect()
    for _ in range(7):
        world.clock.forward(50)
        await world.ok("POST", f"/leases/{lease['id']}/heartbeat", token, {})
    assert (await world.state(lease["id"], token, "ending"))["end_reason"] == "node_lost"


async def test_a_failed_device_ends_its_leases_only(world: World) -> None:
    node = await world.node("n1", [device(0), device(1)])
    tokens = [await world.workspace("ada", server=f"s{n}") for n in range(2)]
    leases = [await world.attach(token) for token in tokens]
    broken = leases[0]["devices"][0]["uuid"]
    for entry in node.devices:
        if entry["uuid"] == broken:
            entry.update(healthy=False, fault="ECC error")
    await node.status()
    ended = await world.state(leases[0]["id"], tokens[0], "ended")
    assert ended["end_reason"] == "device_lost" and "ECC error" in ended["end_message"]
    assert (await world.get(f"/leases/{leases[1]['id']}", tokens[1]))["state"] == "active"
    assert await world.free() == 0, "an unhealthy device is not on offer"


async def test_a_node_that_cannot_start_a_lease_gives_it_back(world: World) -> None:
    node = await world.node("n1", [device(0)])
    node.obeys = False
    token = await world.workspace("ada")
    lease = await world.ok("POST", "/leases", token, {})
    node.obeys = True
    failed = {"type": "lease_failed", "lease_id": lease["id"], "generation": 1, "reason": "x", "message": "No room."}
    await node.tell(failed)
    ended = await world.state(lease["id"], token, "ended")
    assert ended["end_reason"] == "start_failed" and "No room." in ended["end_message"]
    await world.until_free(1000)


async def test_a_lease_that_never_starts_is_given_up(world: World) -> None:
    node = await world.node("n1", [device(0)])
    node.obeys = False
    token = await world.workspace("ada")
    lease = await world.ok("POST", "/leases", token, {})
    world.clock.forward(50)
    await world.get(f"/leases/{lease['id']}", token)
    world.clock.forward(45)
    assert (await world.state(lease["id"], token, "ending"))["end_reason"] == "start_timeout"
    node.obeys = True
    await node.ended(lease["id"], "stopped")
    await world.until_free(1000)


async def test_an_idle_lease_is_taken_back_and_a_busy_one_is_not(tmp_path: Path, database_url: str) -> None:
    async with open_world(tmp_path, database_url, idle_minutes=10, heartbeat_grace=3600.0) as world:
        node = await world.node("n1", [device(0), device(1)])
        tokens = [await world.workspace("ada", server=f"s{n}") for n in range(2)]
        leases = [await world.attach(token) for token in tokens]
        node.leases[leases[0]["id"]]["busy"] = True
        await node.status()
        world.clock.forward(9 * 60)
        assert len((await world.get("/leases?state=active", "user-ada"))["leases"]) == 2
        world.clock.forward(2 * 60)
        assert (await world.state(leases[1]["id"], tokens[1], "ended"))["end_reason"] == "idle"
        assert (await world.get(f"/leases/{leases[0]['id']}", tokens[0]))["state"] == "active"


@pytest.mark.parametrize("asleep", [0, 300])
async def test_a_restart_of_the_service_ends_no_lease(tmp_path: Path, database_url: str, asleep: int) -> None:
    hub, clock = FakeHub(), Clock()
    async with serving(hub.app) as hub_url:
        async with open_service(tmp_path, database_url, hub, hub_url, clock) as world:
            node = await world.node("n1", [device(0), device(1)])
            token = await world.workspace("ada")
            lease = await world.attach(token, minutes=60)
            cookies = tmp_path / "secrets"
            assert all(file.stat().st_mode & 0o077 == 0 for file in cookies.iterdir())
        clock.forward(asleep)
        async with open_service(tmp_path, database_url, hub, hub_url, clock) as again:
            node.world = again
            again.nodes.append(node)
            assert (await again.get(f"/leases/{lease['id']}", token))["state"] == "active", "a fresh grace for all"
            await node.connect()
            assert (await again.get(f"/leases/{lease['id']}/attachment", token))["devices"][0]["secret"] == "5e" * 32
            await again.ok("POST", f"/leases/{lease['id']}/heartbeat", token, {})
            assert await again.free() == 1000
            await again.ok("DELETE", f"/leases/{lease['id']}", token)
            await again.until_free(2000)


async def test_leases_that_ended_while_the_service_was_down_are_settled(tmp_path: Path, database_url: str) -> None:
    hub, clock = FakeHub(), Clock()
    async with serving(hub.app) as hub_url:
        async with open_service(tmp_path, database_url, hub, hub_url, clock) as world:
            node = await world.node("n1", [device(0)])
            token = await world.workspace("ada")
            lease = await world.attach(token, minutes=60)
        node.leases.clear()
        node.boot_id = uuid.uuid4().hex
        clock.forward(8 * 3600)
        async with open_service(tmp_path, database_url, hub, hub_url, clock) as again:
            node.world = again
            again.nodes.append(node)
            await node.connect()
            await again.until_free(1000)
            row = (await again.get("/usage?project=demo/digits", "user-ada"))["usage"][0]
            assert row["lease_id"] == lease["id"]
            assert row["seconds"] < 60, "hours in which nothing ran are not accounted for"


async def test_a_removed_node_is_out(world: World) -> None:
    node = await world.node("n1", [device(0)])
    token = await world.workspace("ada")
    lease = await world.attach(token)
    await world.ok("DELETE", f"/nodes/{node.node_id}", "user-root")
    assert (await world.state(lease["id"], token, "ended"))["end_reason"] == "node_removed"
    # Whatever it still reports, nothing is granted there again.
    await node.status()
    refused = await world.call("POST", "/leases", token, {"count": 1})
    assert refused.status_code == 409, refused.text
    assert await world.free() == 0
    await node.disconnect()
    with pytest.raises(AssertionError, match="does not belong to the pool"):
        await node.connect()
    world.nodes.clear()


async def test_a_node_must_prove_who_it_is(world: World) -> None:
    honest = await world.node("n1", [device(0)])
    thief = await world.node("n2", [device(0)])
    await thief.disconnect()
    thief.certificate, thief.node_id = honest.certificate, honest.node_id
    with pytest.raises(AssertionError, match="could not prove who it is"):
        await thief.connect()
    world.nodes.remove(thief)
    token = (await world.ok("POST", "/nodes/join-tokens", "user-root", {"name": "n3"}))["token"]
    pem = honest.certificate
    refused = await world.refused("POST", "/nodes/join", None, {"token": token, "name": "n3", "public_key_pem": pem})
    assert refused["status"] == 422
    refused = await world.refused("POST", "/nodes/join", None, {"token": "x", "name": "n3", "public_key_pem": pem})
    assert refused["reason"] == "bad_join_token"
