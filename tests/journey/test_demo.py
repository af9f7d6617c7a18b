"""`elara demo`: the journey that an admin makes to see that an installation works."""

from __future__ import annotations

import asyncio
import sys

import pytest


@pytest.mark.timeout(400)
async def test_the_demo_makes_the_whole_journey() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "elara_remoting.cli", "demo"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    for step in ("attached to the running kernel", "test accuracy 9", "tracked in MLflow", "every share is free again"):
        assert step in printed, printed
