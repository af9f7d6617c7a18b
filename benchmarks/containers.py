"""`python -m benchmarks.containers`: what Elara's spawner adds to a container's start, against plain DockerSpawner.

Two hubs run side by side on one engine with the same image, the same limits and the same network; their starts take
turns, so that what else the machine does weighs on both. Then ten workspaces start at once. Ratios are what to compare.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from tests.docker.docker_world import DockerWorld, workspace_image
from tests.support.docker import Engine, why_not
from tests.workspaces.hub_world import Browser, opened

OURS = """
c = get_config()
load_subconfig({reference!r})
# Several at once on a small machine take long, and none may fail for that.
c.DockerWorkspaceSpawner.launch_timeout = 600
"""
PLAIN = """
c = get_config()
load_subconfig({reference!r})
c.JupyterHub.spawner_class = "dockerspawner.DockerSpawner"
c.DockerSpawner.image = {image!r}
c.DockerSpawner.remove = True
c.DockerSpawner.network_name = {network!r}
c.DockerSpawner.name_template = {instance!r} + "-plain-{{username}}"
c.DockerSpawner.volumes = {{{instance!r} + "-plain-{{username}}": "/home/elara"}}
c.DockerSpawner.hub_connect_url = {site!r}
c.DockerSpawner.mem_limit = "768M"
c.DockerSpawner.cpu_limit = 1
c.DockerSpawner.extra_create_kwargs = {{"labels": {{"org.elara.instance": {instance!r}}}}}
c.DockerSpawner.options_form = ""
"""


def start(person: Browser, options: dict[str, str], server: str = "") -> float:
    """Seconds from the request until the hub says that the workspace is ready."""
    began = time.perf_counter()
    path = f"/users/{person.name}/" + (f"servers/{server}" if server else "server")
    person.api("POST", path, options).raise_for_status()
    if not person.ready(server):
        last = person.progress(server)[-1]
        if not last.get("ready"):
            raise RuntimeError(f"a start failed: {last}")
    return time.perf_counter() - began


def join(world: DockerWorld, names: list[str]) -> list[Browser]:
    """New people of the project, with the service's cache of them warm."""
    admin = world.admin()
    people = [world.join(name, admin) for name in names]
    for name in names:
        world.add_member(admin, "demo/digits", name, "editor")
    return people


def measure(rounds: int, at_once: int, image: str, engine: Engine, console: Console) -> dict[str, Any]:
    """Figures in seconds, in the order taken."""
    figures: dict[str, Any] = {"elara": [], "plain": [], "at_once": []}
    options = {"project": "demo/digits", "image": "base", "size": "small"}
    with tempfile.TemporaryDirectory(prefix="elara-bench-") as folder:
        ours = DockerWorld(Path(folder) / "ours", engine, image, subnet=236)
        plain = DockerWorld(Path(folder) / "plain", engine, image, subnet=237)
        reference = str(Path(__file__).resolve().parents[1] / "jupyterhub_config.py")
        ours.config, plain.config = Path(folder) / "ours_config.py", Path(folder) / "plain_config.py"
        ours.config.write_text(OURS.format(reference=reference))
        text = PLAIN.format(
            reference=reference,
            image=image,
            network=f"{ours.instance}-workspaces",
            instance=plain.instance,
            site=f"http://{ours.gateway}:{plain.public}",
        )
        plain.config.write_text(text)
        # The plain hub's containers are on the same network, whose rules have to let them through to their hub.
        ours.extra["ELARA_REACHABLE"] = f"http://{ours.gateway}:{plain.public}"
        with opened(ours), opened(plain, service=False):
            people = join(ours, [f"person-{number}" for number in range(at_once)])
            first = people[0]
            other = plain.admin()
            console.print("the first start of a user makes volumes and rules ...")
            figures["first"] = [start(first, options)]
            first.stop()
            start(other, {})
            other.stop()
            for number in range(rounds):
                console.print(f"round {number + 1} of {rounds} ...")
                for name, person, given in (("elara", first, options), ("plain", other, {}))[
                    :: 1 if number % 2 else -1
                ]:
                    figures[name].append(start(person, given))
                    person.stop()
            console.print(f"{at_once} at once ...")
            began = time.perf_counter()
            with ThreadPoolExecutor(at_once) as pool:
                figures["at_once"] = list(pool.map(lambda person: start(person, options), people))
            figures["at_once_all"] = [time.perf_counter() - began]
            for person in people:
                person.stop()
        engine.run("volume", "rm", "--force", f"{plain.instance}-plain-admin")
    return figures


def show(figures: dict[str, Any], image: str, console: Console) -> None:
    """Print the table, and the overhead as the ratio of the medians."""
    table = Table("what", "median", "least", "most", "runs", title=f"starts until ready, image {image}")
    for name, label in (
        ("plain", "plain DockerSpawner"),
        ("elara", "Elara's spawner"),
        ("first", "Elara's spawner, a user's first start"),
        ("at_once", "each of several at once"),
        ("at_once_all", "all of them"),
    ):
        values = figures[name]
        table.add_row(
            label, *(f"{v:.2f} s" for v in (statistics.median(values), min(values), max(values))), str(len(values))
        )
    console.print(table)
    ratio = statistics.median(figures["elara"]) / statistics.median(figures["plain"])
    console.print(f"overhead over plain DockerSpawner: {100 * (ratio - 1):+.1f} % of start time")


@click.command()
@click.option("--rounds", default=10, show_default=True, help="starts of each spawner")
@click.option("--at-once", default=10, show_default=True, help="workspaces that start at the same time")
@click.option("--image", help="a workspace image; default the tests' own, whose server answers at once")
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="also write the figures to this file")
def main(rounds: int, at_once: int, image: str | None, json_path: str | None) -> None:
    """Measure container starts against plain DockerSpawner, and several at once."""
    reason = why_not()
    if reason:
        click.echo(f"Starts of containers were not measured: {reason}.")
        return
    with Engine() as engine:
        chosen = image or workspace_image(engine)
        figures = measure(rounds, at_once, chosen, engine, Console(file=sys.stderr))
    show(figures, chosen, Console())
    if json_path:
        Path(json_path).write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
