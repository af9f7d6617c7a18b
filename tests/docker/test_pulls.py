"""Fetching images from a real registry on this machine: told in layers and bytes, shared, and refused in words."""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml

from tests.docker.docker_world import DockerWorld
from tests.support.docker import Engine, program
from tests.workspaces.hub_world import Browser, until


def run_registry(folder: Path, **auth: object) -> tuple[subprocess.Popen[bytes], str]:
    """Start one; returns it and its `address:port`. (Docker talks plain HTTP to a registry on 127.0.0.1.)"""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address},
        **({"auth": auth} if auth else {}),
    }
    (folder / "config.yml").write_text(yaml.safe_dump(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            (program("docker-registry") or "docker-registry", "serve", str(folder / "config.yml")),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return httpx.get(f"http://{address}/v2/", trust_env=False).status_code in (200, 401)
        except httpx.HTTPError:
            return False

    until(answers, "the registry answers")
    return process, address


@pytest.fixture(scope="module")
def registry_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    process, address = run_registry(tmp_path_factory.mktemp("registry") / "open")
    yield process, address
    process.terminate()
    process.wait(20)


@pytest.fixture(scope="module")
def registry(registry_process: tuple[subprocess.Popen[bytes], str]) -> str:
    """Its address."""
    return registry_process[1]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry whose password nobody has."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "htpasswd").write_text("somebody:$2y$05$" + "a" * 53 + "\n")
    process, address = run_registry(folder / "locked", htpasswd={"realm": "x", "path": str(folder / "htpasswd")})
    yield address
    process.terminate()
    process.wait(20)


@pytest.fixture
def offered(world: DockerWorld, docker_engine: Engine) -> Iterator[list[str]]:
    """Images that the catalogue offers for one test as `remote-0`, `remote-1`, ...; they are removed afterwards."""
    given: list[str] = []
    before = list(world.images)
    yield given
    world.images[:] = before
    world.write_catalogue()
    for image in given:
        subprocess.run((program("docker") or "docker", "rmi", "--force", image), capture_output=True)


def offer(world: DockerWorld, given: list[str], image: str) -> str:
    name = f"remote-{len(given)}"
    given.append(image)
    world.images.append({"name": name, "title": f"Remote {len(given)}", "image": image})
    world.write_catalogue()
    return name


def test_a_pull_is_told_and_two_who_wait_share_it(
    world: DockerWorld,
    docker_engine: Engine,
    mary: Browser,
    registry_process: tuple[subprocess.Popen[bytes], str],
    image: str,
    offered: list[str],
    tmp_path: Path,
) -> None:
    """The image gets two layers of its own, which cannot be on this machine already."""
    process, registry = registry_process
    remote = f"{registry}/team/two-layers:1"
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(secrets.token_bytes(20_000_000))
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\nCOPY one /one\nCOPY two /two\n")
    docker_engine.run("build", "--quiet", "--tag", remote, str(tmp_path))
    docker_engine.run("push", remote)
    docker_engine.run("rmi", remote)
    chosen = offer(world, offered, remote)
    # Of a start that is through only its end is told: the registry waits until both are followed.
    process.send_signal(signal.SIGSTOP)
    try:
        both = [threading.Event(), threading.Event()]
        with ThreadPoolExecutor(2) as beside:
            following = []
            for server, begun in zip(("pulled", "other"), both, strict=True):
                assert mary.spawn(server, project="demo/digits", image=chosen).status_code == 200
                following.append(beside.submit(mary.progress, server, begun.set))
            followed = [begun.wait(60) for begun in both]
            process.send_signal(signal.SIGCONT)
            events, other = (told.result() for told in following)
    finally:
        process.send_signal(signal.SIGCONT)
    mary.stop("pulled")
    mary.stop("other")
    assert all(followed)
    for told in (events, other):
        pulls = [event["message"] for event in told if event["message"].startswith("Fetching the image of Remote 1")]
        assert pulls
        assert told[-1].get("ready"), told
    layers = [line for line in (event["message"] for event in [*events, *other]) if " layers, " in line]
    assert layers and all(" MB" in line or " kB" in line or " B" in line for line in layers), layers


def test_what_a_registry_refuses_is_told_in_words(
    world: DockerWorld, mary: Browser, registry: str, locked: str, offered: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        nobody = f"127.0.0.1:{probe.getsockname()[1]}"
    for image, sentence in (
        (f"{registry}/team/nothing:1", f"The registry has no image {registry}/team/nothing:1"),
        (f"{locked}/team/pytorch:1", f"The registry {locked} refuses to hand out the image"),
        (f"{nobody}/team/pytorch:1", f"The registry {nobody}, which has the image of"),
    ):
        told = world.refused(mary, "refused", image=offer(world, offered, image))
        assert sentence in told, told
