"""The installation of deploy/compose with the real images: started, used over https, stopped and started again."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from elara_hub.contract import API_PREFIX
from tests.docker.compose_world import HOST, POSTGRES, ComposeWorld, resolved
from tests.docker.test_compose import FOLDER
from tests.support.docker import Engine
from tests.support.images import BuiltImages
from tests.support.reach import trying
from tests.workspaces.hub_world import Browser, until

PARTS = {"tls", "proxy", "hub", "service", "mlflow", "postgres", "node"}


@pytest.fixture(scope="module")
def site(
    docker_engine: Engine, built_images: BuiltImages, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComposeWorld]:
    if not docker_engine.has_image(POSTGRES):
        base = f"BASE_IMAGE={docker_engine.base_image()}"
        docker_engine.run(
            *("build", "--quiet", "--network", "host", "--build-arg", base),
            *("--tag", POSTGRES, str(FOLDER / "postgres")),
        )
    world = ComposeWorld(tmp_path_factory.mktemp("site"), docker_engine)
    with resolved(HOST):
        try:
            world.compose("up", "-d")
            wait_healthy(world)
            yield world
        finally:
            world.remove()


def wait_healthy(site: ComposeWorld) -> None:
    def healthy() -> bool:
        states = site.states()
        return {part for part, state in states.items() if state == "healthy"} == PARTS

    try:
        until(healthy, "every part is healthy", 180)
    except AssertionError as error:
        raise AssertionError(f"{error}: {site.states()}\n{site.logs()}") from None


@pytest.fixture(scope="module")
def admin(site: ComposeWorld) -> Browser:
    return site.admin()


def test_people_come_in_over_https_only(site: ComposeWorld, admin: Browser) -> None:
    plain = httpx.get(f"{site.http}/hub/login", headers={"Host": HOST}, trust_env=False)
    assert plain.status_code in (301, 302, 308)
    assert plain.headers["Location"] == f"{site.url}/hub/login"
    assert admin.signed_in()
    assert all(cookie.secure for cookie in admin.http.cookies.jar)
    for path in (f"{API_PREFIX}/health", "/services/mlflow/health"):
        assert admin.http.get(path).status_code == 200


def test_the_check_is_content(site: ComposeWorld) -> None:
    done = site.exec("hub", "elara", "admin", "check", "--json", check=False)
    found = {entry["check"]: entry for entry in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0, found
    bad = {name: entry for name, entry in found.items() if entry["state"] != "ok"}
    # Images that nobody built here, and rules that the first start of a workspace sets.
    assert set(bad) <= {"images", "network rules"}, bad
    assert {"hub", "service", "mlflow", "proxy", "database", "certificate", "docker", "network", "node node-1"} <= set(
        found
    )


def test_a_workspace_computes_on_the_node_and_reaches_no_part(site: ComposeWorld, admin: Browser) -> None:
    admin.api("POST", "/users/admin/server", {"project": "demo/digits"}).raise_for_status()
    events = admin.progress()
    assert events[-1].get("ready"), (events, site.logs())
    headers = {"Authorization": f"token {admin.token()}"}
    begun = admin.http.post("/user/admin/elara/attach", json={"count": 1, "share": 500, "minutes": 30}, headers=headers)
    assert begun.status_code == 200, begun.text
    inside = ("exec", site.workspace("admin"), "/opt/elara/bin/python", "-c")
    code = "import torch; print(torch.ones(2, device='cuda').sum().item(), torch.cuda.get_device_name(0))"
    assert site.engine.run(*inside, code).strip() == "2.0 Elara emulated device (CPU)"
    closed = [
        (site.address("postgres", "database"), 5432),
        (site.address("service", "control"), 10101),
        (site.address("hub", "control"), 8081),
        (f"{site.net}.0.3", 8081),
        (site.address("mlflow", "control"), 10102),
        (site.address("proxy", "control"), 8001),
        (f"{site.net}.0.1", site.https),
    ]
    outcomes = json.loads(site.engine.run(*inside, trying(closed)))
    assert [target for target, outcome in zip(closed, outcomes, strict=True) if outcome == "open"] == []
    count = ("psql", "-h", "127.0.0.1", "-U", "elara", "-tAc", "SELECT count(*) FROM leases WHERE state = 'active'")
    password = (site.folder / "secrets" / "database-password").read_text().strip()
    counted = site.exec("postgres", "env", f"PGPASSWORD={password}", *count)
    assert counted.stdout.strip() == "1", "PostgreSQL holds the lease"


def test_workspaces_outlive_the_parts(site: ComposeWorld, admin: Browser) -> None:
    before = site.engine.run("inspect", "--format", "{{.State.StartedAt}}", site.workspace("admin"))
    said = site.compose("down", check=False).stderr
    # Compose 1.29 counts it as a failure that the network of what runs cannot be removed.
    assert all(f"{site.instance}-workspaces" in line for line in said.splitlines() if "error" in line), said
    assert site.states() == {}
    site.compose("up", "-d")
    wait_healthy(site)
    again = site.admin()
    until(lambda: again.http.get("/user/admin/api/status").status_code == 200, "the workspace is reached again")
    assert site.engine.run("inspect", "--format", "{{.State.StartedAt}}", site.workspace("admin")) == before
    again.stop()
