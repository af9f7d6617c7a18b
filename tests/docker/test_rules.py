"""The rules of the workspaces' network, the sentences of failures and the progress of a pull, as plain values."""

from __future__ import annotations

import ipaddress
from typing import Any

import docker.errors
import pytest
import requests

from elara_spawner.docker import failures, firewall, network, pulls
from elara_spawner.docker.firewall import Endpoint, Policy
from elara_spawner.docker.objects import Network

NET = Network("elara-workspaces", "elara-ws", ipaddress.IPv4Network("10.77.0.0/16"))


def test_what_is_open_is_what_was_named() -> None:
    policy = Policy((Endpoint("10.77.0.1", 8000), Endpoint("10.0.0.5", 7470)), ("10.0.0.2",), outside=False)
    to_machine, passed_on = firewall.rules(NET, policy)
    named = [
        "-d 10.0.0.5/32 -p tcp --dport 7470 -j ACCEPT",
        "-d 10.77.0.1/32 -p tcp --dport 8000 -j ACCEPT",
        "-d 10.0.0.2/32 -p udp --dport 53 -j ACCEPT",
        "-d 10.0.0.2/32 -p tcp --dport 53 -j ACCEPT",
    ]
    refused = ["-p tcp -j REJECT --reject-with tcp-reset", "-j REJECT --reject-with icmp-admin-prohibited"]
    answers = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    assert to_machine == [answers, "-s 10.77.0.0/17 -j RETURN", *named, *refused]
    neighbours = ["-o elara-ws -p tcp -j REJECT --reject-with tcp-reset", "-o elara-ws -j DROP"]
    assert passed_on == [answers, "-s 10.77.0.0/17 -j ACCEPT", *named, *neighbours, *refused]


def test_the_outside_is_without_private_networks() -> None:
    _, passed_on = firewall.rules(NET, Policy((), (), outside=True))
    assert passed_on[-1] == "-j RETURN"
    for closed in ("10.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16", "172.16.0.0/12"):
        assert f"-d {closed} -j REJECT --reject-with icmp-admin-prohibited" in passed_on[:-1]
    _, own = firewall.rules(NET, Policy((), (), outside=True, closed=("10.9.0.0/16",)))
    assert [rule for rule in own if " -j REJECT --reject-with icmp" in rule] == [
        "-d 10.9.0.0/16 -j REJECT --reject-with icmp-admin-prohibited"
    ]


def test_chains_are_not_too_long_for_the_kernel() -> None:
    assert all(len(chain) <= 28 for chain in firewall.chains("b" * 15))


def test_addresses_to_reach() -> None:
    names = {"elara.example.org": "10.77.0.1"}
    given = ["https://elara.example.org", "http://10.0.0.1:8000/x", "10.0.0.5:7470", "http://plain"]
    assert network.endpoints(given, names) == [
        ("10.77.0.1", 443),
        ("10.0.0.1", 8000),
        ("10.0.0.5", 7470),
        ("plain", 80),
    ]
    for wrong in ("10.0.0.5", "host:port", ":80", ""):
        with pytest.raises(network.NetworkFailed, match="is no address with a port"):
            network.endpoints([wrong], {})


async def test_a_loopback_address_opens_nothing() -> None:
    assert await network.resolve([("127.0.0.1", 8000), ("10.0.0.1", 80), ("nowhere.invalid", 1)]) == [
        Endpoint("10.0.0.1", 80)
    ]


def test_name_servers() -> None:
    text = "# x\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver fe80::1\nsearch example.org\n"
    assert firewall.name_servers(text) == ("10.0.0.2",)


