"""A real hub with its real proxy and the real service, each a process, and people who use it by HTTP."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from elara_hub.contract import API_PREFIX
from elara_hub.supervisor.found import proxy_command

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery staple"
# Fixed ones, since a hub gets its old port again after a restart. Test runs side by side have ranges of their own.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PORTS = iter(range(21310 + 80 * _WORKER, 21390 + 80 * _WORKER))


def until(happens: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """What `happens` returned once it was true. Raises AssertionError after the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = happens()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def gone(process: psutil.Process) -> bool:
    """Whether it has ended; one that nobody has waited for yet (a zombie of a killed hub) has."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def free_port() -> int:
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


class Browser:
    """Somebody with cookies. Forms carry the hub's xsrf token, as its pages do."""

    def __init__(self, url: str, verify: ssl.SSLContext | bool = True) -> None:
        self.http = httpx.Client(base_url=url, timeout=90, follow_redirects=True, trust_env=False, verify=verify)
        self.name = ""
        self.events: list[dict[str, Any]] = []

    @property
    def xsrf(self) -> str:
        return self.http.cookies.get("_xsrf", path="/hub/") or ""

    def sign_in(self, name: str, password: str = PASSWORD) -> httpx.Response:
        self.http.get("/hub/login")
        self.name = name
        return self.post("/hub/login", username=name, password=password)

    def post(self, path: str, **fields: str) -> httpx.Response:
        return self.http.post(path, data={**fields, "_xsrf": self.xsrf})

    def api(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.http.request(method, f"/hub/api{path}", json=body, headers={"X-XSRFToken": self.xsrf})

    def token(self) -> str:
        answer = self.api("POST", f"/users/{self.name}/tokens", {"note": "test", "expires_in": 600})
        answer.raise_for_status()
        return str(answer.json()["token"])

    def signed_in(self) -> bool:
        return self.http.get("/hub/home").url.path == "/hub/home"

    def spawn(self, server: str = "", **choice: str) -> httpx.Response:
        self.http.get(f"/hub/spawn/{self.name}/{server}".rstrip("/"))
        path = f"/hub/spawn/{self.name}/{server}".rstrip("/")
        return self.http.post(path, params={"_xsrf": self.xsrf}, data=choice)

    def progress(self, server: str = "", begun: Callable[[], Any] = lambda: None) -> list[dict[str, Any]]:
        """All events of the progress stream, until its end; calls `begun` when the first is there."""
        path = f"/hub/api/users/{self.name}/" + (f"servers/{server}" if server else "server") + "/progress"
        events: list[dict[str, Any]] = []
        with self.http.stream("GET", path) as stream:
            assert stream.status_code == 200, stream.read()
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    events.append(json.loads(line.removeprefix("data: ")))
                    begun()
        return events

    def ready(self, server: str = "") -> bool:
        model = self.api("GET", f"/users/{self.name}").json()
        return bool(model["servers"].get(server, {}).get("ready"))

    def stop(self, server: str = "") -> None:
        path = f"/users/{self.name}/" + (f"servers/{server}" if server else "server")
        self.api("DELETE", path).raise_for_status()
        until(lambda: server not in self.api("GET", f"/users/{self.name}").json()["servers"], "the server is gone")


class HubWorld:
    """The processes over one data folder."""

    config = ROOT / "jupyterhub_config.py"
    proxy_ip = "127.0.0.1"

    def __init__(self, data: Path, extra: dict[str, str] | None = None) -> None:
        self.data = data
        self.logs = data.parent / (data.name + "-logs")
        self.logs.mkdir()
        data.mkdir(exist_ok=True)
        self.public, self.hub_port, self.proxy_port, self.service_port, self.mlflow_port = (
            free_port() for _ in range(5)
        )
        self.url = f"http://127.0.0.1:{self.public}"
        self.secrets = {
            name: secrets.token_hex(32)
            for name in (
                "CONFIGPROXY_AUTH_TOKEN",
                "ELARA_INTERNAL_TOKEN",
                "ELARA_SERVICE_TOKEN",
                "ELARA_MLFLOW_TOKEN",
                "ELARA_SUPERVISOR_TOKEN",
                "JUPYTERHUB_CRYPT_KEY",
            )
        }
        self.extra = extra or {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ELARA_", "JUPYTERHUB_", "MLFLOW_"))}
        return {**kept, "ELARA_DATA": str(self.data), "ELARA_PUBLIC_URL": self.url, "ELARA_ADMIN_NAME": "admin"}

    def _run(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        with (self.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.logs
            )

    def _ready(self, name: str, url: str) -> None:
        def answers() -> bool:
            assert self.processes[name].poll() is None, f"{name} died:\n{self.log(name)}"
            try:
                return httpx.get(url, timeout=5, trust_env=False).status_code < 400
            except httpx.HTTPError:
                return False

        until(answers, f"{name} answers at {url}", 180)

    def start_proxy(self) -> None:
        address = ["--ip", self.proxy_ip, "--port", str(self.public), "--api-ip", "127.0.0.1"]
        self._run(
            "proxy",
            [*proxy_command(), *address, "--api-port", str(self.proxy_port), "--log-level", "warn"],
            {**os.environ, "CONFIGPROXY_AUTH_TOKEN": self.secrets["CONFIGPROXY_AUTH_TOKEN"]},
        )

    def start_hub(self) -> None:
        ports = {
            "ELARA_HUB_URL": self.hub_port,
            "ELARA_PROXY_API_URL": self.proxy_port,
            "ELARA_SERVICE_URL": self.service_port,
            "ELARA_MLFLOW_URL": self.mlflow_port,
        }
        addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        command = [sys.executable, "-m", "jupyterhub", "-f", str(self.config)]
        self._run("hub", command, {**self.environment(), **addresses, **self.secrets, **self.extra})

    def wait_for_hub(self) -> None:
        self._ready("hub", f"{self.url}/hub/health")

    def start_service(self) -> None:
        self._run(
            "service",
            [sys.executable, "-m", "elara_hub"],
            {
                **self.environment(),
                "ELARA_SERVICE_URL": f"http://127.0.0.1:{self.service_port}",
                "ELARA_INTERNAL_TOKEN": self.secrets["ELARA_INTERNAL_TOKEN"],
                "JUPYTERHUB_API_TOKEN": self.secrets["ELARA_SERVICE_TOKEN"],
                "JUPYTERHUB_API_URL": f"http://127.0.0.1:{self.hub_port}/hub/api",
                "JUPYTERHUB_BASE_URL": "/",
                "JUPYTERHUB_CLIENT_ID": "service-elara",
                "JUPYTERHUB_SERVICE_NAME": "elara",
                "JUPYTERHUB_SERVICE_PREFIX": "/services/elara/",
                "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{self.service_port}",
                "JUPYTERHUB_OAUTH_CALLBACK_URL": "/services/elara/oauth_callback",
                "JUPYTERHUB_OAUTH_ACCESS_SCOPES": '["access:services!service=elara"]',
            },
        )

    def wait_for_service(self) -> None:
        self._ready("service", f"http://127.0.0.1:{self.service_port}{API_PREFIX}/health")

    def stop(self, name: str, how: int = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        return (self.logs / f"{name}.log").read_text(errors="replace")

    # -- people

    def browser(self) -> Browser:
        return Browser(self.url)

    def admin(self) -> Browser:
        browser = self.browser()
        password = (self.data / "secrets" / "first-admin-password").read_text().strip()
        answer = browser.sign_in("admin", password)
        assert answer.url.path != "/hub/login", answer.text
        return browser

    def invitation(self, admin: Browser, **fields: str) -> str:
        """A link's path and query."""
        page = admin.post("/hub/accounts", action="invite", **fields).text
        found = re.search(r'id="accounts-link">(.*?)</code>', page)
        assert found, page
        return found[1].removeprefix(self.url)

    def join(self, name: str, admin: Browser) -> Browser:
        """A new person, signed in, who came by invitation."""
        link = self.invitation(admin)
        browser = self.browser()
        browser.http.get(link)
        answer = browser.post(
            "/hub/signup",
            invitation=link.partition("invitation=")[2],
            username=name,
            password=PASSWORD,
            repeated=PASSWORD,
        )
        assert answer.status_code == 200, answer.text
        browser.name = name
        return browser

    def api(self, person: Browser) -> httpx.Client:
        """The service's API in somebody's name; close it, or use it in a `with`."""
        headers = {"Authorization": f"token {person.token()}"}
        return httpx.Client(base_url=self.url + API_PREFIX, headers=headers, trust_env=False, timeout=60)

    def add_member(self, admin: Browser, project: str, name: str, role: str) -> None:
        with self.api(admin) as api:
            answer = api.put(f"/projects/{project}/members/{name}", json={"role": role})
        assert answer.is_success, answer.text

    def make_project(self, admin: Browser, team: str, project: str) -> None:
        """Make it, and the team when that is not there."""
        with self.api(admin) as api:
            for path, slug in (("/teams", team), (f"/teams/{team}/projects", project)):
                answer = api.post(path, json={"slug": slug})
                assert answer.status_code in (201, 409), answer.text

    def workspace(self, user: str, server: str = "-") -> psutil.Process | None:
        """The process of a workspace, found by its runtime folder."""
        wanted = str(self.data / "run" / user / server)
        for process in psutil.process_iter():
            try:
                if (
                    process.environ().get("ELARA_RUNTIME_DIR") == wanted
                    and "jupyterhub.singleuser" in process.cmdline()
                ):
                    return process
            except (psutil.Error, KeyError):
                continue
        return None

    def close(self) -> None:
        for name in list(self.processes):
            self.stop(name)
        for process in psutil.process_iter():
            try:
                if process.environ().get("ELARA_RUNTIME_DIR", "").startswith(str(self.data)):
                    process.kill()
            except psutil.Error:
                continue


World = TypeVar("World", bound=HubWorld)


@contextmanager
def open_hub(data: Path, *, service: bool = True, extra: dict[str, str] | None = None) -> Iterator[HubWorld]:
    """A running world; every process is gone at the end."""
    with opened(HubWorld(data, extra), service=service) as world:
        yield world


@contextmanager
def opened(world: World, *, service: bool = True) -> Iterator[World]:
    """Run its processes; every one is gone at the end."""
    try:
        world.start_proxy()
        world.start_hub()
        if service:
            world.start_service()
            world.wait_for_service()
        world.wait_for_hub()
        yield world
    finally:
        world.close()
