"""The way of a lease, from the request to the free share, against a node that speaks the real channel."""

from __future__ import annotations

import asyncio

from service_world import GIB, World, device


async def test_a_workspace_attaches_and_hands_back(world: World) -> None:
    await world.node("n1", [device(0), device(1)])
    token = await world.workspace("ada")
    lease = await world.attach(token, count=1, share=250, minutes=15)

    assert (lease["user"], lease["team"], lease["project"]) == ("ada", "demo", "digits")
    assert lease["devices"][0]["emulated"] is True
    assert lease["memory_bytes"] == lease["devices"][0]["memory_bytes"] == 2 * GIB // 4
    assert await world.free() == 1750
    attachment = await world.get(f"/leases/{lease['id']}/attachment", token)
    assert attachment["devices"][0]["secret"] == "5e" * 32
    assert attachment["devices"][0]["share"] == 250

    ended = await world.ok("DELETE", f"/leases/{lease['id']}", token)
    assert ended["state"] in ("ending", "ended")
    ended = await world.state(lease["id"], token, "ended")
    assert ended["end_reason"] == "detached"
    assert (await world.ok("DELETE", f"/leases/{lease['id']}", token))["state"] == "ended"
    assert await world.free() == 2000
    usage = (await world.get("/usage?project=demo/digits", "user-ada"))["usage"]
    assert [row["lease_id"] for row in usage] == [lease["id"]]
    assert usage[0]["peak_bytes"] == 4096 and usage[0]["share"] == 250
    kinds = [event["kind"] for event in (await world.get("/events?limit=500", "user-root"))["events"]]
    assert [kind for kind in kinds if kind.startswith("lease.")] == [
        "lease.granted",
        "lease.active",
        "lease.ending",
        "lease.ended",
    ]


async def test_concurrent_requests_never_get_more_than_there_is(world: World) -> None:
    await world.node("n1", [device(0), device(1)])
    tokens = [await world.workspace("ada", server=f"s{number}") for number in range(12)]
    answers = await asyncio.gather(*(world.call("POST", "/leases", token, {"share": 500}) for token in tokens))
    granted = [answer for answer in answers if answer.status_code == 201]
    assert len(granted) == 4
    assert {answer.json()["error"]["reason"] for answer in answers if answer.status_code != 201} == {"no_capacity"}
    assert await world.free() == 0


async def test_a_memory_request_gets_at_least_that_memory(world: World) -> None:
    await world.node("n1", [device(0, memory=3 * GIB)])
    lease = await world.attach(await world.workspace("ada"), memory_bytes="1GiB")
    assert lease["share"] == 334
    assert GIB <= lease["memory_bytes"] <= GIB + 3 * GIB // 1000


async def test_a_refusal_says_who_holds_what_until_when_and_what_fits_now(world: World) -> None:
    await world.node("n1", [device(0, model="T4", emulated=False), device(1)])
    await world.attach(await world.workspace("ada"), share="3/4", model="T4", minutes=30)
    token = await world.workspace("ada", server="other")
    refusal = await world.refused("POST", "/leases", token, {"count": 1, "share": 1000, "model": "T4"})
    assert (refusal["status"], refusal["reason"]) == (409, "no_capacity")
    details = refusal["details"]
    assert details["limit"] == "capacity"
    assert details["holders"][0] | {"ends_at": None} == {
        "user": "ada",
        "project": "demo/digits",
        "devices": 1,
        "share": 750,
        "ends_at": None,
    }
    assert details["free_at"] == details["holders"][0]["ends_at"]
    assert details["nearest"] == {"count": 1, "share": 250, "model": "T4"}
    preview = await world.ok("POST", "/leases/preview", token, {"count": 1, "model": "T4"})
    assert (preview["ok"], preview["reason"], preview["nearest"]) == (False, "no_capacity", details["nearest"])
    assert (await world.ok("POST", "/leases/preview", token, details["nearest"]))["ok"] is True


async def test_the_quota_holds_and_says_so(world: World) -> None:
    await world.node("n1", [device(index) for index in range(3)])
    quota = {"max_device_share": 1500, "max_lease_minutes": 90}
    await world.ok("PUT", "/projects/demo/digits/quota", "user-root", quota)
    await world.attach(await world.workspace("ada"), share=1000)
    token = await world.workspace("ada", server="two")
    refusal = await world.refused("POST", "/leases", token, {"share": 600})
    assert refusal["reason"] == "quota_exceeded"
    assert refusal["details"]["quota"] == {"max_device_share": 1500, "held": 1000}
    assert refusal["details"]["nearest"] == {"count": 1, "share": 500, "model": "emulated (CPU)"}
    too_long = await world.refused("POST", "/leases", token, {"share": 100, "minutes": 91})
    assert too_long["reason"] == "lease_too_long" and "90 minutes" in too_long["message"]
    never = await world.refused("POST", "/leases", token, {"count": 2, "wait": True})
    assert never["details"]["limit"] == "quota_size", "a request that can never be met must not wait"


async def test_impossible_requests_are_told_apart(world: World) -> None:
    await world.node("n1", [device(0)])
    token = await world.workspace("ada")
    reasons = {}
    for body in ({"model": "H100"}, {"memory_bytes": "64GiB"}, {"count": 3}, {"count": 99}):
        reasons[str(body)] = (await world.refused("POST", "/leases", token, {**body, "wait": True}))["details"]["limit"]
    assert list(reasons.values()) == ["model", "memory", "devices", "count"]


