"""`make bench`: what a user waits for, native and remote in one run, on a throw-away instance.

Ratios are what to compare between machines; seconds belong to the machine they were taken on.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console
from rich.table import Table

from elara_hub.demo.kernel import RemoteKernel
from elara_hub.demo.person import Person
from elara_hub.demo.throwaway import Throwaway

FIRST_RESULT = "print(torch.ones(2, device='cuda').sum().item())"
STEP = Path(__file__).with_name("step.py").read_text(encoding="utf-8")
OPTIONS = {"project": "demo/digits"}


async def attach(person: Person, kernel: RemoteKernel, share: int = 500) -> float:
    """Seconds from the request that the button sends to the first result computed on the device."""
    began = time.perf_counter()
    answer = await person.http.post(
        person.workspace_url() + "elara/attach", json={"count": 1, "share": share, "minutes": 30}
    )
    answer.raise_for_status()
    await kernel.run(FIRST_RESULT)
    return time.perf_counter() - began


async def detach(person: Person) -> float:
    """Seconds until the share is handed back."""
    began = time.perf_counter()
    (await person.http.post(person.workspace_url() + "elara/detach", json={})).raise_for_status()
    return time.perf_counter() - began


def kill_warm_reserve(root: int) -> None:
    """Kill the node's warm device-server process, so that the next attach finds none."""
    for process in psutil.Process(root).children(recursive=True):
        try:
            if "elara_remoting.node.zygote" in " ".join(process.cmdline()):
                process.kill()
        except psutil.Error:
            continue


async def measure(rounds: int, console: Console) -> dict[str, Any]:
    """Every figure, in seconds, lists in the order taken; `step` as the cell of step.py prints it."""
    figures: dict[str, Any] = {"attach_warm": [], "attach_cold": [], "detach": [], "workspace_start": []}
    async with Throwaway() as instance, Person(instance.url, instance.admin_name, instance.admin_password) as person:
        figures["instance_start"] = [instance.start_seconds]
        for _ in range(3):
            figures["workspace_start"].append(await person.start_workspace(OPTIONS))
            if len(figures["workspace_start"]) < 3:
                await person.stop_workspace()
        async with RemoteKernel(person.workspace_url(), person.token) as kernel:
            await kernel.run("import torch")
            console.print("attach and detach, warm ...")
            for _ in range(rounds):
                figures["attach_warm"].append(await attach(person, kernel))
                figures["detach"].append(await detach(person))
            console.print("attach, cold ...")
            for _ in range(3):
                kill_warm_reserve(instance.pid)
                figures["attach_cold"].append(await attach(person, kernel))
                await detach(person)
            console.print("the example's training step, native and remote in turn ...")
            # A whole device: an emulated device's share is its share of the node's threads, and native has all of them.
            await attach(person, kernel, share=1000)
            figures["step"] = json.loads((await kernel.run(STEP)).stdout.strip().splitlines()[-1])
            await detach(person)
        await person.stop_workspace()
    return figures


def show(figures: dict[str, Any], console: Console) -> None:
    """Print the table: median, least and most of each figure."""
    table = Table("what", "median", "least", "most", "runs", title="emulated devices compute on this machine's CPU")
    for name, label in (
        ("instance_start", "elara up, first start"),
        ("workspace_start", "workspace start"),
        ("attach_warm", "attach to first result, warm device server"),
        ("attach_cold", "attach to first result, cold device server"),
        ("detach", "detach"),
    ):
        values = figures[name]
        middle = statistics.median(values)
        table.add_row(label, *(f"{value:.3f} s" for value in (middle, min(values), max(values))), str(len(values)))
    step = figures["step"]
    for name in ("native", "remote"):
        values = step[name]
        table.add_row(
            f"training step of the example, {name}",
            *(f"{1e3 * value:.2f} ms" for value in (statistics.median(values), min(values), max(values))),
            str(len(values)),
        )
    ratios = [remote / native for remote, native in zip(step["remote"], step["native"], strict=True)]
    table.add_row(
        "training step, remote / native",
        *(f"{value:.2f}" for value in (statistics.median(ratios), min(ratios), max(ratios))),
        str(len(ratios)),
    )
    console.print(table)


@click.command()
@click.option("--rounds", default=15, show_default=True, help="attach and detach this many times")
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="also write the figures to this file")
def main(rounds: int, json_path: str | None) -> None:
    """Measure attach, detach, workspace start and the example's training step."""
    console = Console(file=sys.stderr)
    figures = asyncio.run(measure(rounds, console))
    show(figures, Console())
    if json_path:
        Path(json_path).write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
