"""The network of workspaces: made once, compared with what is wanted, and closed before anybody is on it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import docker.errors

from elara_spawner.docker import firewall, objects
from elara_spawner.docker.engine import Call, HelperFailed, found, run_helper
from elara_spawner.docker.firewall import Endpoint, FirewallFailed, Policy
from elara_spawner.docker.objects import Network

CHECK_SECONDS = 30.0
"""The rules are looked at again after so long; something else on the machine may have flushed them."""


class NetworkFailed(Exception):
    """The network is not what it has to be; the text is a sentence."""


async def ensure_network(call: Call, wanted: Network, instance: str) -> bool:
    """Make the network when there is none; returns whether it was made.

    Raises:
        NetworkFailed: there is one of that name that was made otherwise.
    """
    there = await found(call, "inspect_network", wanted.name)
    made = there is None
    if there is None:
        try:
            await call("create_network", **objects.network(wanted, instance))
        except docker.errors.APIError as error:
            # Another start may have made it a moment ago.
            if error.status_code != 409 and "already exists" not in str(error.explanation):
                raise NetworkFailed(
                    f"the network {wanted.name} ({wanted.subnet}) could not be made: {error.explanation}. Its "
                    "addresses may be taken: the setting `subnet` gives it others."
                ) from error
        there = dict(await call("inspect_network", wanted.name))
    difference = differs(there, wanted)
    if difference:
        raise NetworkFailed(
            f"the network {wanted.name} was made otherwise ({difference}). Remove it when no workspace runs, and it "
            "is made anew; or change the settings."
        )
    return made


def differs(there: Mapping[str, object], wanted: Network) -> str:
    """What is not as wanted, empty when nothing is. Pure."""
    expected = objects.network(wanted, "")
    if there.get("Driver") != expected["driver"]:
        return f"driver {there.get('Driver')}"
    options = there.get("Options") or {}
    for key, value in expected["options"].items():
        if not isinstance(options, Mapping) or options.get(key) != value:
            return f"option {key} is not {value}"
    if there.get("EnableIPv6"):
        return "it has IPv6"
    ipam = there.get("IPAM") or {}
    given = ipam.get("Config") if isinstance(ipam, Mapping) else None
    if given != expected["ipam"]["Config"]:
        return f"addresses {given}"
    return ""


def endpoints(addresses: Iterable[str], names: Mapping[str, str]) -> list[tuple[str, int]]:
    """Host and port of addresses such as ``http://10.77.0.1:8000`` or ``10.0.0.5:7470``; `names` are further names.

    Raises:
        NetworkFailed: one is neither.
    """
    listed = []
    for address in addresses:
        try:
            parts = urlsplit(address if "://" in address else f"//{address}")
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        except ValueError:
            parts, port = urlsplit(""), None
        if not parts.hostname or port is None:
            raise NetworkFailed(
                f"{address!r} is no address with a port, such as 10.0.0.5:7470 or https://elara.example.org."
            )
        listed.append((names.get(parts.hostname, parts.hostname), port))
    return listed


async def resolve(listed: Iterable[tuple[str, int]]) -> list[Endpoint]:
    """IPv4 addresses of hosts; a host that is not known now is left out, and closed."""
    loop = asyncio.get_running_loop()
    resolved: list[Endpoint] = []
    for host, port in listed:
        if firewall.address_of(host):
            resolved.append(Endpoint(host, port))
            continue
        try:
            answers = await loop.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_STREAM)
        except OSError:
            continue
        resolved += [Endpoint(str(answer[4][0]), port) for answer in answers]
    # A workspace's own loopback is not the machine's: a rule for it would say nothing.
    return [entry for entry in resolved if not ipaddress.IPv4Address(entry.address).is_loopback]


def own_name_servers() -> tuple[str, ...]:
    """The machine's, as containers are given them."""
    try:
        return firewall.name_servers(Path("/etc/resolv.conf").read_text())
    except OSError:
        return ()


class Guard:
    """Keeps one network's rules true. Starts at the same time wait for one another here, and look once."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._script = ""
        self._next = 0.0

    @property
    def looked_at(self) -> bool:
        """Whether the rules were seen to hold a moment ago."""
        return time.monotonic() < self._next

    async def ensure(self, call: Call, network: Network, policy: Policy, how: str, image: str, instance: str) -> None:
        """Make the rules true.

        Args:
            how: direct (this process sets them), container (a one-shot container does), auto, or external (nobody).
            image: of the one-shot container.

        Raises:
            FirewallFailed: they could not be set.
        """
        if how == "external":
            self._next = time.monotonic() + CHECK_SECONDS
            return
        script = firewall.script(network, policy)
        async with self._lock:
            if script == self._script and self.looked_at:
                return
            if how == "direct" or (how == "auto" and firewall.seen_here(network)):
                await firewall.apply(script)
            else:
                await _apply_by_helper(call, script, image, instance)
            self._script, self._next = script, time.monotonic() + CHECK_SECONDS


async def _apply_by_helper(call: Call, script: str, image: str, instance: str) -> None:
    try:
        await run_helper(call, objects.rules_helper(image, script, instance))
    except docker.errors.ImageNotFound as error:
        raise FirewallFailed(
            f"this hub may not set the machine's packet filter, and the image {image}, which would, is not there. "
            "Make it with `elara images build hub`, run the hub as root, or name another image with iptables "
            "(`rules_image`)."
        ) from error
    except (HelperFailed, docker.errors.APIError) as error:
        raise FirewallFailed(str(error)) from error