async def test_a_workspace_has_one_lease_at_a_time(world: World) -> None:
    await world.node("n1", [device(0)])
    token = await world.workspace("ada")
    await world.attach(token, share=100)
    assert (await world.refused("POST", "/leases", token, {"share": 100}))["reason"] == "already_attached"


async def test_the_queue_is_served_in_order(world: World) -> None:
    await world.node("n1", [device(0), device(1)])
    first = await world.workspace("ada", server="one")
    holding = await world.attach(first, count=2)
    waiting = []
    for number, count in enumerate((2, 1)):
        token = await world.workspace("ada", server=f"w{number}")
        lease = await world.ok("POST", "/leases", token, {"count": count, "wait": True, "minutes": 5})
        assert (lease["state"], lease["queue_position"]) == ("queued", number + 1)
        waiting.append((lease, token))
    late = await world.workspace("ada", server="late")
    await world.ok("DELETE", f"/leases/{holding['id']}", first)
    await world.state(waiting[0][0]["id"], waiting[0][1], "active")
    second = await world.get(f"/leases/{waiting[1][0]['id']}", waiting[1][1])
    assert second["state"] == "queued", "a later request must not overtake"
    assert (await world.refused("POST", "/leases", late, {"share": 100}))["reason"] == "no_capacity"
    await world.ok("DELETE", f"/leases/{waiting[0][0]['id']}", waiting[0][1])
    await world.state(second["id"], waiting[1][1], "active")


async def test_whoever_waits_for_their_quota_holds_back_nobody_else(world: World) -> None:
    await world.node("n1", [device(0), device(1)])
    await world.ok("POST", "/teams/demo/projects", "user-root", {"slug": "other"})
    await world.ok("PUT", "/projects/demo/other/members/ben", "user-root", {"role": "editor"})
    await world.ok(
        "PUT",
        "/projects/demo/digits/quota",
        "user-root",
        {"max_device_share": 500, "max_lease_minutes": 60},
    )
    await world.attach(await world.workspace("ada"), share=500)
    token = await world.workspace("ada", server="two")
    assert (await world.ok("POST", "/leases", token, {"share": 500, "wait": True}))["state"] == "queued"
    await world.attach(await world.workspace("ben", project="other"), share=1000)


async def test_a_lease_is_extended_within_the_projects_limit(world: World) -> None:
    node = await world.node("n1", [device(0)])
    await world.ok(
        "PUT", "/projects/demo/digits/quota", "user-root", {"max_device_share": 1000, "max_lease_minutes": 60}
    )
    token = await world.workspace("ada")
    lease = await world.attach(token, minutes=20)
    longer = await world.ok("POST", f"/leases/{lease['id']}/extend", token, {"minutes": 30})
    assert longer["ends_at"] > lease["ends_at"]

    async def told() -> bool:
        return any(m["type"] == "lease_extend" and m["ttl_seconds"] > 2900 for m in node.heard)

    await world.until(told)
    refusal = await world.refused("POST", f"/leases/{lease['id']}/extend", token, {"minutes": 30})
    assert refusal["reason"] == "lease_too_long" and refusal["details"]["most_minutes"] in (9, 10)


async def test_a_lease_ends_at_its_time(world: World) -> None:
    await world.node("n1", [device(0)])
    token = await world.workspace("ada")
    lease = await world.attach(token, minutes=1)
    world.clock.forward(61)
    ended = await world.state(lease["id"], token, "ended")
    assert ended["end_reason"] == "expired"
    await world.until_free(1000)


async def test_several_nodes_serve_one_lease_and_hear_of_each_other(world: World) -> None:
    nodes = [await world.node(name, [device(0)]) for name in ("n1", "n2")]
    for node in nodes:
        node.address = f"{node.name}.example:7443"
    token = await world.workspace("ada")
    lease = await world.attach(token, count=2)
    assert {entry["node"] for entry in lease["devices"]} == {"n1", "n2"}
    assert len((await world.get(f"/leases/{lease['id']}/attachment", token))["devices"]) == 2
    ordinals = {entry["node"]: entry["ordinal"] for entry in lease["devices"]}

    async def told() -> bool:
        heard = {
            node.name: [message["devices"] for message in node.heard if message["type"] == "lease_neighbours"]
            for node in nodes
        }
        return heard == {
            "n1": [[{"ordinal": ordinals["n2"], "tcp": "n2.example:7443"}]],
            "n2": [[{"ordinal": ordinals["n1"], "tcp": "n1.example:7443"}]],
        }

    await world.until(told)
    await world.ok("DELETE", f"/leases/{lease['id']}", token)
    await world.until_free(2000)


async def test_memory_in_use_and_busyness_are_shown(world: World) -> None:
    node = await world.node("n1", [device(0)])
    token = await world.workspace("ada")
    lease = await world.attach(token)
    node.leases[lease["id"]] |= {"busy": True, "last_active": world.clock.now().timestamp()}
    await node.status()

    async def seen() -> bool:
        now = await world.ok("POST", f"/leases/{lease['id']}/heartbeat", token, {})
        return now["busy"] is True and now["devices"][0]["used_bytes"] == 1000

    await world.until(seen)
