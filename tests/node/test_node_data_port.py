import asyncio
import os
import signal
import socket
import time

import pytest
from node_harness import STANDIN, answer_to, ended, open_session, running_node, sentence, until, used

from elara_remoting.node import data_port
from elara_remoting.node.data_port import DataPort, DataPortError, LocalSocket
from elara_remoting.node.preamble import Kind, Preamble


async def test_a_session_reaches_its_own_device_server(node):
    await node.wait_warm()
    lease = node.lease_all(500, None)["lease_id"]
    first, second = await open_session(node, lease), await open_session(node, lease, 1)
    assert await first.ask("pid") != await second.ask("pid")


async def test_bytes_after_the_preamble_are_the_device_server_s(node):
    lease = node.lease_all(1000, None)["lease_id"]
    reader, writer = await asyncio.open_unix_connection(node.addresses.local)
    # In one segment: the agent must not swallow what follows its 64 bytes.
    writer.write(Preamble(Kind.COMMANDS, 0, lease, "5" * 32).pack() + b"pid\n")
    async with asyncio.timeout(15):
        assert int(await reader.readline()) > 0
    writer.close()


async def test_a_preamble_in_small_pieces_is_read(node):
    lease = node.lease_all(1000, None)["lease_id"]
    reader, writer = await asyncio.open_unix_connection(node.addresses.local)
    for byte in Preamble(Kind.COMMANDS, 0, lease, "5" * 32).pack():
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(b"pid\n")
    async with asyncio.timeout(15):
        assert int(await reader.readline()) > 0
    writer.close()


async def test_refusals_are_sentences(node):
    await node.wait_warm()
    lease = node.lease_all(1000, None)["lease_id"]
    good = Preamble(Kind.COMMANDS, 0, lease, "5" * 32).pack()
    cases = {
        b"GET / HTTP/1.1\r\n".ljust(64, b"x"): "remoting client only",
        good[:6] + b"\x07\0" + good[8:]: "same version of elara-remoting",
        good[:8] + b"\x63" + good[9:]: "no connection of kind 99",
        Preamble(Kind.COMMANDS, 0, "0" * 32, "5" * 32).pack(): "no such lease",
        Preamble(Kind.COMMANDS, 9, lease, "5" * 32).pack(): "Device 9 of this lease is not on this node",
        Preamble(Kind.BULK, 0, lease, "5" * 32).pack(): "no bulk connections",
        Preamble(Kind.PEER, 0, lease, "5" * 32, peer_ordinal=1).pack(): "no such session here",
        Preamble(Kind.PEER, 0, "0" * 32, "5" * 32, peer_ordinal=1).pack(): "no such lease",
    }
    for data, expected in cases.items():
        assert expected in sentence(await answer_to(node, data))


async def test_a_second_command_stream_of_one_session_is_refused(node):
    await node.wait_warm()
    lease = node.lease_all(1000, None)["lease_id"]
    first = await open_session(node, lease, session_id="7" * 32)
    await first.ask("pid")
    second = await open_session(node, lease, session_id="7" * 32)
    assert "already has a connection" in sentence(await second.rest())
    assert int(await first.ask("pid")) > 0


async def test_a_connection_that_resumes_reaches_the_device_server_that_is_there(node):
    await node.wait_warm()
    lease = node.lease_all(1000, None)["lease_id"]
    first = await open_session(node, lease, session_id="7" * 32)
    await first.ask("pid")
    second = await open_session(node, lease, session_id="7" * 32, resume=True)
    assert await first.ask("take") == "resume local, client known: True"
    assert await second.rest() == b"resume local, client known: True\n"
    assert node.leases.report()[0]["sessions"] == 1


async def test_two_devices_of_a_session_are_connected_with_each_other_once(node):
    await node.wait_warm()
    lease = node.lease_all(1000, None)["lease_id"]
    mine = [await open_session(node, lease, number, session_id="7" * 32) for number in (0, 1)]
    other = await open_session(node, lease, 1, session_id="8" * 32)
    for session in (*mine, other):
        await session.ask("pid")
    wrong = Preamble(Kind.PEER, 0, lease, "8" * 32, peer_ordinal=1).pack()
    assert "no such session here" in sentence(await answer_to(node, wrong))
    for _ in range(2):
        assert await answer_to(node, Preamble(Kind.PEER, 0, lease, "7" * 32, peer_ordinal=1).pack()) == b"ELARAPEER"
    assert await mine[0].ask("take") == "peer 1, client known: True"
    assert await mine[1].ask("take") == "peer 0, client known: True"


async def test_who_comes_back_to_a_session_that_ended_is_told_why(node):
    await node.wait_warm()
    lease = node.lease_all(1000, None)["lease_id"]
    stranger = await open_session(node, lease, session_id="8" * 32, resume=True)
    assert sentence(await stranger.rest()) == "Its device server has ended."
    for end, why in (("quit", "said goodbye"), ("kill", "killed by SIGKILL")):
        session = await open_session(node, lease, session_id="7" * 32)
        pid = int(await session.ask("pid"))
        if end == "quit":
            await session.ask("quit")
        else:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: node.leases.report()[0]["sessions"] == 0)
        again = await open_session(node, lease, session_id="7" * 32, resume=True)
        assert sentence(await again.rest()) == f"Its device server has ended ({why})."


