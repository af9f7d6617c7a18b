"""The Docker engine: daemon, images, and whether the workspaces' network is closed to the rest of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker.errors

from elara_hub.checks.finding import Finding, ok, problem, warning
from elara_hub.checks.surroundings import Surroundings
from elara_hub.supervisor.containers import RULES_IMAGE, Engine, workspaces_network
from elara_hub.supervisor.place import Place
from elara_hub.supervisor.problem import UpProblem
from elara_spawner.docker import firewall, network, objects
from elara_spawner.docker.engine import HelperFailed, run_helper

_BUILD = "Make them: elara images build"
# Prints one line a chain that workspaces' packets do not go through, and nothing when both are there.
_LOOK = """\
for pair in INPUT:{own_in} DOCKER-USER:{own_forward}; do
  parent=${{pair%%:*}}; chain=${{pair#*:}}; there=no
  for tables in iptables iptables-nft iptables-legacy; do
    "$tables" -w 10 -C "$parent" -i {bridge} -j "$chain" 2>/dev/null && there=yes && break
  done
  [ "$there" = yes ] || echo "$parent"
done
"""


async def check(here: Surroundings, catalogue: Path) -> list[Finding]:
    """Of the engine that the environment names, and of this deployment's network on it."""
    try:
        engine = Engine.connect()
    except UpProblem as error:
        return [problem("docker", "The Docker daemon cannot be used.", str(error))]
    findings = [ok("docker", f"Docker Engine {engine.version} answers.")]
    try:
        missing = await engine.missing_images(catalogue)
    except UpProblem as error:
        findings.append(problem("images", "No workspace can be started.", str(error)))
    else:
        if missing:
            findings.append(warning("images", f"Not on this machine: {', '.join(missing)}.", _BUILD))
        else:
            findings.append(ok("images", "Every image of the catalogue is on this machine."))
    return [*findings, *[finding async for finding in _network(engine, here)]]


async def _network(engine: Engine, here: Surroundings) -> Any:
    wanted = workspaces_network(Place(here.instance, here.bridge, here.subnet))
    try:
        there = await engine.call("inspect_network", wanted.name)
    except docker.errors.NotFound:
        yield warning(
            "network", f"There is no network {wanted.name} yet.", "It is made when the first workspace starts."
        )
        return
    difference = network.differs(there, wanted)
    if difference:
        yield problem(
            "network",
            f"The network {wanted.name} was made otherwise ({difference}).",
            "Stop the workspaces and remove it (docker network rm); the next start makes it as the settings say.",
        )
        return
    yield ok("network", f"{wanted.name} ({here.subnet}) is as the settings say.")
    for finding in await _rules(engine, wanted, here.instance):
        yield finding


async def _rules(engine: Engine, wanted: objects.Network, instance: str) -> list[Finding]:
    own_in, own_forward = firewall.chains(wanted.bridge)
    script = _LOOK.format(bridge=wanted.bridge, own_in=own_in, own_forward=own_forward)
    try:
        if os.geteuid() == 0 and firewall.seen_here(wanted):
            printed = await _run_here(script)
        else:
            printed = await run_helper(engine.call, objects.rules_helper(RULES_IMAGE, script, instance))
    except (docker.errors.APIError, HelperFailed, OSError) as error:
        return [
            warning(
                "network rules",
                f"The packet filter's rules could not be looked at: {error}",
                f"Run this as root, or have the image {RULES_IMAGE} there (elara images build hub).",
            )
        ]
    open_ends = list(_lines(printed))
    if open_ends:
        return [
            warning(
                "network rules",
                f"No rule closes the workspaces' network ({' and '.join(open_ends)}).",
                "The next start of a workspace sets them. If workspaces run now, something has removed the rules: "
                "restart the hub, and keep other firewall programs from flushing iptables.",
            )
        ]
    return [ok("network rules", "Workspaces reach neither one another nor the rest of this machine.")]


async def _run_here(script: str) -> str:
    import asyncio

    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", script),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"},
    )
    return (await process.communicate())[0].decode(errors="replace")


def _lines(printed: str) -> Iterator[str]:
    return (line.strip() for line in printed.splitlines() if line.strip())
