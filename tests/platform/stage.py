"""Runs the real supervisor over actors, in a process of its own: python stage.py DATA READY_SECONDS
SILENT_SECONDS NAME=BEHAVIOUR..."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from elara_hub.supervisor import processes
from elara_hub.supervisor.folder import DataFolder
from elara_hub.supervisor.plan import Part, Readiness, inherited
from elara_hub.supervisor.ports import free_ports
from elara_hub.supervisor.problem import UpProblem
from elara_hub.supervisor.start import stop_leftovers
from elara_hub.supervisor.supervisor import Supervisor

SECRET = "correct-horse-battery-staple"


def part(folder: DataFolder, name: str, behaviour: str, port: int) -> Part:
    return Part(
        name=name,
        argv=(sys.executable, str(Path(__file__).with_name("actor.py")), str(port), behaviour),
        environment={**inherited(os.environ, folder.root), "ACTOR_SECRET": SECRET},
        folder=folder.root,
        url=f"http://127.0.0.1:{port}",
        ready=Readiness((f"http://127.0.0.1:{port}/",)),
        keeps_children=behaviour == "parent",
        stop_seconds=1.0,
    )


def main() -> int:
    folder = DataFolder(Path(sys.argv[1]))
    folder.open()
    cast = [pair.split("=") for pair in sys.argv[4:]]
    ports = free_ports(len(cast))
    parts = [part(folder, name, behaviour, port) for (name, behaviour), port in zip(cast, ports, strict=True)]
    processes.become_subreaper()

    async def play() -> None:
        await stop_leftovers(folder, print)
        patience = {"ready_seconds": float(sys.argv[2]), "silent_seconds": float(sys.argv[3])}
        supervisor = Supervisor(parts, folder, [SECRET], "http://stage", print, **patience)
        await supervisor.run(lambda seconds: print("all ready", flush=True))

    try:
        asyncio.run(play())
    except UpProblem as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
