"""Teams, projects, members, roles: who may do what, and what a change means for those who work there."""

from __future__ import annotations

from pathlib import Path

import pytest
from service_world import API, World, device

from elara_hub.tenancy.permissions import MATRIX, ROLES, Action, allowed, table

DOCS = Path(__file__).parents[2] / "docs" / "roles.md"


def test_the_documented_matrix_is_the_enforced_one() -> None:
    assert table() in DOCS.read_text(), "docs/roles.md differs from tenancy/permissions.py"
    assert set(MATRIX) == set(Action) and set().union(*MATRIX.values()) <= set(ROLES)
    assert not allowed(Action.ATTACH, frozenset({"admin", "lead", "viewer"}))


@pytest.fixture
async def staffed(world: World) -> World:
    """ada owns and leads; ben edits, cem looks on; dora is nobody there."""
    await world.ok("PUT", "/projects/demo/digits/members/ben", "user-ada", {"role": "editor"})
    await world.ok("PUT", "/projects/demo/digits/members/cem", "user-ada", {"role": "viewer"})
    return world


WRITES = [
    ("PUT", "/projects/demo/digits/members/dora", {"role": "editor"}, {"ada", "root"}),
    ("PATCH", "/projects/demo/digits", {"title": "New"}, {"ada", "root"}),
    ("PUT", "/projects/demo/digits/quota", {"max_device_share": 1, "max_lease_minutes": 1}, {"ada", "root"}),
    ("POST", "/teams/demo/projects", {"slug": "more"}, {"ada", "root"}),
    ("PUT", "/teams/demo/members/dora", {"role": "member"}, {"ada", "root"}),
    ("PATCH", "/teams/demo", {"title": "New"}, {"root"}),
    ("POST", "/teams", {"slug": "own"}, {"root"}),
    ("DELETE", "/teams/demo", None, {"root"}),
]


@pytest.mark.parametrize(("method", "path", "body", "may"), WRITES, ids=[f"{w[0]} {w[1]}" for w in WRITES])
async def test_only_those_who_may_change_things(
    staffed: World, method: str, path: str, body: object, may: set[str]
) -> None:
    for user in ("dora", "cem", "ben"):
        refusal = await staffed.refused(method, path, f"user-{user}", body)
        assert refusal["status"] in (403, 404)
        assert user != "dora" or refusal["status"] == 404 or may == {"root"}, "an outsider learns nothing"
    for user in sorted(may):
        answer = await staffed.call(method, path, f"user-{user}", body)
        assert answer.is_success or answer.json()["error"]["reason"] == "name_taken", answer.text


async def test_a_workspace_token_administers_nothing_even_an_owners(staffed: World) -> None:
    token = await staffed.workspace("ada")
    me = await staffed.get("/me", token)
    assert me["admin"] is False
    assert me["workspace"] == {"server": "", "team": "demo", "project": "digits", "role": "owner"}
    for method, path, body, _ in WRITES:
        assert (await staffed.refused(method, path, token, body))["status"] == 403
    assert (await staffed.refused("GET", "/nodes", token))["status"] == 403


async def test_a_workspace_token_knows_its_own_project_only(staffed: World) -> None:
    await staffed.ok("POST", "/teams/demo/projects", "user-ada", {"slug": "secret"})
    await staffed.ok("PUT", "/projects/demo/secret/members/ben", "user-ada", {"role": "owner"})
    token = await staffed.workspace("ben")
    assert (await staffed.get("/projects/demo/digits", token))["slug"] == "digits"
    assert (await staffed.refused("GET", "/projects/demo/secret", token))["status"] == 404
    access = await staffed.http.post(f"{API}/internal/mlflow/access", json={"token": token}, headers=staffed.internal)
    assert access.json() == {"user": "ben", "admin": False, "workspaces": {"demo--digits": "editor"}}
    whole = {"token": "user-ben"}
    access = await staffed.http.post(f"{API}/internal/mlflow/access", json=whole, headers=staffed.internal)
    assert access.status_code == 200, access.text
    assert access.json()["workspaces"] == {"demo--digits": "editor", "demo--secret": "owner"}


