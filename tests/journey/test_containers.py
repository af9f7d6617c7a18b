"""The main job in containers, in a real browser, by two people of two projects at once; and what each tries to get at
of the other's from inside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import psutil
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from elara_hub.demo.kernel import RemoteKernel
from elara_hub.supervisor import place
from elara_remoting.attachment import parse
from elara_spawner import names
from tests.journey.browser import Desk
from tests.journey.conftest import GRACE_SECONDS, PASSWORD
from tests.journey.people import attach, detach, seconds_until_free
from tests.support.docker import Engine
from tests.support.images import BuiltImages
from tests.support.instance import Instance
from tests.support.reach import trying

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.browser]
WHOLE_POOL = 2000


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def contained(docker_engine: Engine, built_images: BuiltImages) -> AsyncIterator[Instance]:
    environment = {"ELARA_HEARTBEAT_GRACE": str(GRACE_SECONDS)}
    async with Instance(engine="docker", environment=environment) as instance:
        for name, (team, project) in {"alice": ("vision", "cats"), "bob": ("sound", "birds")}.items():
            await instance.person(name, PASSWORD)
            await instance.project(team, project, {name: "editor"})
        yield instance


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def desks(contained: Instance, browser: Browser) -> AsyncIterator[tuple[Desk, Desk]]:
    """Alice and Bob, each with the example open in a workspace that was started on the start page."""
    async with (
        Desk(browser, contained.url, "alice", PASSWORD, isolated=True) as alice,
        Desk(browser, contained.url, "bob", PASSWORD, isolated=True) as bob,
    ):

        async def begin(desk: Desk, project: str) -> None:
            await desk.sign_in()
            await desk.open_workspace(project)
            await desk.open_notebook("examples/digits.ipynb")

        await asyncio.gather(begin(alice, "vision/cats"), begin(bob, "sound/birds"))
        yield alice, bob


def workspace(elara: Instance, user: str) -> str:
    """The name of a user's container."""
    ours = place.read(elara.data)
    assert ours is not None
    return names.workspace(ours.instance, user, "")


async def test_two_people_train_on_attached_devices(contained: Instance, desks: tuple[Desk, Desk]) -> None:
    alice, bob = desks
    for desk, share in ((alice, "1/4"), (bob, "1/2")):
        await desk.run_cells(0, 4, "test accuracy after one epoch on cpu")
        await desk.attach(share)
    for desk in (alice, bob):
        await desk.run_cells(5, 5, "device: cuda - Elara emulated device (CPU)")
    await alice.run_cells(6, 6, "test accuracy: 0.9")
    await alice.run_cells(7, 7, "test accuracy on the CPU: 0.9")
    await alice.detach()
    await expect(bob.button).to_have_attribute("data-state", "attached")
    await bob.detach()
    # Her run is in her project's MLflow, where he is nobody.
    path = "/services/mlflow/api/2.0/mlflow/experiments/get-by-name?experiment_name=digits"
    for name, allowed in (("alice", {200}), ("bob", {401, 403})):
        http = (await contained.person(name, PASSWORD)).http
        assert (await http.get(path, headers={"X-MLFLOW-WORKSPACE": "vision--cats"})).status_code in allowed


async def test_neither_sees_the_other_s_files_and_processes(
    contained: Instance, desks: tuple[Desk, Desk], docker_engine: Engine
) -> None:
    hers = "echo hers | tee ~/marker-of-alice ~/projects/vision/cats/marker-of-alice /scratch/marker-of-alice"
    docker_engine.run("exec", workspace(contained, "alice"), "sh", "-c", hers + " > /tmp/marker-of-alice")
    bob = await contained.person("bob", PASSWORD)
    async with RemoteKernel(bob.workspace_url(), bob.token) as kernel:
        code = (
            "import os, subprocess\n"
            "found = subprocess.run(['find', '/', '-path', '/proc', '-prune', '-o', '-name', 'marker-of-alice',"
            " '-print'], capture_output=True, text=True).stdout\n"
            "print(repr(found), os.listdir('/home/elara/projects'), os.path.exists('/var/run/docker.sock'))\n"
            "commands = [open(f'/proc/{p}/cmdline', 'rb').read() for p in os.listdir('/proc') if p.isdigit()]\n"
            "print(len(commands) > 1, any(b'alice' in command for command in commands))"
        )
        assert (await kernel.run(code)).stdout.splitlines() == ["'' ['sound'] False", "True False"]