IMAGE = "registry.example.org/elara/pytorch:1"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "manifest for registry.example.org/elara/pytorch:1 not found: manifest unknown: manifest unknown",
            "image_missing",
        ),
        ("pull access denied for x, repository does not exist or may require 'docker login': denied", "pull_refused"),
        ('Head "https://r/v2/x/manifests/1": unauthorized: authentication required', "pull_refused"),
        ('Head "https://r/v2/x/manifests/1": no basic auth credentials', "pull_refused"),
        ('Get "https://r/v2/": dial tcp: lookup r on 10.0.0.2:53: no such host', "registry_unreachable"),
        (
            'Get "http://127.0.0.1:5000/v2/": dial tcp 127.0.0.1:5000: connect: connection refused',
            "registry_unreachable",
        ),
        ('Get "https://r/v2/": net/http: request canceled (Client.Timeout exceeded)', "registry_unreachable"),
        ('Get "https://r/v2/": x509: certificate signed by unknown authority', "registry_unreachable"),
        ("write /var/lib/docker/tmp/x: no space left on device", "disk_full"),
        ("something else", "pull_failed"),
    ],
)
def test_what_became_of_a_pull(said: str, reason: str) -> None:
    failure = failures.pull_failed(IMAGE, "PyTorch", said)
    assert failure.reason == reason
    if reason != "disk_full":
        assert IMAGE in failure.message and "PyTorch" in failure.message


def api_error(said: str, status: int = 500) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError("failed", response=response, explanation=said)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (requests.exceptions.ConnectionError("x"), "engine_down"),
        (docker.errors.DockerException("Error while fetching server API version"), "engine_down"),
        (api_error("mkdir /var/lib/docker/overlay2/x: no space left on device"), "disk_full"),
        (api_error("OCI runtime create failed: fork/exec: cannot allocate memory"), "no_memory"),
        (api_error('Conflict. The container name "/x" is already in use by container "y".', 409), "name_conflict"),
        (api_error("error while mounting volume '/x': no such file or directory"), "volume_failed"),
        (api_error("something else"), "engine_error"),
    ],
)
def test_what_an_error_of_the_engine_means(error: Exception, reason: str) -> None:
    failure = failures.from_error(error, "starting the container")
    assert failure.reason == reason
    assert "administrator" in failure.message or "smaller size" in failure.message


def test_only_an_engine_that_cannot_be_asked_is_away() -> None:
    assert failures.engine_away(requests.exceptions.ReadTimeout())
    assert not failures.engine_away(api_error("driver failed"))


def test_a_pull_is_told_in_bytes_and_layers() -> None:
    progress = pulls.PullProgress()
    assert progress.sentence("PyTorch") == "Fetching the image of PyTorch: asking the registry"
    events: list[dict[str, Any]] = [
        {"status": "Pulling from elara/pytorch", "id": "1"},
        {"status": "Already exists", "id": "aaa"},
        {"status": "Pulling fs layer", "id": "bbb"},
        {"status": "Downloading", "id": "bbb", "progressDetail": {"current": 40_000_000, "total": 100_000_000}},
    ]
    for event in events:
        progress.take(event)
    assert progress.sentence("PyTorch") == "Fetching the image of PyTorch: 1 of 2 layers, 40 MB of 100 MB"
    assert progress.fraction == pytest.approx(0.45)
    progress.take({"status": "Extracting", "id": "bbb", "progressDetail": {"current": 1, "total": 100_000_000}})
    assert progress.bytes == (100_000_000, 100_000_000)
    progress.take({"status": "Pull complete", "id": "bbb"})
    progress.take({"status": "Digest: sha256:x"})
    assert progress.layers == (2, 2)
    assert progress.fraction == 1.0
    with pytest.raises(pulls.PullFailed, match="manifest unknown"):
        progress.take({"errorDetail": {"message": "manifest unknown"}, "error": "manifest unknown"})


@pytest.mark.parametrize(
    ("image", "pulled", "parts"),
    [
        ("elara/pytorch:0.1.0", False, ("elara/pytorch", "0.1.0")),
        ("python", False, ("python", "latest")),
        ("registry.example.org/pytorch", True, ("registry.example.org/pytorch", "latest")),
        ("localhost/x:1", True, ("localhost/x", "1")),
        ("127.0.0.1:5000/x:1", True, ("127.0.0.1:5000/x", "1")),
        ("r.org/x@sha256:ab", True, ("r.org/x", "sha256:ab")),
    ],
)
def test_only_an_image_that_names_its_registry_is_fetched(image: str, pulled: bool, parts: tuple[str, str]) -> None:
    assert pulls.is_pulled(image) is pulled
    assert pulls.split(image) == parts
