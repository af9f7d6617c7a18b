"""The life and death of zygote, device servers and the process that started them."""

import asyncio
import json
import os
import signal
import sys
import textwrap
import time
from pathlib import Path

from node_harness import STANDIN, alive, ended, open_session, running_node, until, used

from elara_remoting.node.users import world_readable

HERE = Path(__file__).parent


def proc(pid, name):
    return Path(f"/proc/{pid}/{name}").read_bytes()


async def session_with_memory(node, amount=1000):
    await node.wait_warm()
    lease = node.lease_all(1000, None)["lease_id"]
    session = await open_session(node, lease)
    assert await session.ask(f"reserve {amount}") == "ok"
    return lease, session, int(await session.ask("pid"))


async def test_a_killed_device_server_gives_its_memory_back_and_harms_no_other(node):
    lease, session, pid = await session_with_memory(node)
    other = await open_session(node, lease)
    await other.ask("reserve 50")
    os.kill(pid, signal.SIGKILL)
    assert await session.rest() == b""
    await until(lambda: used(node, lease) == 50)
    assert await other.ask("reserve 1") == "ok"
    assert node.leases.report()[0]["sessions"] == 1


async def test_a_client_that_leaves_frees_everything(node):
    lease, session, pid = await session_with_memory(node)
    session.close()
    await until(lambda: used(node, lease) == 0 and not alive(pid))
    assert node.leases.report()[0]["sessions"] == 0


async def test_the_end_of_a_lease_stops_even_a_stubborn_server_within_two_seconds(node):
    lease, session, pid = await session_with_memory(node, 4096)
    await session.ask("stubborn")
    began = time.monotonic()
    node.leases.stop_lease(lease, "detached")
    confirmation = await until(lambda: ended(node, lease), seconds=3)
    assert time.monotonic() - began < 2
    assert not alive(pid)
    assert confirmation["reason"] == "detached"
    usage = confirmation["usage"]
    assert usage["sessions"] == 1 and usage["operators"] == 1 and usage["busy_seconds"] == 0.001
    assert usage["seconds"] > 0 and usage["device_seconds"] >= 2 * usage["seconds"] - 0.01, "two whole devices"
    assert node.leases.report() == []


async def test_a_lease_ends_by_itself_when_its_time_is_over(node):
    lease, session, pid = await session_with_memory(node)
    node.leases.extend_lease(lease, 0.2)
    confirmation = await until(lambda: ended(node, lease), seconds=3)
    assert confirmation["reason"] == "expired"
    assert await session.rest() == b"" and not alive(pid)


async def test_sessions_outlive_a_killed_zygote_and_new_ones_come(node):
    lease, session, pid = await session_with_memory(node)
    before = node.servers.zygote_pid
    os.kill(before, signal.SIGKILL)
    await until(lambda: node.servers.zygote_pid not in (None, before), what="a new zygote")
    assert await session.ask("pid") == str(pid)
    another = await open_session(node, lease)
    assert int(await another.ask("pid")) != pid
    assert used(node, lease) == 1000


async def test_a_stopped_zygote_is_replaced_when_it_does_not_answer(node, monkeypatch):
    from elara_remoting.node import servers

    await node.wait_warm()
    monkeypatch.setattr(servers, "SPAWN_SECONDS", 2.0)
    os.kill(node.servers.zygote_pid, signal.SIGSTOP)
    lease = node.lease_all(1000, None)["lease_id"]
    # The first may find one that waited already, the second cannot.
    for session in [await open_session(node, lease) for _ in range(2)]:
        assert int(await session.ask("pid")) > 0


async def test_a_device_server_has_given_up_what_it_does_not_need(node, monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "not for a device server")
    _, session, pid = await session_with_memory(node)
    environment = json.loads(await session.ask("env"))
    assert environment["ELARA_DISABLE"] == "1"
    assert not any("TOKEN" in name for name in environment)
    assert len(os.listdir(f"/proc/{pid}/fd")) <= 8, "in, out, err, connection, ledger, its mapping, control, client"
    status = json.loads(await session.ask("status"))
    assert status["NoNewPrivs"] == "1"
    limits = proc(pid, "limits").decode()
    assert "Max core file size        0                    0" in limits
    assert os.getsid(pid) == pid
    assert status["PPid"] == str(os.getpid())


