"""The Docker engine of `elara up --engine docker`: whether it can be used, and what is of this data folder on it."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import docker
import docker.errors
import psutil
import requests.exceptions

from elara_hub.supervisor import place
from elara_hub.supervisor.place import Place
from elara_hub.supervisor.problem import UpProblem
from elara_hub.version import __version__
from elara_spawner.catalogue import CatalogueError, load_catalogue
from elara_spawner.container import LABEL
from elara_spawner.docker import firewall, network, objects
from elara_spawner.docker.engine import HelperFailed, run_helper

RULES_IMAGE = f"elara/hub:{__version__}"
# Each installation of a machine takes one of these for its workspaces, the first that nothing else uses.
_SUBNETS = tuple(ipaddress.IPv4Network("10.77.0.0/16").subnets(new_prefix=20))
_PATIENCE = 5


class Engine:
    """A Docker Engine that answers. Every method raises UpProblem with a sentence on what to do."""

    def __init__(self, client: docker.APIClient) -> None:
        self._client = client

    @classmethod
    def connect(cls) -> Self:
        """The engine that the environment names (DOCKER_HOST), else the one of this machine."""
        try:
            client = docker.from_env(timeout=60).api
            client.ping()
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
            raise UpProblem(why_no_engine(error)) from error
        return cls(client)

    @property
    def version(self) -> str:
        return str(self._client.version()["Version"])

    async def call(self, method: str, *args: Any, **values: Any) -> Any:
        """A method of docker-py's `APIClient`, run in a thread."""
        return await asyncio.to_thread(getattr(self._client, method), *args, **values)

    async def missing_images(self, catalogue: Path) -> list[str]:
        """References of the catalogue's images that are not here. Raises UpProblem when none is."""
        try:
            offered = load_catalogue(catalogue).offered(local=False)
        except CatalogueError as error:
            raise UpProblem(str(error)) from error
        missing = [i.reference for i in offered.images.values() if not await self._has_image(i.reference)]
        if len(missing) == len(offered.images):
            raise UpProblem(
                f"None of the catalogue's images is on this machine ({', '.join(missing)}), so no workspace could "
                "start. Make them with `elara images build` (a quarter of an hour the first time), then start again."
            )
        return missing

    async def _has_image(self, reference: str) -> bool:
        try:
            await self.call("inspect_image", reference)
        except docker.errors.NotFound:
            return False
        return True

    async def claim(self, folder: Path) -> Place:
        """The data folder's place on the engine: the one it has, else a new one that nothing else uses."""
        there = place.read(folder)
        if there is not None:
            return there
        taken = [*await self._subnets(), *_of_this_machine()]
        free = next((s for s in _SUBNETS if not any(s.overlaps(other) for other in taken)), None)
        if free is None:
            raise UpProblem(
                "Every network between 10.77.0.0 and 10.77.255.255 is in use, from which workspaces get their "
                "addresses. Remove Docker networks that nobody needs: docker network prune."
            )
        tag = secrets.token_hex(3)
        made = Place(f"elara-{tag}", f"elara-{tag}", str(free))
        place.write(folder, made)
        return made

    async def open_network(self, ours: Place) -> None:
        """Make the workspaces' network when it is not there; the machine has its address on it afterwards."""
        wanted = workspaces_network(ours)
        try:
            await network.ensure_network(self.call, wanted, ours.instance)
        except network.NetworkFailed as error:
            sentence = str(error)
            raise UpProblem(
                f"{sentence[0].upper()}{sentence[1:]} Names and addresses are in {place.FILE} of the data folder."
            ) from error
        with socket.socket() as probe:
            try:
                probe.bind((ours.gateway, 0))
            except OSError as error:
                raise UpProblem(
                    f"The network {wanted.name} is there, but this machine has no address {ours.gateway} on it: "
                    f"something has changed its bridge {ours.bridge}. Remove the network while no workspace runs "
                    f"(docker network rm {wanted.name}); it is made anew at the next start."
                ) from error

    async def stop_workspaces(self, instance: str, patience: int = _PATIENCE) -> int:
        """Stop and remove the containers of workspaces, all at once; their volumes stay. Returns how many there were.

        Args:
            patience: seconds for kernels to write what they hold.
        """
        found = await self._containers(instance)

        async def stop(container: str) -> None:
            try:
                await self.call("stop", container, timeout=patience)
                await self.call("remove_container", container, v=True, force=True)
            except docker.errors.NotFound:
                pass

        await asyncio.gather(*(stop(container) for container in found))
        return len(found)

    async def remove_everything(self, ours: Place) -> None:
        """Take a throw-away installation off the machine: containers, volumes with all they hold, network, rules."""
        await self.stop_workspaces(ours.instance, patience=1)
        chosen = {"label": f"{LABEL}instance={ours.instance}"}
        for volume in (await self.call("volumes", filters=chosen))["Volumes"] or ():
            await self.call("remove_volume", volume["Name"], force=True)
        for entry in await self.call("networks", filters=chosen):
            await self.call("remove_network", entry["Id"])
        script = _REMOVE_RULES.format(bridge=ours.bridge, chains=" ".join(firewall.chains(ours.bridge)))
        try:
            if await self._has_image(RULES_IMAGE):
                await run_helper(self.call, objects.rules_helper(RULES_IMAGE, script, ours.instance))
            else:
                await firewall.apply(script)
        except (HelperFailed, firewall.FirewallFailed, docker.errors.APIError) as error:
            raise UpProblem(f"The packet filter's rules for {ours.bridge} could not be removed: {error}") from error

    async def _containers(self, instance: str) -> list[str]:
        labels = [f"{LABEL}instance={instance}", f"{LABEL}kind=workspace"]
        return [c["Id"] for c in await self.call("containers", all=True, filters={"label": labels})]

    async def _subnets(self) -> list[ipaddress.IPv4Network]:
        configs = [c for n in await self.call("networks") for c in (n["IPAM"].get("Config") or ())]
        return list(_networks(c.get("Subnet", "") for c in configs))


