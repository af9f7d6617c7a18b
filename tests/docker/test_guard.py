"""The network and its rules on a real engine without a hub: set by a one-shot container, refused where nobody can."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from elara_spawner.docker import firewall
from elara_spawner.docker.firewall import Endpoint, FirewallFailed, Policy
from elara_spawner.docker.network import Guard, NetworkFailed, ensure_network
from elara_spawner.docker.objects import Network
from elara_spawner.docker.prepare import prepare
from tests.docker.docker_world import remove_rules
from tests.support.docker import Engine, program

POLICY = Policy((Endpoint("10.232.0.1", 8000),), (), outside=False)


async def call(method: str, *arguments: Any, **options: Any) -> Any:
    client = docker.APIClient(version="auto")
    try:
        return await asyncio.to_thread(getattr(client, method), *arguments, **options)
    finally:
        client.close()


@pytest.fixture
def network(docker_engine: Engine) -> Iterator[Network]:
    tag = secrets.token_hex(3)
    wanted = Network(f"elara-test-{tag}-workspaces", f"el-{tag}", ipaddress.IPv4Network("10.232.0.0/24"))
    try:
        yield wanted
    finally:
        if docker_engine.run("network", "ls", "--quiet", "--filter", f"name={wanted.name}").strip():
            docker_engine.run("network", "rm", wanted.name)
        remove_rules(wanted.bridge)


def listed(chain: str) -> str:
    command = (program("iptables") or "iptables", "-w", "-S", chain)
    return subprocess.run(command, capture_output=True, text=True).stdout


async def test_a_hub_that_may_not_lets_a_container_set_the_rules(network: Network, image: str) -> None:
    assert await ensure_network(call, network, "elara-test")
    assert not await ensure_network(call, network, "elara-test"), "it is made once"
    await Guard().ensure(call, network, POLICY, "container", image, "elara-test")
    own_in, own_forward = firewall.chains(network.bridge)
    assert "-A " + own_in + " -d 10.232.0.1/32 -p tcp -m tcp --dport 8000 -j ACCEPT" in listed(own_in)
    assert listed(own_in).splitlines()[-1].endswith("-j REJECT --reject-with icmp-admin-prohibited")
    assert f"-A INPUT -i {network.bridge} -j {own_in}" in listed("INPUT")
    before = (listed(own_in), listed(own_forward), listed("INPUT"), listed("DOCKER-USER"))
    await Guard().ensure(call, network, POLICY, "direct", image, "elara-test")
    assert (listed(own_in), listed(own_forward), listed("INPUT"), listed("DOCKER-USER")) == before, "safe to repeat"


async def test_where_nobody_can_set_the_rules_that_is_said(network: Network, docker_engine: Engine) -> None:
    await ensure_network(call, network, "elara-test")
    with pytest.raises(FirewallFailed, match="the image elara-test/nowhere:1, which would, is not there"):
        await Guard().ensure(call, network, POLICY, "container", "elara-test/nowhere:1", "elara-test")
    base = docker_engine.base_image()
    with pytest.raises(FirewallFailed, match="No iptables here knows Docker's chain"):
        await Guard().ensure(call, network, POLICY, "container", base, "elara-test")
    await Guard().ensure(call, network, POLICY, "external", base, "elara-test")
    assert firewall.chains(network.bridge)[0] not in listed("INPUT")


async def test_a_network_that_was_made_otherwise_is_refused(network: Network, docker_engine: Engine) -> None:
    docker_engine.run("network", "create", "--subnet", "10.232.0.0/24", network.name)
    with pytest.raises(NetworkFailed, match="was made otherwise"):
        await ensure_network(call, network, "elara-test")


def test_the_network_can_be_made_before_the_hub_starts(network: Network, docker_engine: Engine) -> None:
    """So that proxy and node can listen on its gateway."""
    instance = network.name.removesuffix("-workspaces")
    settings = {"ELARA_INSTANCE": instance, "ELARA_BRIDGE": network.bridge, "ELARA_SUBNET": str(network.subnet)}
    assert prepare({**os.environ, **settings}) == "10.232.0.1"
    with socket.create_server(("10.232.0.1", 0)) as listening:
        assert listening.getsockname()[0] == "10.232.0.1"
    docker_engine.run("network", "inspect", network.name)
    with pytest.raises(NetworkFailed, match="The container engine does not answer"):
        prepare({**settings, "DOCKER_HOST": "unix:///nowhere/docker.sock"})
