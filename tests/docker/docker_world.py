"""A real hub, proxy and service whose workspaces are containers, under names of their own."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from elara_spawner import names
from elara_spawner.docker import firewall
from tests.support.docker import Engine, program
from tests.workspaces.hub_world import Browser, HubWorld


class DockerWorld(HubWorld):
    """`subnets` of two worlds at a time must differ; `settings` are variables of the hub."""

    proxy_ip = "0.0.0.0"
    config = Path(__file__).with_name("hub_config.py")

    def __init__(self, data: Path, engine: Engine, image: str, subnet: int = 231, **settings: str) -> None:
        super().__init__(data)
        self.engine = engine
        tag = secrets.token_hex(3)
        self.instance = f"elara-test-{tag}"
        self.bridge = f"el-{tag}"
        self.gateway = f"10.{subnet}.0.1"
        self.site = f"http://{self.gateway}:{self.public}"
        self.catalogue = data.parent / f"{data.name}-catalogue" / "catalogue.yaml"
        repository = image.rpartition(":")[0]
        self.images = [
            {"name": "base", "title": "Base", "image": image, "description": "Answers at once."},
            *(
                {"name": mode, "title": mode.title(), "image": f"{repository}:{mode}"}
                for mode in ("dies", "hangs", "hogs")
            ),
            {"name": "missing", "title": "Missing", "image": "elara-test/nowhere:1"},
            {"name": "vision", "title": "Vision only", "image": image, "teams": ["vision"]},
        ]
        self.write_catalogue()
        self.extra = {
            "ELARA_ENGINE": "docker",
            "ELARA_INSTANCE": self.instance,
            "ELARA_BRIDGE": self.bridge,
            "ELARA_SUBNET": f"10.{subnet}.0.0/24",
            "ELARA_SITE_URL": self.site,
            "ELARA_CATALOGUE": str(self.catalogue),
            **settings,
        }

    def write_catalogue(self) -> None:
        """The hub reads it anew at each start of a workspace."""
        root = Path(__file__).resolve().parents[2]
        self.catalogue.parent.mkdir(exist_ok=True)
        (self.catalogue.parent / "schema.json").write_text((root / "images" / "schema.json").read_text())
        content = {
            "default_image": "base",
            "default_size": "small",
            "images": self.images,
            "sizes": [
                {"name": "small", "title": "Small", "cpus": 1, "memory": "768MiB"},
                {"name": "tiny", "title": "Tiny", "cpus": 1, "memory": "16MiB"},
                {"name": "narrow", "title": "Narrow", "cpus": 1, "memory": "768MiB", "processes": 40},
            ],
        }
        self.catalogue.write_text(yaml.safe_dump(content))

    def add_dataset(self, name: str, image: str, teams: list[str] | None = None) -> None:
        """A filled volume that the hub offers as a data set; before the hub starts."""
        volume = f"{self.instance}-data-{name}"
        self.engine.run("volume", "create", "--label", f"org.elara.instance={self.instance}", volume)
        fill = f"echo {name} > /data/file && chmod 0666 /data/file && chmod 0777 /data"
        self.engine.run("run", "--rm", "--user", "0:0", "--volume", f"{volume}:/data", image, "sh", "-c", fill)
        known = json.loads(self.extra.get("ELARA_TEST_DATASETS", "{}"))
        self.extra["ELARA_TEST_DATASETS"] = json.dumps({**known, name: {"volume": volume, "teams": teams}})

    # -- containers

    def begin(self, person: Browser, server: str = "", **options: str) -> list[dict[str, Any]]:
        """Start a workspace, in demo/digits unless told otherwise; returns the events of its progress."""
        answer = person.spawn(server, **{"project": "demo/digits", **options})
        assert "/hub/spawn-pending/" in answer.url.path, answer.text
        person.events = person.progress(server)
        assert person.events[-1].get("ready"), person.events
        return person.events

    def refused(self, person: Browser, server: str = "", **options: str) -> str:
        """Start what cannot be; returns the sentence that the user reads."""
        answer = person.api("POST", f"/users/{person.name}/servers/{server}", {"project": "demo/digits", **options})
        if answer.status_code >= 400:
            return str(answer.json()["message"])
        last = person.progress(server)[-1]
        assert last.get("failed"), last
        return str(last["message"])

    def name(self, user: str, server: str = "") -> str:
        return names.workspace(self.instance, user, server)

    def inspect(self, user: str, server: str = "") -> dict[str, Any]:
        return dict(json.loads(self.engine.run("inspect", self.name(user, server)))[0])

    def containers(self) -> list[str]:
        """Names of all containers of this installation, running or not."""
        label = f"label=org.elara.instance={self.instance}"
        return self.engine.run("ps", "--all", "--filter", label, "--format", "{{.Names}}").split()

    def containers_of(self, user: str) -> list[str]:
        return [name for name in self.containers() if name.startswith(self.name(user))]

    def shell(self, user: str, script: str, server: str = "") -> subprocess.CompletedProcess[str]:
        """Run a shell script as the workspace's user inside it."""
        return self._exec(user, server, "sh", "-c", script)

    def python(self, user: str, code: str, *arguments: str, server: str = "") -> Any:
        """Run Python inside the workspace; returns what it printed, as JSON."""
        done = self._exec(user, server, "python3", "-c", code, *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def _exec(self, user: str, server: str, *command: str) -> subprocess.CompletedProcess[str]:
        host = f"unix://{self.engine.socket}"
        full = (program("docker") or "docker", "--host", host, "exec", self.name(user, server), *command)
        return subprocess.run(full, capture_output=True, text=True, timeout=120)

    def close(self) -> None:
        super().close()
        label = f"label=org.elara.instance={self.instance}"
        run = self.engine.run
        for container in run("ps", "--all", "--quiet", "--filter", label).split():
            run("rm", "--force", "--volumes", container)
        for volume in run("volume", "ls", "--quiet", "--filter", label).split():
            run("volume", "rm", "--force", volume)
        for network in run("network", "ls", "--quiet", "--filter", label).split():
            run("network", "rm", network)
        remove_rules(self.bridge)


def remove_rules(bridge: str) -> None:
    """Take the packet filter's rules of a bridge away."""
    own_in, own_forward = firewall.chains(bridge)
    for command in (
        ("iptables", "-D", "INPUT", "-i", bridge, "-j", own_in),
        ("iptables", "-D", "DOCKER-USER", "-i", bridge, "-j", own_forward),
        ("ip6tables", "-D", "INPUT", "-i", bridge, "-j", "DROP"),
        ("ip6tables", "-D", "FORWARD", "-i", bridge, "-j", "DROP"),
        ("iptables", "-F", own_in),
        ("iptables", "-F", own_forward),
        ("iptables", "-X", own_in),
        ("iptables", "-X", own_forward),
    ):
        # Not all of them are there after a test that failed early.
        subprocess.run((program(command[0]) or command[0], "-w", *command[1:]), capture_output=True)


DOCKERFILE = """\
FROM {base}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 acl tini iptables >/dev/null
RUN groupadd -g 1000 elara && useradd -u 1000 -g 1000 -m -s /bin/bash elara \\
 && mkdir -m 1777 /scratch && mkdir -m 0700 /run/elara && chown elara:elara /run/elara
COPY standin.py /standin.py
USER elara
WORKDIR /home/elara
ENTRYPOINT ["tini", "-g", "--"]
CMD ["python3", "/standin.py"]
"""


def workspace_image(engine: Engine) -> str:
    """The name of an image whose server answers at once, which keeps these tests quick; made when it is not there.

    Further tags of it misbehave: `dies`, `hangs` and `hogs`.
    """
    source = Path(__file__).with_name("standin.py").read_bytes()
    recipe = DOCKERFILE.format(base=engine.base_image())
    repository = "elara-test/standin-" + hashlib.sha256(recipe.encode() + source).hexdigest()[:12]
    if engine.has_image(f"{repository}:hogs"):
        return f"{repository}:works"
    with tempfile.TemporaryDirectory(prefix="elara-standin-") as folder:
        (Path(folder) / "standin.py").write_bytes(source)
        (Path(folder) / "Dockerfile").write_text(recipe)
        build = ("build", "--quiet", "--network", "host")
        old_builder = {**os.environ, "DOCKER_BUILDKIT": "0"}
        engine.run(*build, "--tag", f"{repository}:works", folder, env=old_builder)
        for mode in ("dies", "hangs", "hogs"):
            (Path(folder) / "Dockerfile").write_text(f"FROM {repository}:works\nENV MODE={mode}\n")
            engine.run(*build, "--tag", f"{repository}:{mode}", folder, env=old_builder)
    return f"{repository}:works"