_REMOVE_RULES = """\
for tables in iptables ip6tables; do
  for parent in INPUT DOCKER-USER FORWARD; do
    "$tables" -w 10 -S "$parent" 2>/dev/null | while read -r verb rest; do
      case " $rest " in *" -i {bridge} "*) "$tables" -w 10 -D $rest ;; esac
    done
  done
done
for chain in {chains}; do iptables -w 10 -F "$chain"; iptables -w 10 -X "$chain"; done 2>/dev/null
exit 0
"""


def workspaces_network(ours: Place) -> objects.Network:
    """The network that the spawner makes from the same names, with the same options."""
    return objects.Network(f"{ours.instance}-workspaces", ours.bridge, ipaddress.IPv4Network(ours.subnet))


def why_no_engine(error: BaseException) -> str:
    """A sentence on why no engine answers, with what to do, from what docker-py raised."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    texts = " ".join(str(c) for c in causes)
    if any(isinstance(c, PermissionError) for c in causes) or "Permission denied" in texts:
        return (
            "This user may not use Docker's socket. Become a member of the group docker (sudo usermod -aG docker "
            "$USER, then sign in anew; its members are as mighty as root), or start Elara as root."
        )
    if any(isinstance(c, (FileNotFoundError, ConnectionRefusedError)) for c in causes) or "No such file" in texts:
        return (
            "No Docker daemon answers on this machine. Install and start it (on Debian: sudo apt-get install "
            "docker.io; sudo systemctl start docker), or leave --engine docker out: local mode needs no Docker."
        )
    return f"Docker cannot be used: {error}. Check DOCKER_HOST and that `docker version` shows a server."


def _of_this_machine() -> list[ipaddress.IPv4Network]:
    addresses = [a for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET]
    return list(_networks(f"{a.address}/{a.netmask}" for a in addresses if a.netmask))


def _networks(texts: Iterable[str]) -> Iterable[ipaddress.IPv4Network]:
    for text in texts:
        try:
            yield ipaddress.IPv4Network(text, strict=False)
        except ValueError:
            continue  # IPv6 and empty ones do not concern us
