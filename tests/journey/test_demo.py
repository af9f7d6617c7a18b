"""`elara demo`: the journey that an admin makes to see that an installation works."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tests.support.docker import Engine
from tests.support.images import BuiltImages


async def make_demo(*options: str) -> str:
    """What it printed; its exit status was 0."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "elara_remoting.cli", "demo", *options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    for step in ("attached to the running kernel", "test accuracy 9", "tracked in MLflow", "every share is free again"):
        assert step in printed, printed
    return printed


@pytest.mark.timeout(400)
async def test_the_demo_makes_the_whole_journey() -> None:
    await make_demo()


async def test_the_demo_makes_the_whole_journey_in_a_container(
    docker_engine: Engine, built_images: BuiltImages
) -> None:
    held = ("ps", "--all", "--filter", "label=org.elara.kind=workspace", "--format", "{{.Names}}")
    before = docker_engine.run(*held)
    assert "The workspace is a container" in await make_demo("--engine", "docker")
    assert docker_engine.run(*held) == before, "nothing of it is left on the engine"
