"""Two nodes with real device servers share a lease: what is copied between them goes from node to node."""

import asyncio
import contextlib
import json
import os
import ssl
import sys

import pytest
from node_harness import GIB, answer_to, connect, running_node, sentence

from elara_remoting.node.lease_table import LeaseDevice, StartRequest
from elara_remoting.node.preamble import Kind, Preamble
from elara_remoting.node.servers import ZYGOTE
from elara_remoting.workspace import store_attachment

LEASE = "ab" * 16
PROGRAM = """
import json, sys, torch
from torch import nn
from elara_remoting import _client
first = torch.arange(4 << 20, dtype=torch.int32, device="cuda:0")
there = first.to("cuda:1")
torch.cuda.synchronize(0), torch.cuda.synchronize(1)
sent = sum(_client.counters(n)["bytes_sent"] for n in (0, 1))
back = (first.to("cuda:1") + there).to("cuda:0")
torch.cuda.synchronize(0), torch.cuda.synchronize(1)
sent = sum(_client.counters(n)["bytes_sent"] for n in (0, 1)) - sent

def losses(*devices):
    torch.manual_seed(0)
    stages = [nn.Linear(16, 16).to(device) for device in devices]
    inputs, targets = torch.randn(32, 16), torch.randn(32, 16)
    optimizer = torch.optim.AdamW([p for stage in stages for p in stage.parameters()], lr=1e-2)
    seen = []
    for _ in range(10):
        optimizer.zero_grad()
        values = inputs
        for stage, device in zip(stages, devices):
            values = torch.tanh(stage(values.to(device)))
        loss = (values - targets.to(devices[-1])).square().mean()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen

print(json.dumps({
    "right": torch.equal(back.cpu(), 2 * torch.arange(4 << 20, dtype=torch.int32)),
    "sent": sent,
    "same": losses("cuda:0", "cuda:1") == losses("cpu", "cpu"),
}))
"""


@contextlib.asynccontextmanager
async def pair(folder, *, neighbours=True):
    """Two nodes, each with one device of the lease and reached over TCP only; and the runtime folder of a client."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for number in (0, 1):
            (folder / f"node{number}").mkdir()
            open_node = running_node(folder / f"node{number}", devices=1, listen=("127.0.0.1", 0), zygote=ZYGOTE)
            nodes.append(await stack.enter_async_context(open_node))
        grants = []
        for ordinal, node in enumerate(nodes):
            (device,) = node.devices()
            wanted = (LeaseDevice(device.uuid, ordinal, 1000, GIB),)
            node.leases.start_lease(StartRequest(LEASE, 1, wanted, None))
            (grant,) = node.leases.grants(LEASE)
            told = {"model": device.model, "emulated": True, "share": 1000, "uuid": device.uuid}
            grants.append({**grant.to_json(), **told, "local": None})
        if neighbours:
            for ordinal, node in enumerate(nodes):
                other = 1 - ordinal
                node.leases.set_neighbours(LEASE, {other: nodes[other].addresses.tcp})
        for node in nodes:
            await node.wait_warm()
        runtime = folder / "runtime"
        runtime.mkdir()
        store_attachment(runtime, {"lease_id": LEASE, "devices": grants}, 0)
        yield nodes, runtime


async def run(program, runtime):
    """What a program printed last, as JSON."""
    environment = {**os.environ, "ELARA_RUNTIME_DIR": str(runtime), "OMP_NUM_THREADS": "1"}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment
    )
    async with asyncio.timeout(120):
        printed, complaints = await child.communicate()
    assert child.returncode == 0, complaints.decode()
    return json.loads(printed.splitlines()[-1])


async def test_copies_between_nodes_do_not_pass_the_client(tmp_path):
    async with pair(tmp_path) as (_, runtime):
        seen = await run(PROGRAM, runtime)
    assert seen["right"] and seen["same"]
    assert seen["sent"] < 10_000, "32 MiB went from node to node"


async def test_nodes_that_do_not_reach_each_other_are_gone_round(tmp_path):
    async with pair(tmp_path, neighbours=False) as (_, runtime):
        seen = await run(PROGRAM, runtime)
    assert seen["right"] and seen["same"]
    assert seen["sent"] > 32 << 20


INTERRUPTED = """
import json, sys, torch
first, second = (torch.ones(1 << 20, device=f"cuda:{n}") for n in (0, 1))
torch.cuda.synchronize(0), torch.cuda.synchronize(1)
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps(first.to("cuda:1").sum().item()))
"""


async def test_a_stranger_that_names_the_session_gets_no_word_in(tmp_path):
    """It knows lease and session, which travel in clear, and the certificate; not what the client told both servers."""
    async with pair(tmp_path) as (nodes, runtime):
        environment = {**os.environ, "ELARA_RUNTIME_DIR": str(runtime)}
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", INTERRUPTED),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        async with asyncio.timeout(60):
            assert await child.stdout.readline() == b"ready\n"
        ((session, _),) = nodes[1].leases._leases[LEASE].sessions
        reader, writer = await connect(nodes[1], over_tcp=True)
        writer.write(Preamble(Kind.LINK, 1, LEASE, session, peer_ordinal=0).pack())
        async with asyncio.timeout(10):
            assert await reader.readexactly(9) == b"ELARAPEER"
        context = ssl.create_default_context(cadata=nodes[1].leases.grants(LEASE)[0].ca_pem)
        context.check_hostname = False
        proving = asyncio.create_task(writer.start_tls(context))
        child.stdin.write(b"go\n")
        async with asyncio.timeout(60):
            await proving
            writer.write(b"?" * 32)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            printed, _ = await child.communicate()
    assert json.loads(printed) == float(1 << 20)


@pytest.mark.parametrize(
    ("kind", "ordinal", "peer", "expected"),
    [
        (Kind.LINK, 1, 7, "no such device on another node"),
        (Kind.LINK, 1, 0, "no such session here"),
        (Kind.PEER, 1, 0, "no such session here"),
    ],
)
async def test_what_does_not_belong_together_is_not_connected(tmp_path, kind, ordinal, peer, expected):
    async with running_node(tmp_path, devices=1, listen=("127.0.0.1", 0)) as node:
        (device,) = node.devices()
        node.leases.start_lease(StartRequest(LEASE, 1, (LeaseDevice(device.uuid, 1, 1000, GIB),), None))
        node.leases.set_neighbours(LEASE, {0: "127.0.0.1:1"})
        preamble = Preamble(kind, ordinal, LEASE, "5" * 32, peer_ordinal=peer)
        assert expected in sentence(await answer_to(node, preamble.pack(), over_tcp=True))
