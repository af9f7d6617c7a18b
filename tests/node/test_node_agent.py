"""The agent against a service that is there, lies, dies and comes back."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest
from node_harness import GIB, STANDIN, alive, open_session, until
from service_standin import TOKEN, Service

from elara_remoting.node.agent import Agent, AgentOptions
from elara_remoting.node.devices import EmulatedDevices
from elara_remoting.node.identity import IdentityError

HERE = Path(__file__).parent
A = "a" * 32


@pytest.fixture
async def service():
    started = Service()
    await started.start()
    yield started
    await started.stop()


def options(service, folder, **more):
    return AgentOptions(service.api_url, Path(folder), "n1", TOKEN, zygote=STANDIN, **more)


def make(service, folder, **more):
    return Agent(options(service, folder, **more), EmulatedDevices(2, GIB, seed="test"))


@contextlib.asynccontextmanager
async def running_agent(service, folder, **more):
    agent = await asyncio.to_thread(make, service, folder, **more)
    task = asyncio.create_task(agent.run())
    try:
        await until(lambda: service.socket is not None and agent.channel.welcomed.is_set(), what="the welcome")
        yield agent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def start_order(lease=A, generation=1, ttl=60, share=500, uuid=None):
    uuid = uuid or EmulatedDevices(2, GIB, seed="test").devices()[0].uuid
    device = {"uuid": uuid, "ordinal": 0, "share": share, "memory_bytes": GIB * share // 1000}
    return {"type": "lease_start", "lease_id": lease, "generation": generation, "ttl_seconds": ttl, "devices": [device]}


async def leased(service, lease=A, **more):
    await service.tell(**start_order(lease, **more))
    return await until(lambda: service.got("lease_ready", lease), what="lease_ready")


async def test_joins_proves_itself_and_reports(service, tmp_path):
    async with running_agent(service, tmp_path):
        (hello,) = service.hellos
        assert [device["emulated"] for device in hello["devices"]] == [True, True]
        assert hello["leases"] == [] and hello["data_local"].endswith("data.sock")
        await until(lambda: service.got("status"), what="a report")
        await until(lambda: (tmp_path / "ready").exists(), what="the ready file")
        assert (tmp_path / "ready").read_text().strip() == str(os.getpid())
    assert not (tmp_path / "ready").exists()
    for name in ("identity.json", "leases.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


async def test_the_identity_is_kept_and_the_token_spent_once(service, tmp_path):
    async with running_agent(service, tmp_path):
        pass
    async with running_agent(service, tmp_path):
        first, second = service.hellos
        assert first["node_id"] == second["node_id"]
        assert first["boot_id"] != second["boot_id"]
    with pytest.raises(IdentityError, match=r"used before.*new join token"):
        await asyncio.to_thread(make, service, tmp_path / "another")


async def test_a_lease_from_start_to_end(service, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    async with running_agent(service, tmp_path) as agent:
        ready = await leased(service)
        (grant,) = ready["grants"]
        assert grant["memory_bytes"] == GIB // 2 and len(grant["secret"]) == 64 and "CERTIFICATE" in grant["ca_pem"]
        session = await open_session(agent.node, A)
        await session.ask("reserve 777")
        report = await until(
            lambda: next(
                (r for r in (service.got("status") or {}).get("leases", []) if r["used_bytes"] == [777]), None
            ),
            what="a report of the memory in use",
        )
        assert report["state"] == "active" and report["sessions"] == 1 and report["cap_bytes"] == [GIB // 2]
        await service.tell(type="lease_stop", lease_id=A, reason="detached")
        ended = await until(lambda: service.got("lease_ended", A))
        assert ended["reason"] == "detached" and ended["usage"]["sessions"] == 1
        assert await session.rest() == b""
        await service.tell(type="lease_stop", lease_id=A, reason="detached")
        await until(lambda: sum(m["type"] == "lease_ended" for m in service.messages) == 2)
        assert service.messages[-1]["usage"] == ended["usage"], "asked again, the same answer"
    assert grant["secret"] not in caplog.text


async def test_an_unknown_lease_is_confirmed_as_ended(service, tmp_path):
    async with running_agent(service, tmp_path):
        await service.tell(type="lease_stop", lease_id="f" * 32, reason="unknown")
        assert (await until(lambda: service.got("lease_ended", "f" * 32)))["reason"] == "unknown"


async def test_what_cannot_be_leased_is_refused_in_words(service, tmp_path):
    async with running_agent(service, tmp_path):
        await service.tell(**start_order(uuid="GPU-elsewhere"))
        failed = await until(lambda: service.got("lease_failed", A))
        assert failed["reason"] == "unknown_device" and "GPU-elsewhere" in failed["message"]


async def test_work_goes_on_while_the_service_is_away_and_the_next_hello_tells_of_it(service, tmp_path):
    async with running_agent(service, tmp_path) as agent:
        grants = (await leased(service))["grants"]
        session = await open_session(agent.node, A)
        await session.ask("reserve 100")
        await service.stop()
        assert await session.ask("reserve 1") == "ok"
        another = await open_session(agent.node, A)
        assert await another.ask("reserve 1") == "ok"
        await service.start()
        await until(lambda: len(service.hellos) == 2, what="the node's return")
        (lease,) = service.hellos[1]["leases"]
        assert lease["lease_id"] == A and lease["grants"] == grants and lease["used_bytes"] == [102]
        assert service.hellos[0]["boot_id"] == service.hellos[1]["boot_id"]


async def test_a_lease_that_ends_while_the_service_is_away_is_told_afterwards(service, tmp_path):
    async with running_agent(service, tmp_path) as agent:
        await leased(service, ttl=0.6)
        session = await open_session(agent.node, A)
        await session.ask("pid")
        await service.stop()
        assert await session.rest() == b"", "the node's own clock ended it"
        await service.start()
        ended = await until(lambda: service.got("lease_ended", A))
        assert ended["reason"] == "expired" and service.hellos[1]["leases"] == []


async def test_extending_moves_the_end(service, tmp_path):
    async with running_agent(service, tmp_path):
        await leased(service, ttl=60)
        await service.tell(type="lease_extend", lease_id=A, ttl_seconds=0.1)
        assert (await until(lambda: service.got("lease_ended", A)))["reason"] == "expired"


@pytest.mark.parametrize(
    "nonsense",
    [
        '{"type": "lease_start"}',
        '{"type": "lease_start", "lease_id": "../../etc", "generation": 1, "ttl_seconds": 5, "devices": []}',
        json.dumps({**start_order(), "ttl_seconds": "soon"}),
        json.dumps({**start_order(), "ttl_seconds": 1e400}),
        json.dumps({**start_order(), "ttl_seconds": -5}),
        json.dumps({**start_order(), "generation": None}),
        json.dumps({**start_order(), "devices": "all"}),
        '{"type": "lease_extend", "lease_id": 7, "ttl_seconds": NaN}',
        '{"type": "format_disks"}',
        '{"no": "type"}',
    ],
)
async def test_nonsense_from_the_service_harms_nothing(service, tmp_path, nonsense):
    async with running_agent(service, tmp_path):
        await service.tell_raw(nonsense)
        await leased(service, "b" * 32)
        assert service.got("lease_ready", A) is None
        assert len(service.hellos) == 1


@pytest.mark.parametrize("words", ["not json", "[1, 2]", '{"type": "welcome"}', '{"type": "challenge"}'])
async def test_a_service_that_does_not_keep_to_the_protocol_is_dialled_again(service, tmp_path, words):
    service.first_words = words
    agent = await asyncio.to_thread(make, service, tmp_path)
    task = asyncio.create_task(agent.run())
    await asyncio.sleep(0.3)
    service.first_words = None
    await until(lambda: service.socket is not None, what="the channel")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_refusal_stands_in_the_log(service, tmp_path, caplog):
    service.refuse = "This node does not belong to the pool any more."
    agent = await asyncio.to_thread(make, service, tmp_path)
    task = asyncio.create_task(agent.run())
    await until(lambda: "does not belong to the pool" in caplog.text, what="the refusal in the log")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_orderly_end_stops_the_leases_and_tells_their_usage(service, tmp_path):
    async with running_agent(service, tmp_path) as agent:
        await leased(service)
        session = await open_session(agent.node, A)
        pid = int(await session.ask("pid"))
    ended = await until(lambda: service.got("lease_ended", A))
    assert ended["reason"] == "node_stopped" and ended["usage"]["sessions"] == 1
    assert not alive(pid)


async def test_two_agents_do_not_share_a_folder(service, tmp_path):
    async with running_agent(service, tmp_path):
        with pytest.raises(IdentityError, match="Another node agent runs"):
            await asyncio.to_thread(make, service, tmp_path)


async def test_a_node_without_identity_and_token_says_what_to_do(service, tmp_path):
    with pytest.raises(IdentityError, match="join token"):
        Agent(AgentOptions(service.api_url, tmp_path, "n1"), EmulatedDevices(1, GIB))
    (tmp_path / "identity.json").write_text("{half")
    with pytest.raises(IdentityError, match="damaged"):
        Agent(AgentOptions(service.api_url, tmp_path, "n1"), EmulatedDevices(1, GIB))


async def test_the_socket_finds_a_short_path_when_the_folder_s_is_too_long(service, tmp_path):
    deep = tmp_path / ("deep" * 20) / "node"
    async with running_agent(service, deep) as agent:
        await leased(service)
        session = await open_session(agent.node, A)
        assert int(await session.ask("pid")) > 0
        assert os.stat(Path(agent.node.addresses.local).parent).st_mode & 0o777 == 0o700


async def test_an_agent_killed_and_started_again_adds_up(service, tmp_path):
    program = textwrap.dedent("""
        import asyncio, sys
        sys.path.insert(0, sys.argv[1])
        from pathlib import Path
        from node_harness import GIB, STANDIN
        from elara_remoting.node.agent import Agent, AgentOptions
        from elara_remoting.node.devices import EmulatedDevices
        options = AgentOptions(sys.argv[2], Path(sys.argv[3]), "n1", "one-time-token", zygote=STANDIN)
        asyncio.run(Agent(options, EmulatedDevices(2, GIB, seed="test")).run())
    """)
    command = [sys.executable, "-c", program, str(HERE), service.api_url, str(tmp_path)]
    first = await asyncio.create_subprocess_exec(*command)
    await until(lambda: service.socket is not None, what="the first life")
    (grant,) = (await leased(service))["grants"]

    class Node:
        addresses = type("Addresses", (), {"local": grant["local"]})

    session = await open_session(Node, A)
    pid = int(await session.ask("pid"))
    await session.ask("reserve 4096")
    await session.ask("stubborn")
    await until(lambda: '"operators": 1' in (tmp_path / "leases.json").read_text(), what="the journal")
    first.send_signal(signal.SIGKILL)
    await first.wait()
    await until(lambda: not alive(pid), seconds=3, what="the end of the device server")
    assert await session.rest() == b""
    service.socket = None
    second = await asyncio.create_subprocess_exec(*command)
    await until(lambda: service.socket is not None, what="the second life")
    assert service.hellos[1]["leases"] == []
    assert service.hellos[0]["boot_id"] != service.hellos[1]["boot_id"]
    assert [d["uuid"] for d in service.hellos[0]["devices"]] == [d["uuid"] for d in service.hellos[1]["devices"]]
    # The service, finding the lease gone, asks for its end, and gets the usage that the first life wrote down.
    await service.tell(type="lease_stop", lease_id=A, reason="node_restarted")
    ended = await until(lambda: service.got("lease_ended", A))
    assert ended["reason"] == "node_restarted" and ended["usage"]["operators"] == 1
    await leased(service, "b" * 32, share=1000)
    second.terminate()
    await second.wait()
