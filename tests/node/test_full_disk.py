"""A node whose disk is full: what runs goes on, what is new works or is refused in words, and nothing hangs.

The log of agent and device servers goes to /dev/full all the time, and what the agent writes into its state folder goes
there while the file `full` lies beside that folder: the kernel refuses it as on a disk without room, and no rights to
mount one are needed.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest
from node_harness import GIB, open_session, until
from service_standin import Service

from elara_remoting.node.devices import EmulatedDevices

HERE = Path(__file__).parent
A, B = "a" * 32, "b" * 32
PROGRAM = textwrap.dedent("""
    import asyncio, logging, os, sys, tempfile
    sys.path.insert(0, sys.argv[1])
    from pathlib import Path
    from node_harness import GIB, STANDIN
    from elara_remoting.node.agent import Agent, AgentOptions
    from elara_remoting.node.devices import EmulatedDevices
    from elara_remoting.node.identity import IdentityError
    logging.basicConfig(level=logging.INFO)
    state, mkstemp = Path(sys.argv[3]), tempfile.mkstemp
    def make(**options):
        if (state.parent / "full").exists():
            return os.open("/dev/full", os.O_WRONLY), str(state / "never-made")
        return mkstemp(**options)
    tempfile.mkstemp = make
    options = AgentOptions(sys.argv[2], state, "n1", "one-time-token", zygote=STANDIN)
    try:
        asyncio.run(Agent(options, EmulatedDevices(2, GIB, seed="test")).run())
    except IdentityError as error:
        print(error)
        sys.exit(1)
""")


class Node:
    """An agent in a process of its own."""

    def __init__(self, process, local):
        self.process, self.addresses = process, type("Addresses", (), {"local": str(local)})


@pytest.fixture
def folder(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    return state


@pytest.fixture
def full(tmp_path):
    """The file that stands for a full disk."""
    return tmp_path / "full"


@pytest.fixture
async def service():
    started = Service()
    await started.start()
    yield started
    await started.stop()


async def launch(service, folder, **more):
    command = [sys.executable, "-c", PROGRAM, str(HERE), service.api_url, str(folder)]
    log = os.open("/dev/full", os.O_WRONLY)
    try:
        return await asyncio.create_subprocess_exec(*command, stderr=log, **more)
    finally:
        os.close(log)


@contextlib.asynccontextmanager
async def running_agent(service, folder):
    service.socket = None
    process = await launch(service, folder)
    try:
        await until(lambda: service.socket is not None, what="the welcome")
        yield Node(process, folder / "data" / "data.sock")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        async with asyncio.timeout(20):
            await process.wait()


async def leased(service, lease, ordinal):
    uuid = EmulatedDevices(2, GIB, seed="test").devices()[ordinal].uuid
    device = {"uuid": uuid, "ordinal": 0, "share": 1000, "memory_bytes": GIB}
    await service.tell(type="lease_start", lease_id=lease, generation=1, ttl_seconds=60, devices=[device])
    await until(lambda: service.got("lease_ready", lease), what="lease_ready")


async def use(node, lease):
    session = await open_session(node, lease)
    assert await session.ask("reserve 100") == "ok"
    return session


def journal(folder):
    return json.loads((folder / "leases.json").read_text())


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_a_disk_that_gets_full_costs_no_attachment_and_no_new_one(service, folder, full):
    async with running_agent(service, folder) as node:
        await until((folder / "ready").exists, what="the ready file")
        await leased(service, A, 0)
        session = await use(node, A)
        await until(lambda: A in journal(folder), what="the journal")
        full.touch()
        assert await session.ask("reserve 100") == "ok"
        await use(node, A)
        await leased(service, B, 1)
        other = await use(node, B)
        # Nor does another zygote need a log.
        servers = {int(await each.ask("pid")) for each in (session, other)}
        killed = set(children(node.process.pid)) - servers
        for child in killed:
            os.kill(child, signal.SIGKILL)
        assert await other.ask("reserve 100") == "ok"
        await until(lambda: set(children(node.process.pid)) - servers - killed, what="another zygote")
        await use(node, B)
        await service.tell(type="lease_stop", lease_id=A, reason="detached")
        ended = await until(lambda: service.got("lease_ended", A), what="the end of the first lease")
        assert ended["reason"] == "detached" and ended["usage"]["sessions"] == 2
        assert list(journal(folder)) == [A], "as it was when the disk got full"
        full.unlink()
        await until(lambda: list(journal(folder)) == [B], what="the journal, once there is room again")


async def test_a_node_starts_on_a_full_disk_and_says_ready_once_there_is_room(service, folder, full):
    async with running_agent(service, folder):
        pass  # joins
    full.touch()
    async with running_agent(service, folder) as node:
        await leased(service, A, 0)
        session = await use(node, A)
        assert not (folder / "ready").exists()
        full.unlink()
        await until((folder / "ready").exists, what="the ready file, once there is room again")
        assert await session.ask("reserve 100") == "ok"


async def test_a_full_disk_does_not_cost_the_join_token(service, folder, full):
    full.touch()
    process = await launch(service, folder, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(30):
        said, _ = await process.communicate()
    assert process.returncode == 1 and "Make room there, then start again with the same join token" in said.decode()
    full.unlink()
    async with running_agent(service, folder):
        assert len(service.hellos) == 1