async def test_a_refusal_arrives_although_its_reader_had_sent_more(node):
    data = Preamble(Kind.COMMANDS, 0, "0" * 32, "5" * 32).pack() + b"x" * 5000
    assert "no such lease" in sentence(await answer_to(node, data))


async def test_who_says_nothing_is_closed_after_the_limit(node, monkeypatch):
    monkeypatch.setattr(data_port, "PREAMBLE_SECONDS", 0.3)
    began = time.monotonic()
    assert "sent nothing" in sentence(await answer_to(node, b"ELARA"))
    assert 0.2 < time.monotonic() - began < 3
    assert node.data_port.half_open == 0


async def test_who_goes_away_early_is_forgotten(node):
    assert await answer_to(node, b"ELARA\0", close_writing=True) == b""
    await until(lambda: node.data_port.half_open == 0)


async def test_200_idle_connections_do_not_keep_a_client_out(node):
    await node.wait_warm()
    lease = node.lease_all(1000, None)["lease_id"]
    idle = []
    for _ in range(200):
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, node.addresses.local)
        idle.append(connection)
    session = await open_session(node, lease)
    assert int(await session.ask("pid")) > 0
    assert node.data_port.half_open <= data_port.MAX_HALF_OPEN
    for connection in idle:
        connection.close()


async def test_a_connection_that_comes_before_the_zygote_is_warm_waits_for_it(tmp_path):
    async with running_node(tmp_path) as node:
        lease = node.lease_all(1000, None)["lease_id"]
        session = await open_session(node, lease)
        assert int(await session.ask("pid")) > 0


async def test_a_lease_that_ends_while_its_device_server_comes_up_leaves_nothing(tmp_path):
    slow = (*STANDIN[:1], "-c", "import time; time.sleep(60)")
    async with running_node(tmp_path, zygote=slow) as node:
        lease = node.lease_all(1000, None)["lease_id"]
        session = await open_session(node, lease)
        await until(lambda: node.leases.report()[0]["sessions"] == 1)
        node.leases.stop_lease(lease, "detached")
        await until(lambda: ended(node, lease), seconds=2)
        assert await session.rest() == b""


async def test_the_usage_of_a_lease_is_told_on_the_local_socket(node):
    await node.wait_warm()
    lease = node.lease_all(500, None)["lease_id"]
    session = await open_session(node, lease)
    await session.ask("reserve 12345")
    answer = await answer_to(node, Preamble(Kind.USAGE, 0, lease, "0" * 32).pack())
    assert answer.startswith(b"ELARAUSE") and b'"used_bytes": 12345' in answer
    assert used(node, lease) == 12345


async def test_tcp_tells_no_usage_and_gets_the_certificate(tmp_path):
    async with running_node(tmp_path, listen=("127.0.0.1", 0)) as node:
        await node.wait_warm()
        lease = node.lease_all(1000, None)["lease_id"]
        host, _, port = node.addresses.tcp.rpartition(":")

        async def connect(kind):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(Preamble(kind, 0, lease, os.urandom(16).hex()).pack())
            return reader, writer

        reader, writer = await connect(Kind.USAGE)
        assert "tells no usage" in sentence(await reader.read())
        writer.close()
        reader, writer = await connect(Kind.COMMANDS)
        writer.write(b"options\n")
        options = await reader.readline()
        assert b"BEGIN CERTIFICATE" in options and b"BEGIN PRIVATE KEY" in options
        writer.close()
        local = await open_session(node, lease)
        assert "BEGIN" not in await local.ask("options")


async def test_the_local_socket_is_for_this_user_only(node):
    mode = os.stat(node.addresses.local).st_mode
    assert mode & 0o777 == 0o600


async def test_a_group_may_be_let_in(tmp_path):
    port = DataPort()
    path = tmp_path / "shared" / "data.sock"
    port.open_local(LocalSocket(path, group_id=os.getgid()))
    assert os.stat(path).st_mode & 0o777 == 0o660
    assert os.stat(path.parent).st_mode & 0o777 == 0o710
    await port.close()
    assert not path.exists()


async def test_addresses_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(DataPortError, match="too long for a local socket"):
        DataPort().open_local(LocalSocket(tmp_path / ("x" * 120) / "data.sock"))
    port = DataPort()
    taken = port.open_tcp("127.0.0.1", 0)
    with pytest.raises(DataPortError, match=f"127.0.0.1:{taken}.*another address or port"):
        DataPort().open_tcp("127.0.0.1", taken)
    with pytest.raises(DataPortError, match=r"203\.0\.113\.9"):
        DataPort().open_tcp("203.0.113.9", 0)
    await port.close()
