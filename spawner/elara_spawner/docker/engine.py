"""Calls of the Docker Engine from asyncio, and the few compound ones that several modules need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import docker.errors

Call = Callable[..., Awaitable[Any]]
"""``await call("inspect_image", name)``: a method of docker-py's `APIClient`, run in a thread."""


class HelperFailed(Exception):
    """A one-shot container did not do its work; the text is what it printed."""


async def found(call: Call, method: str, name: str) -> dict[str, Any] | None:
    """What an inspecting method says of an object, None when there is none of that name."""
    try:
        return dict(await call(method, name))
    except docker.errors.NotFound:
        return None


async def run_helper(call: Call, body: dict[str, Any]) -> str:
    """Run a container to its end and remove it; returns what it printed.

    Raises:
        HelperFailed: it ended with another status than 0.
    """
    made = await call("create_container_from_config", body)
    try:
        await call("start", made["Id"])
        status = (await call("wait", made["Id"], timeout=120))["StatusCode"]
        printed = (await call("logs", made["Id"])).decode(errors="replace")
    finally:
        with suppress(docker.errors.NotFound):
            await call("remove_container", made["Id"], force=True, v=True)
    if status != 0:
        raise HelperFailed(printed.strip() or f"It ended with status {status} and printed nothing.")
    return str(printed)