async def test_only_editors_attach(staffed: World) -> None:
    await staffed.node("n1", [device(0)])
    viewer = await staffed.workspace("cem")
    refusal = await staffed.refused("POST", "/leases", viewer, {})
    assert refusal["status"] == 403 and "editor or owner" in refusal["next_step"]
    assert (await staffed.refused("POST", "/leases", "user-ben", {}))["reason"] == "not_a_workspace"
    forged = staffed.hub.workspace_token("ben", "never-started")
    assert (await staffed.refused("POST", "/leases", forged, {}))["reason"] == "no_project"
    outsider = await staffed.http.put(
        f"{API}/internal/workspaces/dora/-", json={"team": "demo", "project": "digits"}, headers=staffed.internal
    )
    assert outsider.status_code == 403


async def test_a_lease_belongs_to_its_workspace(staffed: World) -> None:
    await staffed.node("n1", [device(0)])
    mine, other = await staffed.workspace("ben"), await staffed.workspace("ben", server="two")
    foreign = await staffed.workspace("ada")
    lease = await staffed.attach(mine, share=500)
    path = f"/leases/{lease['id']}"
    for token in (other, foreign, "user-ben", "user-cem"):
        assert (await staffed.refused("GET", path + "/attachment", token))["status"] in (403, 404)
        assert (await staffed.refused("POST", path + "/heartbeat", token, {}))["status"] in (403, 404)
    for token in (foreign, "user-cem", "user-dora"):
        for method in ("GET", "DELETE"):
            assert (await staffed.refused(method, path, token))["status"] == 404
    assert (await staffed.refused("POST", path + "/extend", "user-ada", {"minutes": 5}))["status"] == 404
    assert (await staffed.get("/leases", "user-ada"))["leases"][0]["id"] == lease["id"], "an owner sees it"
    assert (await staffed.get("/leases", "user-cem"))["leases"] == []
    assert (await staffed.ok("DELETE", path, "user-ada"))["end_message"] == "Ended by ada."


async def test_who_may_no_longer_attach_loses_the_lease(staffed: World) -> None:
    await staffed.node("n1", [device(0)])
    token = await staffed.workspace("ben")
    for number in range(3):
        lease = await staffed.attach(token)
        if number == 0:
            await staffed.ok("PUT", "/projects/demo/digits/members/ben", "user-ada", {"role": "viewer"})
        elif number == 1:
            await staffed.ok("DELETE", "/projects/demo/digits/members/ben", "user-ada")
        else:
            body = {"disabled": True}
            await staffed.http.put(f"{API}/internal/users/ben", json=body, headers=staffed.internal)
        await staffed.until_free(1000)
        ended = (await staffed.get(f"/leases/{lease['id']}", "user-root"))["end_reason"]
        assert ended == "access_revoked"
        if number < 2:
            await staffed.ok("PUT", "/projects/demo/digits/members/ben", "user-ada", {"role": "editor"})
    assert (await staffed.refused("GET", "/me", "user-ben"))["reason"] == "account_disabled"


async def test_a_project_keeps_an_owner_and_members_exist(staffed: World) -> None:
    last = await staffed.refused("DELETE", "/projects/demo/digits/members/ada", "user-root")
    assert last["reason"] == "last_owner"
    last = await staffed.refused("PUT", "/projects/demo/digits/members/ada", "user-ada", {"role": "viewer"})
    assert last["reason"] == "last_owner"
    unknown = await staffed.refused("PUT", "/projects/demo/digits/members/nobdy", "user-ada", {"role": "editor"})
    assert unknown["reason"] == "unknown_user"
    bad = await staffed.refused("PUT", "/projects/demo/digits/members/ben", "user-ada", {"role": "king"})
    assert bad["status"] == 422 and "editor" in bad["next_step"]


