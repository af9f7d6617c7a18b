"""A node with the real life cycle of processes; only the device server's `serve` is a stand-in that needs no torch."""

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path

from elara_remoting.node.data_port import LocalSocket
from elara_remoting.node.devices import EmulatedDevices
from elara_remoting.node.node import Node, NodeOptions
from elara_remoting.node.preamble import Kind, Preamble

STANDIN = (sys.executable, str(Path(__file__).parent / "standin_zygote.py"))
GIB = 2**30


async def until(condition, seconds=10.0, what="the condition"):
    """Poll until it holds; fails with its name when it does not."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
        await asyncio.sleep(0.01)
    return result


def alive(pid):
    """Whether a process runs; one that nobody has collected yet does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


class Session:
    """A client of the stand-in: sends a line, gets a line."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def ask(self, line):
        self.writer.write(line.encode() + b"\n")
        async with asyncio.timeout(15):
            return (await self.reader.readline()).decode().strip()

    async def rest(self):
        """What comes until the other side closes."""
        async with asyncio.timeout(15):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def close(self):
        self.writer.close()


async def open_session(node, lease_id, ordinal=0, *, kind=Kind.COMMANDS, session_id=None, resume=False):
    reader, writer = await asyncio.open_unix_connection(node.addresses.local)
    writer.write(Preamble(kind, ordinal, lease_id, session_id or os.urandom(16).hex(), resume).pack())
    return Session(reader, writer)


async def connect(node, *, over_tcp=False):
    """Reader and writer of a new connection to the data port."""
    if not over_tcp:
        return await asyncio.open_unix_connection(node.addresses.local)
    host, _, port = node.addresses.tcp.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def answer_to(node, data, *, close_writing=False, over_tcp=False):
    """All that the data port answers to these bytes."""
    reader, writer = await connect(node, over_tcp=over_tcp)
    writer.write(data)
    if close_writing:
        writer.write_eof()
    async with asyncio.timeout(15):
        answer = await reader.read()
    writer.close()
    return answer


def sentence(answer):
    """What a refusal says."""
    assert answer.startswith(b"ELARAERR")
    length = int.from_bytes(answer[8:10], "little")
    assert len(answer) == 10 + length
    return answer[10:].decode()


@contextlib.asynccontextmanager
async def running_node(folder, *, devices=2, memory=GIB, listen=None, zygote=STANDIN, device_users="auto"):
    """A started node; its messages to the service stand in `node.sent`."""
    sent = []
    options = NodeOptions(
        LocalSocket(Path(folder) / "data.sock"), listen=listen, threads=4, zygote=zygote, device_users=device_users
    )
    node = Node(EmulatedDevices(devices, memory), options, emit=sent.append)
    node.sent = sent
    await node.start()
    try:
        yield node
    finally:
        await node.close()


def used(node, lease_id, ordinal=0):
    return node.leases.usage_now(lease_id)[ordinal]["used_bytes"]


def ended(node, lease_id):
    """The confirmation that a lease ended, or None."""
    found = [m for m in node.sent if m["type"] == "lease_ended" and m["lease_id"] == lease_id]
    return found[0] if found else None
