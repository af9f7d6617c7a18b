"""The commands of administrators, against a running service, beside its data folder and with a token."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from service_world import API, INTERNAL, World, device

from elara_hub.commands.pool import lease, nodes
from elara_hub.commands.tenancy import member, project, quota, team

GROUPS = {"team": team, "project": project, "member": member, "quota": quota, "lease": lease, "nodes": nodes}


async def elara(*words: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, GROUPS[words[0]], list(words[1:]))


@pytest.fixture
def folder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `elara up` leaves for the commands."""
    for name in ("ELARA_API_URL", "ELARA_TOKEN", "JUPYTERHUB_API_TOKEN", "ELARA_DATA"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "up.json").write_text(json.dumps({"parts": {"service": {"url": world.url}}}))
    (tmp_path / "secrets" / "internal-token").write_text(INTERNAL + "\n")
    monkeypatch.setenv("ELARA_DATA", str(tmp_path))
    return tmp_path


async def test_a_team_from_nothing_to_a_working_member(world: World, folder: Path) -> None:
    steps = [
        ("team", "create", "vision", "--title", "Vision lab"),
        ("project", "create", "vision/cats"),
        ("member", "add", "vision/cats", "ben", "--role", "owner"),
        ("quota", "set", "vision/cats", "--devices", "3/2", "--minutes", "90"),
    ]
    for step in steps:
        result = await elara(*step)
        assert result.exit_code == 0, result.output
    shown = await elara("quota", "show", "vision/cats", "--json")
    assert json.loads(shown.output)["max_device_share"] == 1500
    listed = await elara("member", "list", "vision/cats")
    assert "ben" in listed.output and "owner" in listed.output
    assert (await world.get("/me", "user-ben"))["projects"][0]["project"] == "cats"


async def test_leases_are_listed_and_ended(world: World, folder: Path) -> None:
    await world.node("n1", [device(0, model="Virtual H100")])
    held = await world.attach(await world.workspace("ada"), share=500)
    listed = json.loads((await elara("lease", "list", "--json")).output)
    assert [entry["id"] for entry in listed["leases"]] == [held["id"]]
    assert "emulated (CPU)" in (await elara("nodes", "list")).output.replace("\n", " ")
    assert (await elara("lease", "end", held["id"])).exit_code == 0
    await world.until_free(1000)
    assert "Nobody holds any device." in (await elara("lease", "list")).output


async def test_refusals_are_sentences_and_exit_with_1(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = await elara("team", "create", "demo")
    assert taken.exit_code == 1 and "There is a team 'demo' already." in taken.output
    wrong = await elara("quota", "show", "demo")
    assert wrong.exit_code == 2 and "team/project" in wrong.output
    monkeypatch.setenv("ELARA_DATA", str(folder / "nothing"))
    nowhere = await elara("team", "list")
    assert nowhere.exit_code == 1 and "elara up" in nowhere.output
    monkeypatch.setenv("ELARA_API_URL", world.url + API)
    monkeypatch.setenv("ELARA_TOKEN", "user-ada")
    assert "demo" in (await elara("team", "list")).output
    assert (await elara("team", "create", "own")).exit_code == 1