async def test_names_are_never_handed_out_twice(world: World) -> None:
    first = await world.get("/projects/demo/digits", "user-ada")
    assert first["handle"] == "demo--digits"
    assert (await world.refused("POST", "/teams/demo/projects", "user-ada", {"slug": "digits"}))["status"] == 409
    await world.ok("DELETE", "/projects/demo/digits", "user-ada")
    again = await world.ok("POST", "/teams/demo/projects", "user-ada", {"slug": "digits"})
    assert again["handle"] == "demo--digits-2" and again["id"] != first["id"]
    assert (await world.get("/projects/demo/digits/members", "user-ada"))["members"] == []
    # A neighbour whose own name looks like the numbered one.
    neighbour = await world.ok("POST", "/teams/demo/projects", "user-ada", {"slug": "digits-2"})
    assert neighbour["handle"] == "demo--digits-2-2"
    await world.ok("DELETE", "/teams/demo", "user-root")
    await world.ok("POST", "/teams", "user-root", {"slug": "demo"})
    third = await world.ok("POST", "/teams/demo/projects", "user-root", {"slug": "digits"})
    assert third["handle"] == "demo--digits-3"


@pytest.mark.parametrize("slug", ["", "A", "a_b", "a--b", "-a", "a-", "ä", "a b", "x" * 61, "a\n", "../a"])
async def test_bad_names_are_refused_in_words(world: World, slug: str) -> None:
    refusal = await world.refused("POST", "/teams", "user-root", {"slug": slug})
    assert refusal["status"] == 422


async def test_long_names_leave_room_for_both(world: World) -> None:
    await world.ok("POST", "/teams", "user-root", {"slug": "t" * 40})
    too_long = await world.refused("POST", f"/teams/{'t' * 40}/projects", "user-root", {"slug": "p" * 22})
    assert "61 characters" in too_long["message"]
    fits = await world.ok("POST", f"/teams/{'t' * 40}/projects", "user-root", {"slug": "p" * 21})
    assert len(fits["handle"]) == 63


async def test_the_hubs_groups_follow_the_teams(world: World) -> None:
    async def group_is(*members: str) -> None:
        async def same() -> bool:
            return world.hub.groups.get("demo") == set(members)

        await world.until(same)

    await group_is("ada")
    await world.ok("PUT", "/projects/demo/digits/members/ben", "user-ada", {"role": "viewer"})
    await group_is("ada", "ben")
    await world.ok("DELETE", "/teams/demo/members/ben", "user-ada")
    await group_is("ada")
    assert (await world.refused("GET", "/projects/demo/digits", "user-ben"))["status"] == 404


async def test_the_spawn_page_learns_what_it_needs(staffed: World) -> None:
    await staffed.workspace("ben")
    path = f"{API}/internal/spawn-options"
    answer = (await staffed.http.get(f"{path}/ben", headers=staffed.internal)).json()
    assert [(p["team"], p["project"], p["role"]) for p in answer["projects"]] == [("demo", "digits", "editor")]
    assert answer["last_choice"] == {"team": "demo", "project": "digits", "image": "here", "size": "small"}
    stranger = (await staffed.http.get(f"{path}/new%20one", headers=staffed.internal)).json()
    assert stranger["projects"] == [] and stranger["last_choice"] is None


async def test_only_the_first_start_makes_the_demo_project(world: World) -> None:
    from elara_hub.core import Core
    from elara_hub.database.engine import Database
    from elara_hub.tenancy.bootstrap import bootstrap

    await world.ok("DELETE", "/teams/demo", "user-root")
    database = Database(world.settings.database_url)
    assert bootstrap(Core(world.settings, database), "ada") is False
    database.close()
    assert (await world.get("/teams", "user-root"))["teams"] == []
