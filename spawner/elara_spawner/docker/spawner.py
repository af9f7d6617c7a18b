"""Workspaces as containers of one Docker Engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ClassVar

import docker.errors
from dockerspawner import DockerSpawner
from traitlets import default

from elara_spawner import names
from elara_spawner.contained import ContainedMixin
from elara_spawner.container import LABEL, Container
from elara_spawner.docker import failures, network, objects, pulls
from elara_spawner.docker.engine import found
from elara_spawner.docker.firewall import PRIVATE, FirewallFailed, Policy
from elara_spawner.docker.network import Guard, NetworkFailed
from elara_spawner.docker.settings import EngineSettings
from elara_spawner.docker.told import ENGINE_ERRORS, Told, refusal
from elara_spawner.docker.volumes import VolumeRefused, Volumes
from elara_spawner.refusal import Refused
from elara_spawner.service import ServiceRefusal
from elara_spawner.workspace import Choice

_LAST_LINES = 15


class DockerWorkspaceSpawner(EngineSettings, ContainedMixin, DockerSpawner):  # type: ignore[misc]
    """Starts a workspace as a container of one Docker Engine, on a network of its own kind with volumes of its own.

    The container's specification comes from `elara_spawner.docker.objects`, so DockerSpawner's settings that would
    shape it (`volumes`, `extra_host_config`, `mem_limit`, ...) do nothing here.
    """

    _executor = ThreadPoolExecutor(16, thread_name_prefix="docker")
    _pulls: ClassVar[pulls.Pulls] = pulls.Pulls()
    _volumes: ClassVar[dict[str, Volumes]] = {}
    _guards: ClassVar[dict[str, Guard]] = {}

    spec: Container | None = None
    entry_point: tuple[str, ...] = ()
    engine_was_away = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The hub cancels a start after it, with words that nobody wants to read; ours come first.
        self.start_timeout = self.pull_timeout + self.launch_timeout + 60

    @default("remove")
    def _default_remove(self) -> bool:
        return True

    @default("object_name")
    def _object_name_default(self) -> str:
        return self.container_name_of()

    # --- before the container

    async def prepare(self, choice: Choice) -> None:
        image = self.catalogue.images[choice.image]
        # Before the environment is made, which names it.
        self.image = image.reference
        self.object_name = self.container_name_of()
        spec = self.spec = self.container(choice)
        with self._told("looking for the image"):
            await self._ensure_image(spec.image, image.title)
        self.steps.tell(57, "Closing the workspace's network")
        with self._told("preparing the network"):
            await self.close_network()
        self.steps.tell(60, "Preparing your home and the project's volume")
        with self._told("preparing the volumes"):
            await self._ensure_volumes(spec)

    async def _ensure_image(self, image: str, title: str) -> None:
        from_registry = pulls.is_pulled(image)
        known = await found(self.docker, "inspect_image", image)
        if known is None or (self.pull_policy == "always" and from_registry):
            if not from_registry or self.pull_policy == "never":
                raise refusal(failures.image_missing(image, title, pulled=False))
            await self._pull(image, title)
            known = await found(self.docker, "inspect_image", image)
        if known is None:
            raise refusal(failures.image_missing(image, title, pulled=True))
        self.entry_point = tuple(known.get("Config", {}).get("Entrypoint") or ())

    async def _pull(self, image: str, title: str) -> None:
        """Fetch it, telling how far it is; several who wait for one image wait for one fetch."""

        def events() -> Iterator[Mapping[str, Any]]:
            repository, tag = pulls.split(image)
            return iter(self.client.pull(repository, tag, stream=True, decode=True))

        told = ""
        try:
            async with asyncio.timeout(self.pull_timeout):
                async for progress in self._pulls.of(image, events).follow():
                    sentence = progress.sentence(title)
                    if sentence != told:
                        self.steps.tell(30 + int(25 * progress.fraction), sentence)
                        told = sentence
        except TimeoutError:
            raise refusal(failures.pull_timeout(image, title, self.pull_timeout)) from None
        except pulls.PullFailed as failed:
            self.log.error("The image %s could not be pulled: %s", image, failed)
            raise refusal(failures.pull_failed(image, title, str(failed))) from None
        except docker.errors.APIError as error:
            self.log.error("The image %s could not be pulled: %s", image, error)
            raise refusal(failures.pull_failed(image, title, failures.text_of(error))) from None

    async def close_network(self) -> None:
        """Make the network, and the rules that close it. Raises Refused when it would be open."""
        wanted = self.network
        try:
            await network.ensure_network(self.docker, wanted, self.instance)
            listed = network.endpoints(await self.reachable_addresses(), self.host_names)
            policy = Policy(
                endpoints=tuple(await network.resolve(listed)),
                name_servers=tuple(self.name_servers) or network.own_name_servers(),
                outside=self.outside,
                closed=tuple(self.closed_networks) or PRIVATE,
            )
            guard = self._guards.setdefault(wanted.name, Guard())
            await guard.ensure(self.docker, wanted, policy, self.firewall, self.rules_image, self.instance)
        except (NetworkFailed, FirewallFailed) as failed:
            self.log.error("The network of workspaces is not closed: %s", failed)
            raise refusal(failures.network_open(str(failed))) from failed

    async def _ensure_volumes(self, spec: Container) -> None:
        known = self._volumes.setdefault(self.instance, Volumes())
        try:
            told = await known.ensure(
                self.docker,
                spec.volumes,
                instance=self.instance,
                driver=self.volume_driver,
                options=self.volume_options,
                image=spec.image,
                uid=self.uid,
                gid=self.gid,
            )
        except VolumeRefused as refused:
            raise refusal(refused.failure) from refused
        for sentence in told:
            self.steps.tell(61, sentence)

    # --- the container

    async def check_allowed(self, image: str) -> str:
        """The catalogue has decided already; DockerSpawner asks with the option's value."""
        return self.image

    async def pull_image(self, image: str) -> None:
        """Done before, with its progress told."""

    async def get_object(self) -> dict[str, Any] | None:
        """The container, None when it is gone for sure. An engine that has trouble is no proof of that."""
        there = await found(self.docker, "inspect_container", self.object_name)
        self.object_id = there["Id"] if there else ""
        return there

    async def create_object(self) -> Any:
        assert self.spec is not None
        body = objects.container(self.spec, self.network, self.entry_point)
        return await self.docker("create_container_from_config", body, self.object_name)

    async def remove_object(self) -> None:
        """Remove the container, running or not, if it is this workspace's."""
        there = await self.get_object()
        if there is None:
            return
        if not self._is_own(there):
            raise refusal(failures.name_conflict(self.object_name))
        with suppress(docker.errors.NotFound):
            await self.docker("remove_container", there["Id"], v=True, force=True)

    def _is_own(self, there: Mapping[str, Any]) -> bool:
        labels = there.get("Config", {}).get("Labels") or {}
        wanted = {"instance": self.instance, "kind": "workspace", "user": self.user.name, "server": self.name}
        return all(labels.get(LABEL + key) == value for key, value in wanted.items())

    async def get_ip_and_port(self) -> tuple[str, int]:
        """The container's own address on the network, which only this machine and the site's containers reach."""
        there = await self.docker("inspect_container", self.object_name)
        return there["NetworkSettings"]["Networks"][self.network.name]["IPAddress"], self.port

    async def start(self) -> Any:
        with self._told("starting the container"):
            return await super().start()

    async def answers(self, location: tuple[str, int]) -> None:
        """Wait for its first answer; one that died or takes too long is told of with its last lines."""
        deadline = time.monotonic() + self.launch_timeout
        pause = 0.05
        while not await _listens(*location):
            with self._told("waiting for the workspace"):
                there = await self.get_object()
                state = there["State"] if there else {"Running": False, "ExitCode": -1}
                late = time.monotonic() > deadline
                if not state["Running"] or late:
                    lines = await self._last_lines()
                    if state["Running"]:
                        raise refusal(failures.start_timeout(self.launch_timeout, lines))
                    self.log.error("The workspace of %s ended while it started: %s", self.user.name, state)
                    raise refusal(failures.died(state["ExitCode"], bool(state.get("OOMKilled")), lines))
            await asyncio.sleep(pause)
            pause = min(0.5, pause * 1.2)

    async def _last_lines(self) -> list[str]:
        try:
            printed = await self.docker("logs", self.object_name, tail=_LAST_LINES)
        except ENGINE_ERRORS:
            return []
        text = printed.decode(errors="replace").replace(self.api_token, "***")
        return [line[:300] for line in text.splitlines() if line.strip()]

    async def poll(self) -> Any:
        """None while it runs, also while the engine cannot be asked: containers outlive a daemon that restarts."""
        try:
            status = await super().poll()
        except ENGINE_ERRORS as error:
            if not self.object_id:
                # Nothing of this workspace was ever made there.
                return 0
            if not self.engine_was_away:
                self.log.warning("The engine cannot tell whether %s runs: %s", self.object_name, error)
            self.engine_was_away = True
            return None
        self.engine_was_away = False
        if status is None:
            await self._keep_closed()
        return status

    async def _keep_closed(self) -> None:
        """Set the rules again when something else on the machine took them away, and follow nodes that come and go."""
        guard = self._guards.get(self.network.name)
        if guard is not None and guard.looked_at:
            return
        try:
            await self.close_network()
        except (Refused, ServiceRefusal, *ENGINE_ERRORS) as error:
            self.log.error("The rules of the workspaces' network could not be looked at: %s", error)

    async def stop_object(self) -> None:
        with suppress(docker.errors.NotFound):
            await self.docker("stop", self.object_name, timeout=self.stop_timeout)

    async def stop(self, now: bool = False) -> None:
        with self._told("stopping the container"):
            await super().stop(now=now)

    async def clean_up(self) -> None:
        """A container that ended by itself keeps its scratch and its name; it is removed once it has ended."""
        try:
            there = await self.get_object()
            if there is not None and self._is_own(there) and not there["State"]["Running"]:
                await self.remove_object()
        except (Refused, *ENGINE_ERRORS) as error:
            self.log.warning("The container %s was not removed: %s", self.object_name, error)

    def container_name_of(self) -> str:
        """The name of this server's container."""
        return names.workspace(self.instance, self.user.name, self.name)

    def _told(self, doing: str) -> Told:
        return Told(self.log, doing)


async def _listens(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 2)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