async def test_neither_reaches_the_other_nor_the_parts(
    contained: Instance, desks: tuple[Desk, Desk], docker_engine: Engine
) -> None:
    ours = place.read(contained.data)
    assert ours is not None
    address = docker_engine.run(
        "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", workspace(contained, "alice")
    ).strip()
    listening = {
        connection.laddr.port
        for part in ("hub", "service", "mlflow", "proxy", "node")
        for connection in psutil.Process(contained.part(part)["pid"]).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    closed = [(address, 8888), (workspace(contained, "alice"), 8888), ("169.254.169.254", 80)]
    closed += [(ours.gateway, port) for port in sorted(listening)]
    bob = await contained.person("bob", PASSWORD)
    async with RemoteKernel(bob.workspace_url(), bob.token) as kernel:
        outcomes = json.loads((await kernel.run(trying(closed))).stdout)
    reached = {target for target, outcome in zip(closed, outcomes, strict=True) if outcome == "open"}
    # Open to him: the way to hub, service and MLflow, and the node's data port, which asks for a lease's secret.
    assert (ours.gateway, contained.port) in reached
    assert len(reached) == 2, reached


USE = """
import os, pathlib, subprocess, sys
folder = pathlib.Path("/tmp/{name}")
folder.mkdir(mode=0o700)
(folder / "ca.pem").write_text({ca!r})
(folder / "attachment").write_text({attachment!r})
code = "import torch; print(torch.ones(2, device='cuda').sum().item())"
there = {{**os.environ, "ELARA_RUNTIME_DIR": str(folder)}}
done = subprocess.run([sys.executable, "-c", code], env=there, capture_output=True, text=True)
print(done.stdout, done.stderr)
"""


async def test_neither_gets_into_the_other_s_gpu_session(
    contained: Instance, desks: tuple[Desk, Desk], docker_engine: Engine
) -> None:
    """Though he knows her lease, her node and her authority: everything but the secret, for which his own stands."""
    alice, bob = await contained.person("alice", PASSWORD), await contained.person("bob", PASSWORD)
    given = {}
    for person in (alice, bob):
        await attach(person)
        text = docker_engine.run("exec", workspace(contained, person.name), "cat", "/run/elara/attachment")
        read = parse(text)
        authority = docker_engine.run("exec", workspace(contained, person.name), "cat", str(read.devices[0].ca))
        device = replace(read.devices[0], ca=f"/tmp/{person.name}/ca.pem")
        given[person.name] = (replace(read, devices=(device,)), authority)
    (hers, her_ca), (his, his_ca) = given["alice"], given["bob"]
    forged = replace(hers, devices=(replace(hers.devices[0], secret=his.devices[0].secret),))
    async with RemoteKernel(bob.workspace_url(), bob.token) as kernel:
        own = await kernel.run(USE.format(name="bob", ca=his_ca, attachment=his.render()))
        assert own.stdout.strip() == "2.0", own
        tried = await kernel.run(USE.format(name="alice", ca=her_ca, attachment=forged.render()))
        assert "2.0" not in tried.stdout and "secret" in tried.stdout, tried
        # Her runtime folder, where hers lies, is in her container alone.
        code = f"import subprocess; print(subprocess.run(['grep', '-rl', {hers.devices[0].secret!r}, '/run', '/tmp'],"
        assert (await kernel.run(code + " capture_output=True, text=True).stdout)")).stdout.strip() == ""
    for person in (alice, bob):
        await detach(person)
    await seconds_until_free(alice, WHOLE_POOL, 10)


async def test_a_killed_container_gives_its_devices_back(
    contained: Instance, desks: tuple[Desk, Desk], docker_engine: Engine
) -> None:
    bob = await contained.person("bob", PASSWORD)
    lease = await attach(bob, 500)
    docker_engine.run("kill", workspace(contained, "bob"))
    await seconds_until_free(bob, WHOLE_POOL, GRACE_SECONDS)
    ended = (await bob.http.get(f"/services/elara/api/v1/leases/{lease['id']}")).json()
    assert ended["state"] == "ended", ended
