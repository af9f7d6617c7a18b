"""Does memory stay flat? Many operators in one session, then many attachments, with a real node on this machine.

    python -m benchmarks.soak --operators 1000000 --cycles 10000

Prints resident memory of client, device server, zygote and node agent after a tenth of the work and at its end (JSON).
Over attachments the device server has no figure: each lease has processes of its own, forked from the zygote.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from elara_remoting.node.data_port import LocalSocket
from elara_remoting.node.devices import EmulatedDevices
from elara_remoting.node.node import Node, NodeOptions
from elara_remoting.workspace import store_attachment, store_detached

_CLIENT = """
import json, sys, torch
from torch import nn

def operators(count):
    model = nn.Linear(16, 16).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    inputs = torch.randn(8, 16).cuda()
    start = _client.counters(0)["executed"]
    while _client.counters(0)["executed"] - start < count:
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    torch.cuda.synchronize()
    return _client.server_stats(0)

def cycle(_):
    torch.cuda.device_count()  # operators look for another attachment 20 times a second only
    value = torch.ones(256, device="cuda")
    return (value + 1).sum().item()

def sessions(_):
    return _client.sessions()

from elara_remoting import _client
for line in sys.stdin:
    name, argument = line.split()
    print(json.dumps(globals()[name](int(argument))), flush=True)
"""


def resident(pid: int) -> int:
    """KiB of a process that are its own: what it shares with others (torch's libraries, the zygote's pages) is not."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    values = dict(line.split()[:2] for line in lines[1:])
    return sum(int(values[name]) for name in ("Private_Clean:", "Private_Dirty:"))


class Client:
    """A Python process with torch, told what to do line by line."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CLIENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "ELARA_RUNTIME_DIR": str(folder)},
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    async def do(self, what: str, count: int) -> Any:
        """Run one of its functions; returns what it returned."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{what} {count}\n")
        self._process.stdin.flush()
        line = await asyncio.to_thread(self._process.stdout.readline)
        if not line:
            raise RuntimeError("the client ended")
        return json.loads(line)

    def close(self) -> None:
        """End it in order."""
        self._process.communicate(timeout=60)


async def soak(operators: int, cycles: int) -> dict[str, Any]:
    """Memory in KiB early and late, of both sides, and what is left of every lease at the end."""
    figures: dict[str, Any] = {"operators": operators, "cycles": cycles}
    with tempfile.TemporaryDirectory(prefix="elara-soak-") as name:
        folder = Path(name)
        ended = asyncio.Event()
        node = Node(
            EmulatedDevices(1, 1 << 30),
            NodeOptions(LocalSocket(folder / "data.sock")),
            emit=lambda message: ended.set() if message["type"] == "lease_ended" else None,
        )
        await node.start()
        client = Client(folder)
        try:
            await node.wait_warm()
            lease = node.lease_all(1000, None)
            store_attachment(folder, lease, expires=0)
            for moment, part in (("early", operators // 10), ("late", operators - operators // 10)):
                stats = await client.do("operators", part)
                (server,) = node.leases.server_pids(lease["lease_id"])
                figures[f"operators_{moment}"] = {
                    "client": resident(client.pid),
                    "server": resident(server),
                    "storages": stats["storages"],
                    "templates": stats["templates"],
                }
            await _end(node, folder, lease["lease_id"], ended)
            for number in range(cycles + 1):
                if number in (cycles // 10, cycles):
                    figures[f"cycles_{'late' if number == cycles else 'early'}"] = {
                        "client": resident(client.pid),
                        "sessions": await client.do("sessions", 0),
                        "agent": resident(os.getpid()),
                        "zygote": resident(node.servers.zygote_pid or 0),
                        "agent_files": len(os.listdir("/proc/self/fd")),
                    }
                if number < cycles:
                    lease = node.lease_all(1000, None)
                    store_attachment(folder, lease, expires=0)
                    assert await client.do("cycle", 0) == 512.0
                    await _end(node, folder, lease["lease_id"], ended)
            client.close()
        finally:
            await node.close()
    return figures


async def _end(node: Node, folder: Path, lease_id: str, ended: asyncio.Event) -> None:
    ended.clear()
    store_detached(folder, lease_id, "the next one comes")
    node.leases.stop_lease(lease_id, "detached")
    await ended.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operators", type=int, default=1_000_000)
    parser.add_argument("--cycles", type=int, default=10_000)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(soak(arguments.operators, arguments.cycles)), indent=2))


if __name__ == "__main__":
    main()
