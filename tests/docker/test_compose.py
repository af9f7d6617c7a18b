"""The compose file: valid, explained, and with no more rights than it says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.docker import Engine

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "compose"
COMPOSE = FOLDER / "compose.yaml"
TEMPLATE = FOLDER / "env.template"


def compose() -> tuple[str, ...]:
    """Docker Compose, as the engine's plug-in or as Debian's program."""
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]) and subprocess.run((*command, "version"), capture_output=True).returncode == 0:
            return command
    raise AssertionError("Docker Compose is missing: apt-get install docker-compose")


@pytest.fixture(scope="module")
def composed(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Docker Compose makes of the file with the template's settings."""
    folder = tmp_path_factory.mktemp("compose")
    shutil.copy(COMPOSE, folder)
    shutil.copy(TEMPLATE, folder / ".env")
    done = subprocess.run(
        (*compose(), "--file", "compose.yaml", "config"), cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "variable is not set" not in done.stderr, done.stderr
    return dict(yaml.safe_load(done.stdout))


def test_every_setting_is_explained_and_every_explained_one_is_used() -> None:
    used = set(re.findall(r"\$\{(\w+)\}", COMPOSE.read_text()))
    lines = TEMPLATE.read_text().splitlines()
    explained = [line.partition("=")[0] for line in lines if re.match(r"[A-Z_]+=", line)]
    assert used == set(explained)
    for index, line in enumerate(lines):
        if re.match(r"[A-Z_]+=", line):
            assert lines[index - 1].startswith("#") or re.match(r"[A-Z_]+=", lines[index - 1]), f"{line} is unexplained"


def test_only_the_hub_gets_dockers_socket_and_only_tls_gets_ports(composed: dict[str, Any]) -> None:
    services = composed["services"]
    with_socket = {name for name, part in services.items() if "docker.sock" in str(part.get("volumes", ""))}
    assert with_socket == {"hub"}
    assert {name for name, part in services.items() if part.get("ports")} == {"tls"}
    assert not any(part.get("privileged") or part.get("network_mode") for part in services.values())
    for name, part in services.items():
        assert part["cap_drop"] == ["ALL"] and part["read_only"] is True, name
        assert part["security_opt"] == ["no-new-privileges:true"], name
    assert {name for name, part in services.items() if part.get("cap_add")} == {"postgres", "join"}


def test_database_and_control_are_on_networks_without_workspaces(composed: dict[str, Any]) -> None:
    members: dict[str, set[str]] = {}
    for name, part in composed["services"].items():
        for network in part["networks"]:
            members.setdefault(network, set()).add(name)
    assert members["database"] == {"service", "postgres"}
    assert members["workspaces"] == {"proxy", "hub", "node"}
    assert "node" not in members["control"]
    for network in ("database", "control"):
        assert composed["networks"][network]["internal"] is True


def test_secrets_are_files_and_each_is_mounted_only_where_it_is_read(composed: dict[str, Any]) -> None:
    for name, part in composed["services"].items():
        given = {entry["source"] if isinstance(entry, dict) else entry for entry in part.get("secrets", ())}
        read = set(re.findall(r"/run/secrets/([\w-]+)", str(part.get("command")) + str(part.get("environment"))))
        assert given == read, name
        for variable, value in (part.get("environment") or {}).items():
            secret = re.search(r"TOKEN|SECRET|PASSWORD|KEY", variable)
            assert not secret or variable.endswith(("_FILE", "_URL")), f"{name}: {variable}={value}"
    assert all(Path(entry["file"]).parent.name == "secrets" for entry in composed["secrets"].values())


def test_the_secrets_are_made_once_and_are_nobody_elses_to_read(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    script = (str(FOLDER / "make-secrets"), str(folder), "1200")
    said = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert "tls-certificate" in said
    made = {file.name: file.read_text() for file in folder.iterdir()}
    wanted = {entry for entry in yaml.safe_load(COMPOSE.read_text())["secrets"] if not entry.startswith("tls-")}
    assert set(made) == wanted
    for file in folder.iterdir():
        assert (file.stat().st_mode & 0o777, file.stat().st_uid) == (0o400, 1200)
        if file.name != "oidc-client-secret":
            assert len(file.read_text().strip()) >= 20
    assert made["database-password"].strip() in made["database-passfile"]
    subprocess.run(script, capture_output=True, check=True)
    assert {file.name: file.read_text() for file in folder.iterdir()} == made
