"""Makes the workspaces' network before any part of the installation starts, so that parts can listen on its gateway.

    python -m elara_spawner.docker.prepare        # prints the gateway's address

It reads the same variables as the hub (`ELARA_INSTANCE`, `ELARA_BRIDGE`, `ELARA_SUBNET`), is safe to repeat, and sets
no rules: the hub does before it starts a workspace.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Any

import docker
import docker.errors
import docker.utils

from elara_spawner.docker import failures
from elara_spawner.docker.network import NetworkFailed, ensure_network
from elara_spawner.docker.spawner import DockerWorkspaceSpawner
from elara_spawner.settings import docker_settings


def prepare(environment: Mapping[str, str]) -> str:
    """Make the network where it is missing; returns its gateway.

    Raises:
        NetworkFailed: it is there and differs, or cannot be made, or the engine does not answer.
    """
    traits = docker_settings(environment).traits()
    spawner = DockerWorkspaceSpawner(
        **{name: traits[name] for name in ("instance", "bridge", "subnet") if name in traits}
    )
    try:
        client = docker.APIClient(version="auto", **docker.utils.kwargs_from_env(dict(environment)))

        async def call(method: str, *arguments: Any, **options: Any) -> Any:
            return await asyncio.to_thread(getattr(client, method), *arguments, **options)

        asyncio.run(ensure_network(call, spawner.network, spawner.instance))
    except docker.errors.DockerException as error:
        raise NetworkFailed(failures.from_error(error, "making the network").message) from error
    return spawner.network.gateway


if __name__ == "__main__":
    try:
        print(prepare(os.environ))
    except NetworkFailed as failed:
        sys.exit(f"The workspaces' network is not there: {failed}")
