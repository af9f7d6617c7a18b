"""The installation of `deploy/compose`, started for a test with the real images, under names of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from elara_hub.supervisor.ports import free_ports
from elara_spawner import names
from tests.docker.docker_world import remove_rules
from tests.docker.test_compose import FOLDER, compose
from tests.support.docker import SOCKET, Engine
from tests.workspaces.hub_world import Browser

HOST = "elara.example.org"
POSTGRES = "elara/postgres"
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


class ComposeWorld:
    """A folder as an administrator has it after docs/deploy.md, and what they type in it."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder = folder
        self.engine = engine
        tag = secrets.token_hex(3)
        self.instance, self.bridge, self.net = f"elara-check-{tag}", f"elc-{tag}", "10.79"
        self.https, http = free_ports(2)
        self.url = f"https://{HOST}:{self.https}"
        shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
        settings = {
            "ELARA_HOSTNAME": HOST,
            "ELARA_PUBLIC_URL": self.url,
            "ELARA_HTTPS_PORT": str(self.https),
            "ELARA_HTTP_PORT": str(http),
            "ELARA_INSTANCE": self.instance,
            "ELARA_BRIDGE": self.bridge,
            "ELARA_NET": self.net,
            "POSTGRES_IMAGE": POSTGRES,
            "DOCKER_GID": str(os.stat(SOCKET).st_gid),
        }
        self.http = f"http://127.0.0.1:{http}"
        lines = (folder / "env.template").read_text().splitlines()
        given = (settings.get(line.partition("=")[0]) for line in lines)
        text = (
            line if new is None else f"{line.partition('=')[0]}={new}" for line, new in zip(lines, given, strict=True)
        )
        (folder / ".env").write_text("\n".join(text) + "\n")
        self._certify()

    def _certify(self) -> None:
        """A certificate of an authority of our own, which the images are told to trust as images/certificates would."""
        make = (str(self.folder / "make-secrets"), str(self.folder / "secrets"))
        subprocess.run(make, check=True, capture_output=True)
        self.authority = self.folder / "authority.pem"
        key = self.folder / "authority.key"
        subject = ("-subj", "/CN=Authority of a test", "-addext", "basicConstraints=critical,CA:TRUE")
        new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90")
        _openssl(*new, "-keyout", str(key), "-out", str(self.authority), *subject)
        private, shown = self.folder / "secrets" / "tls-key", self.folder / "secrets" / "tls-certificate"
        signed = ("-CA", str(self.authority), "-CAkey", str(key), "-subj", f"/CN={HOST}")
        extensions = ("-addext", f"subjectAltName=DNS:{HOST}", "-addext", "basicConstraints=critical,CA:FALSE")
        _openssl(*new, "-keyout", str(private), "-out", str(shown), *signed, *extensions)
        subprocess.run(make, check=True, capture_output=True)
        bundle = self.folder / "bundle.crt"
        bundle.write_text(Path(_BUNDLE).read_text() + self.authority.read_text())
        trusted = {name: {"volumes": [f"{bundle}:{_BUNDLE}:ro"]} for name in ("tls", "proxy", "hub")}
        (self.folder / "compose.override.yaml").write_text(yaml.safe_dump({"services": trusted}))

    def compose(self, *arguments: str, check: bool = True, limit: float = 300) -> subprocess.CompletedProcess[str]:
        """`docker compose ARGUMENTS` in the folder."""
        files = ("--file", "compose.yaml", "--file", "compose.override.yaml", "--project-name", self.instance)
        command = (*compose(), *files, *arguments)
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=limit, check=False)
        assert done.returncode == 0 or not check, f"{' '.join(arguments)}: {done.stdout}\n{done.stderr}"
        return done

    def states(self) -> dict[str, str]:
        """`healthy`, `starting`, ... or the container's own status where it has no health check, by the part's name."""
        ids = self.compose("ps", "--quiet").stdout.split()
        found = json.loads(self.engine.run("inspect", *ids)) if ids else []
        return {
            part["Config"]["Labels"]["com.docker.compose.service"]: part["State"]
            .get("Health", {})
            .get("Status", f"{part['State']['Status']} {part['State']['ExitCode']}")
            for part in found
        }

    def logs(self) -> str:
        """The last lines of every part, for a test that failed."""
        return self.compose("logs", "--no-color", "--tail", "40", check=False).stdout

    def exec(self, part: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.compose("exec", "-T", part, *command, check=check)

    # -- people and workspaces

    def browser(self) -> Browser:
        """Somebody who trusts the authority."""
        return Browser(self.url, verify=ssl.create_default_context(cafile=str(self.authority)))

    def admin(self) -> Browser:
        browser = self.browser()
        answer = browser.sign_in("admin", (self.folder / "secrets" / "first-admin-password").read_text().strip())
        assert answer.url.path != "/hub/login", answer.text
        return browser

    def workspace(self, user: str) -> str:
        return names.workspace(self.instance, user, "")

    def address(self, part: str, network: str) -> str:
        """A part's address on one of the installation's networks."""
        (container,) = self.compose("ps", "--quiet", part).stdout.split()
        networks: dict[str, Any] = json.loads(self.engine.run("inspect", container))[0]["NetworkSettings"]["Networks"]
        return str(networks[f"{self.instance}_{network}" if network != "workspaces" else network]["IPAddress"])

    def remove(self) -> None:
        """Everything, workspaces with their volumes too."""
        label = f"label=org.elara.instance={self.instance}"
        run = self.engine.run
        for container in run("ps", "--all", "--quiet", "--filter", label).split():
            run("rm", "--force", "--volumes", container)
        self.compose("down", "--volumes", "--remove-orphans", check=False)
        for volume in run("volume", "ls", "--quiet", "--filter", label).split():
            run("volume", "rm", "--force", volume)
        remove_rules(self.bridge)


def _openssl(*arguments: str) -> None:
    subprocess.run(("openssl", *arguments), check=True, capture_output=True)


@contextmanager
def resolved(host: str) -> Iterator[None]:
    """The host's name leads to this machine, as the name server of a real one would say."""
    ask = socket.getaddrinfo

    def answer(name: Any, *arguments: Any, **options: Any) -> Any:
        return ask("127.0.0.1" if name == host else name, *arguments, **options)

    socket.getaddrinfo = answer
    try:
        yield
    finally:
        socket.getaddrinfo = ask
