"""The real agent and the real service together, and the commands of a workspace between them."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from node_harness import STANDIN, alive, until

from elara_remoting import attachment, workspace
from elara_remoting.workspace import LeaseRequest, WorkspaceClient

sys.path.insert(0, str(Path(__file__).parent.parent / "service"))

from service_world import API, open_world

# `elara node` with the stand-in for a zygote, which needs no torch.
STANDIN_NODE = """
import asyncio, sys
from pathlib import Path
from elara_remoting.cli.command import Signals
from elara_remoting.node.agent import Agent, AgentOptions
from elara_remoting.node.devices import EmulatedDevices
token, api, state, *zygote = sys.argv[1:]
async def run():
    Signals()
    options = AgentOptions(api, Path(state), "n1", Path(token).read_text(), zygote=tuple(zygote))
    await Agent(options, EmulatedDevices(2, 2**30, seed="test")).run()
asyncio.run(run())
"""


@pytest.fixture
async def world(tmp_path):
    # Real intervals are 10 s; a node that restarted must be noticed sooner than a test loses patience.
    async with open_world(tmp_path / "service", f"sqlite:///{tmp_path}/elara.sqlite", node_status_seconds=1) as opened:
        yield opened


@contextlib.asynccontextmanager
async def agent(world, folder, *, real=False):
    """An agent in a process of its own; killing it is the test's right. `real`: as `elara up` starts it."""
    token = folder.parent / "token"
    if not token.exists():
        answer = await world.http.post(f"{API}/internal/join-tokens", json={"name": "n1"}, headers=world.internal)
        token.write_text(answer.json()["token"])
    command = ["-c", STANDIN_NODE, str(token), world.url + API, str(folder), *STANDIN]
    if real:
        command = ["-m", "elara_remoting.node", "--api", world.url + API, "--data", str(folder), "--name", "n1"]
        command += ["--emulate", "2", "--device-memory", "1GiB", "--join-token-file", str(token)]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=asyncio.subprocess.DEVNULL)
    try:
        await until((folder / "ready").exists, seconds=120, what="a ready node")
        assert (folder / "ready").read_text().strip() == str(process.pid)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert not (folder / "ready").exists()


async def elara(world, token, runtime, *arguments):
    environment = {
        **os.environ,
        "ELARA_API_URL": world.url + API,
        "JUPYTERHUB_API_TOKEN": token,
        "ELARA_RUNTIME_DIR": str(runtime),
        "COLUMNS": "120",
    }
    command = arguments if arguments[0] == sys.executable else (sys.executable, "-m", "elara_remoting.cli", *arguments)
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, error = await process.communicate()
    return process.returncode, out.decode(), error.decode()


async def test_attach_compute_detach_from_a_terminal(world, tmp_path):
    runtime = tmp_path / "runtime"
    async with agent(world, tmp_path / "node", real=True):
        token = await world.workspace("ada")
        status, out, error = await elara(world, token, runtime, "attach", "-p", "1/2", "--minutes", "5")
        assert status == 0, error
        assert "cuda:0" in out and "[emulated (CPU)]" in out and "share 1/2, 512 MiB" in out
        assert await world.free() == 1500

        program = "import torch; print(torch.cuda.device_count(), (torch.ones(4, device='cuda') * 2).sum().item())"
        status, out, error = await elara(world, token, runtime, sys.executable, "-c", program)
        assert out.split() == ["1", "8.0"], error

        status, out, _ = await elara(world, token, runtime, "smi", "--json")
        (device,) = json.loads(out)["devices"]
        assert device["share"] == 500 and device["memory_bytes"] == 2**29 and device["used_bytes"] == 0

        status, _, error = await elara(world, token, runtime, "attach")
        assert status == 1 and "attached already" in error
        status, out, error = await elara(world, token, runtime, "detach")
        assert status == 0 and "Handed back 1 device" in out
        await world.until_free(2000)
        status, out, _ = await elara(world, token, runtime, "detach")
        assert status == 0 and "Nothing is attached" in out
        status, out, error = await elara(world, token, runtime, "attach", "-n", "3")
        assert status == 1 and len(error.splitlines()) <= 4 and "Traceback" not in error


async def test_a_killed_agent_loses_the_lease_and_the_shares_add_up(world, tmp_path):
    runtime, folder = tmp_path / "runtime", tmp_path / "node"
    async with agent(world, folder) as first, WorkspaceClient(world.url + API, await world.workspace("ada")) as client:
        lease = await workspace.attach(client, runtime, LeaseRequest(count=2))
        device = attachment.read(runtime).devices[0]
        reader, writer = await asyncio.open_unix_connection(device.local)
        writer.write(_preamble(lease["id"]))
        writer.write(b"reserve 4096\npid\n")
        assert await reader.readline() == b"ok\n"
        pid = int(await reader.readline())
        assert await world.free() == 0
        first.send_signal(signal.SIGKILL)
        await first.wait()
        (folder / "ready").unlink()  # what a supervisor does before it starts a part again
        await until(lambda: not alive(pid), seconds=3, what="the end of the device server")
        async with agent(world, folder):
            ended = await client.lease(lease["id"], wait_for="ended")
            assert ended["state"] == "ended" and ended["end_reason"] == "node_restarted"
            await world.until_free(2000)
            again = await workspace.attach(client, runtime, LeaseRequest(count=2))
            assert again["state"] == "active" and attachment.read(runtime).epoch == 2
            await workspace.release(client, runtime, again["id"])
        writer.close()


async def test_an_orderly_end_of_the_node_ends_its_leases_with_their_usage(world, tmp_path):
    token = await world.workspace("ada")
    async with WorkspaceClient(world.url + API, token) as client:
        async with agent(world, tmp_path / "node"):
            lease = await workspace.attach(client, tmp_path / "runtime", LeaseRequest())
        ended = await client.lease(lease["id"], wait_for="ended")
        assert ended["end_reason"] == "node_stopped"


def _preamble(lease_id):
    from elara_remoting.node.preamble import Kind, Preamble

    return Preamble(Kind.COMMANDS, 0, lease_id, "5" * 32).pack()
