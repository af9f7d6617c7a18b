"""Workspaces as containers of a Docker Engine."""

from elara_spawner.docker.spawner import DockerWorkspaceSpawner

__all__ = ["DockerWorkspaceSpawner"]
