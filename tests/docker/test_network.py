"""What a workspace reaches and what it does not, by trying from inside it."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime

import httpx
import pytest

from elara_hub.contract import API_PREFIX
from elara_spawner.docker import firewall
from elara_spawner.docker.network import own_name_servers
from tests.docker.docker_world import DockerWorld
from tests.support.docker import program
from tests.support.reach import trying
from tests.workspaces.hub_world import Browser, until


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    """Ports of this machine where somebody listens on every address, IPv6 too."""
    with ExitStack() as stack:
        found = {}
        for name in ("database", "data"):
            listener = stack.enter_context(socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True))
            found[name] = listener.getsockname()[1]
        yield found


def attempts(world: DockerWorld, user: str, targets: list[tuple[str, int]]) -> list[str]:
    return list(world.python(user, trying(targets)))


def own_addresses(world: DockerWorld) -> list[str]:
    """This machine's addresses as another may call it: every interface's, IPv6 too, and the gateway of the network."""
    printed = json.loads(subprocess.run(("ip", "-json", "addr"), capture_output=True, check=True).stdout)
    found = [
        entry["local"]
        for interface in printed
        if interface["ifname"] != "lo"
        for entry in interface["addr_info"]
        if entry["scope"] == "global"
    ]
    assert world.gateway in found
    return found


def test_hub_service_and_tracking_are_reached_through_the_proxy(world: DockerWorld, mary: Browser) -> None:
    """MLflow does not run in this world: that its part of the proxy answers is what counts here."""
    code = (
        "import json, sys, urllib.request as r, urllib.error as e\n"
        "def status(url):\n"
        "    try: return r.urlopen(url, timeout=20).status\n"
        "    except e.HTTPError as error: return error.code\n"
        "print(json.dumps([status(url) for url in json.loads(sys.argv[1])]))"
    )
    urls = [f"{world.site}/hub/api/", f"{world.site}{API_PREFIX}/health", f"{world.site}/services/mlflow/"]
    statuses = world.python("mary", code, json.dumps(urls))
    assert statuses[:2] == [200, 200]
    assert statuses[2] in (302, 403, 503)


def test_nothing_else_of_the_machine_is(world: DockerWorld, mary: Browser, ports: dict[str, int]) -> None:
    """A database, the hub's own port, the service's, and Docker's bridge, at every address that the machine has."""
    targets = [
        (address, port)
        for address in own_addresses(world)
        for port in (ports["database"], ports["data"], world.hub_port, world.service_port, world.proxy_port)
    ]
    here = [socket.create_connection((address, ports["database"]), 5) for address, _ in targets]
    for connection in here:
        connection.close()
    found = attempts(world, "mary", targets)
    assert [t for t, outcome in zip(targets, found, strict=True) if outcome == "open"] == []


def test_other_workspaces_are_not_by_name_or_address(world: DockerWorld, mary: Browser, victor: Browser) -> None:
    address = world.inspect("victor")["NetworkSettings"]["Networks"][f"{world.instance}-workspaces"]["IPAddress"]
    # The hub reaches it, so it does listen.
    assert httpx.get(f"http://{address}:8888/", trust_env=False).status_code == 200
    found = attempts(world, "mary", [(address, 8888), (world.name("victor"), 8888), ("127.0.0.1", 8888)])
    assert found[0] != "open" and found[1] != "open"
    assert found[2] == "open"


def test_neither_metadata_nor_private_networks_are_and_names_are_known(world: DockerWorld, mary: Browser) -> None:
    found = attempts(world, "mary", [("169.254.169.254", 80), ("192.168.1.1", 80), ("10.1.2.3", 22), ("fd00::1", 80)])
    assert all("open" not in outcome for outcome in found)
    # Refused at once, so that a program does not wait for minutes.
    assert not any("Timeout" in outcome for outcome in found), found
    asked = [(server, 53) for server in own_name_servers()]
    assert all("No route" not in outcome and "prohibited" not in outcome for outcome in attempts(world, "mary", asked))


def test_a_node_s_data_port_is_open_as_soon_as_the_pool_has_it(
    world: DockerWorld, mary: Browser, ports: dict[str, int]
) -> None:
    """And closed again when the node has gone; what runs does not have to start anew."""
    target = [(world.gateway, ports["data"])]
    assert attempts(world, "mary", target) != ["open"]
    with closing(sqlite3.connect(world.data / "elara.sqlite", timeout=30)) as database:
        database.execute(
            "INSERT INTO nodes (id, name, public_key_pem, created_at, data_tcp) VALUES (?, 'gpu', '', ?, ?)",
            ("0" * 32, datetime.now(UTC).isoformat(" "), f"{world.gateway}:{ports['data']}"),
        )
        database.commit()
        until(lambda: attempts(world, "mary", target) == ["open"], "the data port is open", 90)
        database.execute("DELETE FROM nodes")
        database.commit()
    until(lambda: attempts(world, "mary", target) != ["open"], "the data port is closed", 90)


def test_rules_that_something_took_away_come_back(world: DockerWorld, mary: Browser, ports: dict[str, int]) -> None:
    own_in, _ = firewall.chains(world.bridge)
    iptables = program("iptables") or "iptables"
    subprocess.run((iptables, "-w", "-F", own_in), check=True)
    subprocess.run((iptables, "-w", "-D", "INPUT", "-i", world.bridge, "-j", own_in), check=True)
    target = [(world.gateway, ports["database"])]
    assert attempts(world, "mary", target) == ["open"], "without the rules the machine is open: they are what closes it"
    until(lambda: attempts(world, "mary", target) != ["open"], "it is closed again", 90)
