"""The way of a lease, from the request to the free share, against a node that speaks the real channel."""

from __future__ import annotations

from service_world import World, device


async def test_a_workspace_attaches_and_hands_back(both_worlds: World) -> None:
    world = both_worlds
    await world.node("n1", [device(0), device(1)])
    token = await world.workspace("ada")
    lease = await world.attach(token, count=1, share=250, minutes=15)

    assert (lease["user"], lease["team"], lease["project"]) == ("ada", "demo", "digits")
    assert lease["devices"][0]["emulated"] is True
    assert lease["memory_bytes"] == lease["devices"][0]["memory_bytes"] == 2**31 // 4
    assert await world.free() == 1750
    attachment = await world.get(f"/leases/{lease['id']}/attachment", token)
    assert attachment["devices"][0]["secret"] == "5e" * 32
    assert attachment["devices"][0]["share"] == 250

    ended = await world.ok("DELETE", f"/leases/{lease['id']}", token)
    assert ended["state"] in ("ending", "ended")
    ended = await world.state(lease["id"], token, "ended")
    assert ended["end_reason"] == "detached"
    assert await world.free() == 2000
    usage = (await world.get("/usage?project=demo/digits", "user-ada"))["usage"]
    assert [row["lease_id"] for row in usage] == [lease["id"]]
    assert usage[0]["peak_bytes"] == 4096 and usage[0]["share"] == 250