async def test_the_agent_s_environment_of_a_zygote_has_no_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    async with running_node(tmp_path) as node:
        await node.wait_warm()
        environment = proc(node.servers.zygote_pid, "environ")
        assert b"AWS_SECRET" not in environment
        lease = node.lease_all(1000, None)
        secret = lease["devices"][0]["secret"].encode()
        for pid in (node.servers.zygote_pid, os.getpid()):
            assert secret not in proc(pid, "cmdline")
        assert secret.decode() not in repr(node.leases.grants(lease["lease_id"]))


async def test_a_zygote_that_cannot_start_is_told_to_the_client(tmp_path):
    program = (
        "import os, socket, sys; s = socket.socket(fileno=int(sys.argv[1]));"
        's.send(b\'{"type": "broken", "message": "no core for this torch"}\')'
    )
    async with running_node(tmp_path, zygote=(sys.executable, "-c", program)) as node:
        lease = node.lease_all(1000, None)["lease_id"]
        session = await open_session(node, lease)
        assert b"no core for this torch" in await session.rest()
        assert node.leases.report()[0]["sessions"] == 0


async def test_closing_a_node_leaves_no_process_and_no_socket(tmp_path):
    async with running_node(tmp_path) as node:
        _, session, pid = await session_with_memory(node)
        await session.ask("stubborn")
        zygote = node.servers.zygote_pid
    assert not alive(pid) and not alive(zygote)
    assert not list(tmp_path.iterdir())


async def test_nobody_outlives_a_node_that_was_killed(tmp_path):
    program = textwrap.dedent("""
        import asyncio, sys
        sys.path.insert(0, sys.argv[1])
        from node_harness import open_session, running_node
        async def main():
            async with running_node(sys.argv[2]) as node:
                lease = node.lease_all(1000, None)["lease_id"]
                sessions = [await open_session(node, lease, i % 2) for i in range(3)]
                pids = [await session.ask("pid") for session in sessions]
                await sessions[0].ask("stubborn")
                print(node.servers.zygote_pid, *pids, flush=True)
                await asyncio.Event().wait()
        asyncio.run(main())
    """)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(HERE), str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    pids = [int(word) for word in (await process.stdout.readline()).split()]
    assert len(pids) == 4 and all(map(alive, pids))
    process.kill()
    await process.wait()
    await until(lambda: not any(map(alive, pids)), seconds=3, what="the end of zygote and device servers")
    # And the folder serves the next one, in spite of the socket that lies there.
    async with running_node(tmp_path) as node:
        await session_with_memory(node)


async def test_64_sessions_on_one_device_is_one_too_many(tmp_path):
    async with running_node(tmp_path, zygote=STANDIN) as node:
        await node.wait_warm()
        lease = node.lease_all(1000, None)["lease_id"]
        sessions = [await open_session(node, lease) for _ in range(63)]
        pids = [await session.ask("pid") for session in sessions]
        assert len(set(pids)) == 63
        refused = await open_session(node, lease)
        assert b"63 sessions" in await refused.rest()
        sessions[0].close()
        await until(lambda: node.leases.report()[0]["sessions"] == 62)
        again = await open_session(node, lease)
        assert int(await again.ask("pid")) > 0


async def test_a_device_server_reaches_nothing_but_its_session(node, tmp_path):
    (tmp_path / "notebook.ipynb").write_text("someone's work")
    _, session, _ = await session_with_memory(node)
    # Python may lie where only root can read; a device server has what it needs loaded.
    libraries = not node.servers.users.apart or world_readable(Path(json.__file__).parent)
    attempts = {
        "socket.socket()": "PermissionError",
        "socket.socket(socket.AF_UNIX)": "PermissionError",
        "os.execv('/bin/true', ['true'])": "PermissionError",
        f"os.kill({os.getpid()}, 0)": "PermissionError",
        f"open('/proc/{os.getppid()}/environ', 'rb')": "PermissionError",
        f"open({str(tmp_path / 'notebook.ipynb')!r})": "PermissionError",
        f"open({str(tmp_path / 'new')!r}, 'w')": "PermissionError",
        f"os.unlink({str(tmp_path / 'notebook.ipynb')!r})": "PermissionError",
        "open('/proc/cpuinfo').read()": "True",
        "open(json.__file__).read()": "True" if libraries else "PermissionError",
        "__import__('threading').Thread(target=print).start() is None": "True",
    }
    assert {attempt: await session.ask(f"try {attempt}") for attempt in attempts} == attempts
    assert await session.ask("reserve 1") == "ok"
