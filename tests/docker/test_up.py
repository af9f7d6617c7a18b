"""`elara up --engine docker`: containers that come with it, end with it, and are found again; errors in a sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from elara_hub.supervisor import containers, place
from elara_hub.supervisor.problem import UpProblem
from tests.docker.docker_world import workspace_image
from tests.support.docker import Engine
from tests.support.instance import Instance

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]


def write_catalogue(folder: Path, image: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "schema.json").write_text((ROOT / "images" / "schema.json").read_text())
    content = {
        "default_image": "base",
        "default_size": "small",
        "images": [{"name": "base", "title": "Base", "image": image}],
        "sizes": [{"name": "small", "title": "Small", "cpus": 1, "memory": "256MiB"}],
    }
    (folder / "catalogue.yaml").write_text(yaml.safe_dump(content))
    return folder / "catalogue.yaml"


@pytest.fixture(scope="module")
def catalogue(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalogue(tmp_path_factory.mktemp("catalogue"), workspace_image(docker_engine))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def elara(catalogue: Path) -> AsyncIterator[Instance]:
    async with Instance(devices=1, engine="docker", environment={"ELARA_CATALOGUE": str(catalogue)}) as instance:
        await instance.person("alice")
        await instance.project("vision", "cats", {"alice": "editor"})
        yield instance


def workspaces(elara: Instance, engine: Engine) -> list[str]:
    """Names of the instance's workspace containers, running or not."""
    ours = place.read(elara.data)
    assert ours is not None
    labels = ("--filter", f"label=org.elara.instance={ours.instance}", "--filter", "label=org.elara.kind=workspace")
    return engine.run("ps", "--all", *labels, "--format", "{{.Names}}").split()


async def test_a_workspace_is_a_container_that_ctrl_c_ends_and_whose_files_stay(
    elara: Instance, docker_engine: Engine
) -> None:
    assert "Docker mode: each workspace is a container" in elara.printed()
    assert "node are processes of this user, since" in elara.printed()
    alice = await elara.person("alice")
    await alice.start_workspace({"project": "vision/cats"})
    (name,) = workspaces(elara, docker_engine)
    docker_engine.run("exec", name, "sh", "-c", "echo kept > /home/elara/kept")
    assert await elara.stop() == 0
    assert workspaces(elara, docker_engine) == []
    assert "1 workspace stopped; homes and projects stay in their volumes." in elara.printed()

    await elara.start()
    alice = await elara.person("alice")
    await alice.start_workspace({"project": "vision/cats"})
    assert workspaces(elara, docker_engine) == [name], "the second start finds the names of the first"
    assert docker_engine.run("exec", name, "cat", "/home/elara/kept") == "kept\n"


async def test_a_workspace_outlives_a_killed_supervisor_and_is_found_again(
    elara: Instance, docker_engine: Engine
) -> None:
    alice = await elara.person("alice")
    await elara.until(lambda: workspaces(elara, docker_engine), "a workspace of the test before")
    (name,) = workspaces(elara, docker_engine)
    begun = docker_engine.run("inspect", "--format", "{{.State.StartedAt}}", name)
    await elara.stop(signal.SIGKILL)
    assert workspaces(elara, docker_engine) == [name]
    await elara.start()
    alice = await elara.person("alice")
    assert (await alice.http.get("/user/alice/api/status")).status_code == 200
    assert docker_engine.run("inspect", "--format", "{{.State.StartedAt}}", name) == begun, "none was started twice"


async def test_the_check_of_the_deployment_is_content_and_names_what_is_not(
    elara: Instance, catalogue: Path, docker_engine: Engine
) -> None:
    status, found = check(elara.data, ELARA_CATALOGUE=str(catalogue))
    assert status == 0, found
    assert {entry["state"] for entry in found.values()} <= {"ok", "warning"}
    named = {"data folder", "disk", "hub", "service", "mlflow", "proxy", "clock", "database", "certificate"}
    assert named | {"docker", "images", "network", "network rules"} <= set(found)
    assert found["network rules"]["state"] == "ok"
    elara.kill("service", signal.SIGSTOP)
    try:
        status, found = check(elara.data, ELARA_CATALOGUE=str(catalogue))
    finally:
        elara.kill("service", signal.SIGCONT)
    assert status == 1
    assert found["service"]["state"] == "problem" and "does not answer" in found["service"]["message"]
    assert all(entry["next_step"] for entry in found.values() if entry["state"] != "ok")


def check(data: Path, **environment: str) -> tuple[int, dict[str, Any]]:
    """The exit status of `elara admin check`, and what it found by the check's name."""
    command = (sys.executable, "-m", "elara_remoting.cli", "admin", "check", "--json", "--data", str(data))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, {entry["check"]: entry for entry in json.loads(done.stdout)["findings"]}


def refused(data: Path, **environment: str) -> str:
    """What `elara up --engine docker` says when it cannot start."""
    command = (sys.executable, "-m", "elara_remoting.cli", "up", "--engine", "docker", "--data", str(data))
    done = subprocess.run(
        (*command, "--port", "18999"), capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


async def test_no_daemon_and_no_images_are_sentences(tmp_path: Path, docker_engine: Engine) -> None:
    said = refused(tmp_path / "a", DOCKER_HOST=f"unix://{tmp_path}/docker.sock")
    assert "No Docker daemon answers on this machine." in said and "local mode needs no Docker" in said
    missing = write_catalogue(tmp_path / "catalogue", "elara-test/nowhere:1")
    said = refused(tmp_path / "b", ELARA_CATALOGUE=str(missing))
    assert "elara-test/nowhere:1" in said and "`elara images build`" in said


async def test_a_missing_docker_library_is_a_sentence(elara: Instance, tmp_path: Path, docker_engine: Engine) -> None:
    """Of the start, and of the check: neither can ask the engine without it."""
    (tmp_path / "docker.py").write_text("raise ImportError(\"No module named 'docker'\")\n")
    said = refused(tmp_path / "data", PYTHONPATH=str(tmp_path))
    assert "Docker's client library is missing (No module named 'docker')." in said and "`make build`" in said
    status, found = check(elara.data, PYTHONPATH=str(tmp_path))
    assert status == 1
    assert "Docker's client library is missing" in found["docker"]["message"]
    assert found["docker"]["next_step"]


async def test_another_network_in_the_way_is_a_sentence(tmp_path: Path, docker_engine: Engine, catalogue: Path) -> None:
    data, name = tmp_path / "data", f"elara-test-way-{os.getpid()}"
    data.mkdir(mode=0o700)
    docker_engine.run("network", "create", "--subnet", "10.78.48.0/24", name)
    try:
        engine = containers.Engine.connect()
        ours = place.Place(name, "elt-way", "10.78.48.0/24")
        with pytest.raises(UpProblem, match=r"could not be made.*addresses may be taken"):
            await engine.open_network(ours)
    finally:
        docker_engine.run("network", "rm", name)


async def test_a_socket_that_may_not_be_used_is_told_from_one_that_is_not_there() -> None:
    denied = Exception("Error while fetching server API version: ('Connection aborted.', PermissionError(13, ...))")
    denied.__cause__ = PermissionError(13, "Permission denied")
    assert "member of the group docker" in containers.why_no_engine(denied)
    away = Exception("Connection aborted.")
    away.__cause__ = FileNotFoundError(2, "No such file or directory")
    assert "No Docker daemon answers" in containers.why_no_engine(away)
    assert "DOCKER_HOST" in containers.why_no_engine(Exception("invalid tls configuration"))
