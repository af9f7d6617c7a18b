"""Against a real JupyterHub: its tokens, its sign-in, its groups, the token inside a real workspace."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from service_world import API, INTERNAL, serving

from elara_hub.app import build_app
from elara_hub.config import Settings

PROXY_PORT, HUB_PORT, SERVICE_PORT = 21210, 21211, 21213
PUBLIC = f"http://127.0.0.1:{PROXY_PORT}"
SERVICE_TOKEN = "service-token-of-this-test"

CONFIG = f"""
from elara_hub.contract import CUSTOM_SCOPES
c.JupyterHub.bind_url = "{PUBLIC}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{HUB_PORT}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{PROXY_PORT + 2}"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.admin_users = {{"root"}}
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "homes/{{username}}"
c.Spawner.cmd = ["jupyterhub-singleuser", "--allow-root"]
c.JupyterHub.db_url = "sqlite:///:memory:"
c.JupyterHub.custom_scopes = CUSTOM_SCOPES
reach = ["access:services!service=elara", "custom:elara:attach"]
c.JupyterHub.load_roles = [
    {{"name": "user", "scopes": ["self", *reach]}},
    {{"name": "server", "scopes": ["users:activity!user", "access:servers!server", *reach]}},
    {{"name": "elara-service", "scopes": ["list:users", "read:users", "admin:groups"], "services": ["elara"]}},
]
c.JupyterHub.services = [{{
    "name": "elara", "url": "http://127.0.0.1:{SERVICE_PORT}", "api_token": "{SERVICE_TOKEN}",
    "oauth_no_confirm": True, "oauth_client_allowed_scopes": ["custom:elara:attach", "admin:users"], "timeout": 1,
}}]
"""


@pytest.fixture(scope="module")
def hub_process(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("hub")
    (folder / "config.py").write_text(CONFIG)
    root = Path(__file__).parents[2]
    proxies = [Path(sys.executable).parent, root / "deploy/proxy/node_modules/.bin", root / "node_modules/.bin"]
    path = os.pathsep.join([*map(str, proxies), os.environ["PATH"]])
    with (folder / "log").open("wb") as log:
        hub = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", "config.py"],
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_for_hub(hub, folder / "log")
            yield hub
        finally:
            # The whole group: its proxy and its workspaces must not outlive it, however it ends.
            os.killpg(hub.pid, signal.SIGTERM)
            hub.wait(30)
            # The proxy is in a session of its own, and stays when the hub was interrupted in its clean-up.
            with suppress(ProcessLookupError, FileNotFoundError):
                os.kill(int((folder / "jupyterhub-proxy.pid").read_text()), signal.SIGTERM)


def _wait_for_hub(hub: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert hub.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
        with suppress(httpx.HTTPError):
            if httpx.get(f"{PUBLIC}/hub/api/", timeout=2).status_code == 200:
                return
        time.sleep(0.1)


@pytest_asyncio.fixture
async def service(
    tmp_path: Path, hub_process: object, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("JUPYTERHUB_CLIENT_ID", "service-elara")
    settings = Settings(
        data=str(tmp_path),
        database_url=f"sqlite:///{tmp_path}/e.sqlite",
        internal_token=INTERNAL,
        hub_api_url=f"http://127.0.0.1:{HUB_PORT}/hub/api",
        hub_api_token=SERVICE_TOKEN,
        public_url=PUBLIC,
        admin="root",
    )
    async with serving(build_app(settings), SERVICE_PORT) as url, httpx.AsyncClient(base_url=url, timeout=30) as direct:
        yield direct


async def sign_in(name: str) -> httpx.AsyncClient:
    """A browser, as far as cookies and redirects go."""
    browser = httpx.AsyncClient(base_url=PUBLIC, timeout=30, follow_redirects=True, headers={"Accept": "text/html"})
    form = await browser.get("/hub/login")
    token = re.search(r'name="_xsrf" value="([^"]+)"', form.text)
    assert token
    await browser.post("/hub/login", data={"username": name, "password": "x", "_xsrf": token.group(1)})
    return browser


async def test_a_browser_signs_in_through_the_hub(service: httpx.AsyncClient) -> None:
    browser = await sign_in("ada")
    page = await browser.get("/services/elara/pool")
    assert page.status_code == 200 and page.url.path == "/services/elara/pool", "back where it wanted to go"
    assert "ada" in page.text and "(administrator)" not in page.text
    me = await browser.get(f"{API}/me")
    assert me.json()["user"] == "ada" and me.json()["workspace"] is None
    cookie = next(cookie for cookie in browser.cookies.jar if cookie.name == "elara-session")
    assert cookie.path == "/services/elara/" and cookie.has_nonstandard_attr("HttpOnly")
    assert not [cookie for cookie in browser.cookies.jar if cookie.name.startswith("elara-sign-in")]
    write = await browser.post(f"{API}/teams", json={"slug": "x"})
    assert write.json()["error"]["reason"] == "header_missing", "a foreign page's form must not write"
    write = await browser.post(f"{API}/teams", json={"slug": "x"}, headers={"X-Elara": "1"})
    assert write.status_code == 403 and write.json()["error"]["reason"] == "forbidden"
    await browser.aclose()


async def test_an_administrator_of_the_hub_administers(service: httpx.AsyncClient) -> None:
    browser = await sign_in("root")
    await browser.get("/services/elara/")
    made = await browser.post(f"{API}/teams", json={"slug": "vision"}, headers={"X-Elara": "1"})
    assert made.status_code == 201, made.text
    await sign_in("ben")
    body, header = {"role": "lead"}, {"X-Elara": "1"}
    added = await browser.put(f"{API}/teams/vision/members/ben", json=body, headers=header)
    assert added.status_code == 200, added.text
    ghost = await browser.put(f"{API}/teams/vision/members/nobody", json=body, headers=header)
    assert ghost.json()["error"]["reason"] == "unknown_user"
    headers = {"Authorization": f"token {SERVICE_TOKEN}"}
    deadline = time.monotonic() + 15
    async with httpx.AsyncClient() as client:
        while True:
            group = await client.get(f"http://127.0.0.1:{HUB_PORT}/hub/api/groups/vision", headers=headers)
            if group.status_code == 200 and group.json()["users"] == ["ben"]:
                break
            assert time.monotonic() < deadline, group.text
            await asyncio.sleep(0.1)
    await browser.aclose()


async def test_requests_that_are_no_browsers_are_not_redirected(service: httpx.AsyncClient) -> None:
    async with httpx.AsyncClient(base_url=PUBLIC) as plain:
        answer = await plain.get("/services/elara/pool")
        assert answer.status_code == 401
        forged = await plain.get("/services/elara/oauth_callback?code=x&state=abcdefgh")
        assert forged.status_code == 403
        through_proxy = {"Authorization": f"token {INTERNAL}"}
        assert (await plain.get(f"{API}/internal/spawn-options/ada", headers=through_proxy)).status_code == 403
        assert (await plain.get(f"{API}/nodes", headers=through_proxy)).status_code == 401


async def test_a_real_workspaces_token_is_known_as_one(service: httpx.AsyncClient) -> None:
    browser = await sign_in("root")
    await browser.get("/services/elara/")
    xsrf = browser.cookies.get("_xsrf", path="/hub/") or ""
    started = await browser.post("/hub/api/users/root/server", headers={"X-XSRFToken": xsrf})
    assert started.status_code in (201, 202), started.text
    token = await _token_in_workspace()
    body = {"team": "demo", "project": "digits"}
    internal = {"Authorization": f"token {INTERNAL}"}
    recorded = await service.put(f"{API}/internal/workspaces/root/-", json=body, headers=internal)
    assert recorded.status_code == 200
    me = (await service.get(f"{API}/me", headers={"Authorization": f"token {token}"})).json()
    assert me["workspace"] == {"server": "", "team": "demo", "project": "digits", "role": "owner"}
    assert me["may_attach"] is True and me["admin"] is False, "code in an administrator's notebook administers nothing"
    asked = await service.post(f"{API}/leases", json={}, headers={"Authorization": f"token {token}"})
    assert asked.json()["error"]["message"] == "The pool has no devices yet."
    await browser.delete("/hub/api/users/root/server", headers={"X-XSRFToken": xsrf})
    await browser.aclose()


async def _token_in_workspace() -> str:
    """From the environment of the real single-user process."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        token = await asyncio.to_thread(_find_token)
        if token is not None:
            return token
        await asyncio.sleep(0.1)
    raise AssertionError("the workspace did not start")


def _find_token() -> str | None:
    own = f"http://127.0.0.1:{HUB_PORT}/hub/api".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        found = dict(entry.partition(b"=")[::2] for entry in environment)
        if found.get(b"JUPYTERHUB_API_URL") == own and found.get(b"JUPYTERHUB_USER") == b"root":
            return found[b"JUPYTERHUB_API_TOKEN"].decode()
    return None
