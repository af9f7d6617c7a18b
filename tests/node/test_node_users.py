"""Whom device servers run as, and what they may use."""

import json
import os
import pwd
from pathlib import Path

import pytest
from node_harness import open_session, running_node, until

from elara_remoting.node import users
from elara_remoting.node.users import DYNAMIC, DeviceUsers, DeviceUsersError

ROOT = os.geteuid() == 0


async def session(node):
    await node.wait_warm()
    lease = node.lease_all(250, None)["lease_id"]
    return await open_session(node, lease)


async def status_of(session):
    return json.loads(await session.ask("status"))


def limits_of(pid):
    rows = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {row[:26].strip(): row[26:47].strip() for row in rows}


async def test_each_session_is_a_user_of_its_own_where_the_agent_is_root(node):
    first, second = await session(node), await session(node)
    seen = [await status_of(one) for one in (first, second)]
    uids = [set(one["Uid"].split()) for one in seen]
    gids = [set(one["Gid"].split()) for one in seen]
    assert all(len(ids) == 1 for ids in (*uids, *gids))
    if ROOT:
        assert uids[0] != uids[1] and uids == gids
        assert all(DYNAMIC[0] <= int(*ids) <= DYNAMIC[1] for ids in uids)
        assert all(one["Groups"] == "" and int(one["CapEff"], 16) == 0 for one in seen)
        assert "user of its own" in node.servers.users.sentence
    else:
        assert uids == [{str(os.geteuid())}] * 2
        assert "not root" in node.servers.users.sentence


async def test_a_device_server_is_limited_in_what_it_may_use(node):
    one = await session(node)
    pid = int(await one.ask("pid"))
    limits = limits_of(pid)
    assert limits["Max core file size"] == "0" and limits["Max file size"] == "0"
    assert int(limits["Max open files"]) <= 256
    held, cap = 1 << 30, 1 << 28
    assert int(limits["Max data size"]) < held + cap + cap // 4 + (2 << 30)
    if ROOT:
        assert int(limits["Max processes"]) < 1000
    assert await one.ask("try open('/dev/shm/elara-test','w')") in ("PermissionError", "OSError")
    assert await one.ask("try bytearray(8<<30)") == "MemoryError"


async def test_a_user_id_is_given_back_when_its_session_ends(tmp_path):
    async with running_node(tmp_path, device_users="62000-62000" if ROOT else "auto") as node:
        one = await session(node)
        uid = (await status_of(one))["Uid"].split()[0]
        if ROOT:
            assert uid == "62000"
            other = await session(node)
            assert b"All 1 user ids of the node are in use" in await other.rest()
        one.close()
        await until(lambda: not node.servers.users._taken)
        again = await session(node)
        assert (await status_of(again))["Uid"].split()[0] == uid


async def test_servers_of_one_node_cannot_signal_one_another(node):
    one, other = await session(node), await session(node)
    pid = await other.ask("pid")
    assert await one.ask(f"try os.kill({pid}, 9)") == "PermissionError"
    assert await one.ask(f"try open('/proc/{pid}/environ').read()") == "PermissionError"
    assert await other.ask("pid") == pid


async def test_an_agent_that_keeps_its_own_user_says_so_once(tmp_path, caplog):
    async with running_node(tmp_path, device_users="agent") as node:
        one = await session(node)
        assert (await status_of(one))["Uid"].split() == [str(os.geteuid())] * 4
    said = [record for record in caplog.records if "agent's own user" in record.message]
    assert len(said) == 1 and said[0].levelname == "WARNING"


def test_an_agent_without_root_cannot_be_told_to_use_other_users(monkeypatch):
    monkeypatch.setattr(users.os, "geteuid", lambda: 1000)
    assert not DeviceUsers().apart
    assert "not root" in DeviceUsers().sentence
    with pytest.raises(DeviceUsersError, match="Start the agent as root"):
        DeviceUsers("61184-61200")


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("nobody-of-this-name", "no account"),
        ("0-10", "not a range"),
        ("20-10", "not a range"),
        ("5000000000-5000000001", "do not exist"),
        (pwd.getpwuid(0).pw_name, "must not run as root"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(monkeypatch, setting, reason):
    monkeypatch.setattr(users, "_hindrance", lambda loads_later: None)
    with pytest.raises(DeviceUsersError, match=reason):
        DeviceUsers(setting)


async def test_a_server_that_crashes_is_told_by_its_signal_and_harms_no_other(tmp_path, caplog):
    caplog.set_level("INFO", logger="elara_remoting")
    async with running_node(tmp_path) as node:
        one, other = await session(node), await session(node)
        pid = int(await one.ask("pid"))
        await one.ask("crash")
        await until(lambda: any("crashed: SIGSEGV" in record.message for record in caplog.records))
        assert any(f"device server {pid}" in record.message for record in caplog.records)
        assert await other.ask("pid") != str(pid)
