"""What goes on, and what is said, when a part dies under a notebook that trains."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import psutil
import pytest

from elara_hub.demo.kernel import CellFailed, RemoteKernel
from elara_hub.demo.person import Person
from tests.journey.conftest import GRACE_SECONDS, PASSWORD
from tests.journey.people import TRAINING, at_work, attach, detach, pool_free, seconds_until_free
from tests.support.instance import Instance

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]
WHOLE_POOL = 2000


def device_servers(elara: Instance) -> list[psutil.Process]:
    """The sessions' processes in the order of their start; last the one in reserve.

    They are forks of the zygote, which is the oldest process of that name.
    """
    node = psutil.Process(int(elara.part("node")["pid"]))
    named = [p for p in node.children(recursive=True) if "elara_remoting.node.zygote" in " ".join(p.cmdline())]
    return sorted(named, key=lambda process: process.create_time())[1:]


async def test_a_killed_device_server_harms_its_own_notebook_only(elara: Instance) -> None:
    alice = await elara.person("alice", PASSWORD)
    async with at_work(alice, "vision/cats") as kernel:
        await attach(alice)
        await kernel.run(TRAINING)
        before = {process.pid for process in device_servers(elara)}
        async with RemoteKernel(alice.workspace_url(), alice.token) as other:
            await other.run(TRAINING)
            # The second session took the reserve of before; the newer process is the next reserve.
            sessions = [process for process in device_servers(elara) if process.pid in before]
            sessions[-1].kill()
            with pytest.raises(CellFailed, match=r"RuntimeError.*cuda:0"):
                await other.run("steps(500)")
            # The kernel lives: its variables are there, only the device's tensors are gone.
            await other.run("assert first > 0")
            await kernel.run("assert steps(50) < first")
        await detach(alice)
        await attach(alice)
        await kernel.run(TRAINING + "assert steps(50) < first")
        await detach(alice)
        await seconds_until_free(alice, WHOLE_POOL, 10)


async def test_training_goes_on_while_the_service_and_the_hub_restart(elara: Instance) -> None:
    alice = await elara.person("alice", PASSWORD)
    async with at_work(alice, "vision/cats") as kernel:
        lease = await attach(alice)
        await kernel.run(TRAINING)
        for part in ("service", "hub"):
            restart = asyncio.create_task(elara.restart(part))
            trained = 0
            while not restart.done():
                await kernel.run("steps(20)")
                trained += 1
            await restart
            assert trained > 0
        await kernel.run("assert steps(20) < first")
        state = (await alice.http.get(f"/services/elara/api/v1/leases/{lease['id']}")).json()["state"]
        assert state == "active"
        assert await pool_free(alice) == WHOLE_POOL - 250
        await detach(alice)
        await seconds_until_free(alice, WHOLE_POOL, 10)


async def test_a_restarted_node_loses_its_sessions_and_says_so(elara: Instance) -> None:
    alice = await elara.person("alice", PASSWORD)
    async with at_work(alice, "vision/cats") as kernel:
        await attach(alice)
        await kernel.run(TRAINING)
        restarts = int(elara.part("node")["restarts"])
        elara.kill("node")
        with pytest.raises(CellFailed, match="RuntimeError"):
            await kernel.run("while True: steps(20)")
        await elara.wait_ready("node", restarts=restarts + 1)
        await seconds_until_free(alice, WHOLE_POOL, 60)
        # The same kernel, once there is a device again.
        await elara.until(lambda: _attaches(alice), "a second attachment", 60)
        await kernel.run(TRAINING + "assert steps(50) < first")
        await detach(alice)
        await seconds_until_free(alice, WHOLE_POOL, 10)


async def _attaches(person: Person) -> bool:
    """Whether the workspace got a device; it may first have to notice that the last one is lost."""
    body = {"count": 1, "share": 250, "minutes": 30}
    answer = await person.http.post(person.workspace_url() + "elara/attach", json=body)
    return answer.status_code == 200


async def test_a_stopped_workspace_gives_its_devices_back(elara: Instance) -> None:
    alice = await elara.person("alice", PASSWORD)
    async with at_work(alice, "vision/cats") as kernel:
        await attach(alice, 1000)
        await kernel.run(TRAINING)
        assert await pool_free(alice) == WHOLE_POOL - 1000
        began = time.monotonic()
        await alice.stop_workspace()
        await seconds_until_free(alice, WHOLE_POOL, 10)
        assert time.monotonic() - began < 20


async def test_a_workspace_killed_without_a_word_loses_its_lease_after_the_grace(elara: Instance) -> None:
    bob = await elara.person("bob", PASSWORD)
    await bob.stop_workspace()
    await bob.start_workspace({"project": "sound/birds"})
    await attach(bob, 500)
    for process in _workspace_processes(elara, "bob"):
        os.kill(process.pid, signal.SIGSTOP)
    try:
        await seconds_until_free(bob, WHOLE_POOL, GRACE_SECONDS + 20)
    finally:
        for process in _workspace_processes(elara, "bob"):
            os.kill(process.pid, signal.SIGKILL)
    await bob.stop_workspace()


def _workspace_processes(elara: Instance, user: str) -> list[psutil.Process]:
    """The Jupyter server of a user, told by its runtime folder."""
    found = []
    for process in psutil.process_iter():
        try:
            runtime = process.environ().get("ELARA_RUNTIME_DIR", "")
        except psutil.Error:
            continue
        if runtime.startswith(str(elara.data / "run" / user)):
            found.append(process)
    return found
