"""A whole instance: tracking for two projects, parts that die, stop and second start. One instance serves all tests, in
their order, because a start is what takes time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio

from elara_hub.demo.kernel import RemoteKernel
from elara_hub.demo.person import Person
from elara_hub.supervisor.vault import Vault
from tests.support.instance import Instance

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

MLFLOW = "/services/mlflow"
RED, BLUE = "red--one", "blue--two"
PASSWORD = "a long enough password"
TRACK = """
import json, mlflow, os
with mlflow.start_run(run_name="first") as run:
    mlflow.log_param("depth", 3)
    mlflow.log_metric("loss", 0.25)
    mlflow.log_text("only for red", "notes/secret.txt")
client = mlflow.MlflowClient()
client.create_registered_model("digits")
version = client.create_model_version("digits", f"{run.info.artifact_uri}/notes", run.info.run_id).version
told = {"run": run.info.run_id, "experiment": run.info.experiment_id, "artifacts": run.info.artifact_uri}
print(json.dumps({**told, "token": os.environ["JUPYTERHUB_API_TOKEN"], "version": version}))
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def elara() -> AsyncIterator[Instance]:
    async with Instance() as instance:
        for name in ("alice", "bob", "carol"):
            await instance.person(name, PASSWORD)
        await instance.project("red", "one", {"alice": "editor", "carol": "viewer"})
        await instance.project("blue", "two", {"bob": "owner", "carol": "editor"})
        yield instance


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def logged(elara: Instance) -> dict[str, str]:
    """What alice logged from a notebook of the project red/one, with no set-up of hers."""
    return await in_workspace(elara, "alice", "red/one", TRACK)


async def in_workspace(elara: Instance, name: str, project: str, code: str) -> dict[str, str]:
    person = await elara.person(name, PASSWORD)
    await person.start_workspace({"project": project})
    async with RemoteKernel(person.workspace_url(), person.token) as kernel:
        told: dict[str, str] = json.loads((await kernel.run(code)).stdout.strip().splitlines()[-1])
        return told


async def ask(
    elara: Instance, token: str, workspace: str | None, method: str, path: str, body: Any = None
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}", **({"X-MLFLOW-WORKSPACE": workspace} if workspace else {})}
    async with httpx.AsyncClient(base_url=elara.url + MLFLOW, headers=headers, timeout=60) as client:
        return await client.request(method, path, json=body)


def readings(logged: dict[str, str]) -> list[tuple[str, str, Any]]:
    """Every way to look at what alice logged."""
    run, experiment = logged["run"], logged["experiment"]
    place = logged["artifacts"].removeprefix("mlflow-artifacts:/")
    return [
        ("GET", f"/api/2.0/mlflow/experiments/get?experiment_id={experiment}", None),
        ("GET", f"/api/2.0/mlflow/runs/get?run_id={run}", None),
        ("GET", f"/api/2.0/mlflow/artifacts/list?run_id={run}", None),
        ("GET", f"/get-artifact?run_uuid={run}&path=notes/secret.txt", None),
        ("GET", f"/api/2.0/mlflow-artifacts/artifacts/{place}/notes/secret.txt", None),
        ("GET", "/api/2.0/mlflow/registered-models/get?name=digits", None),
        ("GET", f"/api/2.0/mlflow/model-versions/get?name=digits&version={logged['version']}", None),
        ("POST", "/api/2.0/mlflow/runs/log-metric", {"run_id": run, "key": "x", "value": 1, "timestamp": 1}),
        ("POST", "/api/2.0/mlflow/runs/update", {"run_id": run, "status": "FAILED"}),
        ("POST", "/api/2.0/mlflow/runs/delete", {"run_id": run}),
        ("POST", "/api/2.0/mlflow/registered-models/rename", {"name": "digits", "new_name": "mine"}),
    ]


async def test_a_notebook_logs_under_its_users_name_without_set_up(elara: Instance, logged: dict[str, str]) -> None:
    answer = await ask(elara, logged["token"], RED, "GET", f"/api/2.0/mlflow/runs/get?run_id={logged['run']}")
    run = answer.json()["run"]
    assert run["info"]["user_id"] == "alice"
    assert {"key": "mlflow.user", "value": "alice"} in run["data"]["tags"]
    assert run["data"]["params"] == [{"key": "depth", "value": "3"}]


async def test_another_name_in_a_run_does_not_stand(elara: Instance, logged: dict[str, str]) -> None:
    body = {
        "experiment_id": logged["experiment"],
        "user_id": "bob",
        "start_time": 1,
        "tags": [{"key": "mlflow.user", "value": "bob"}],
    }
    answer = await ask(elara, logged["token"], RED, "POST", "/api/2.0/mlflow/runs/create", body)
    run = answer.json()["run"]
    assert run["info"]["user_id"] == "alice"
    assert [t["value"] for t in run["data"]["tags"] if t["key"] == "mlflow.user"] == ["alice"]


@pytest.mark.parametrize("workspace", [RED, BLUE, None, "default", f"{BLUE},{RED}"])
async def test_members_of_another_project_get_nothing(
    elara: Instance, logged: dict[str, str], workspace: str | None
) -> None:
    bob = await elara.person("bob", PASSWORD)
    for method, path, body in readings(logged):
        answer = await ask(elara, bob.token, workspace, method, path, body)
        assert answer.status_code == 403, f"{workspace} {method} {path}: {answer.status_code} {answer.text[:200]}"
        assert "only for red" not in answer.text
    for path in ("/api/2.0/mlflow/runs/search", "/api/2.0/mlflow/experiments/search"):
        answer = await ask(elara, bob.token, workspace, "POST", path, {"experiment_ids": [logged["experiment"]]})
        assert answer.status_code == 403 or logged["run"] not in answer.text
    graph = {"query": f'{{mlflowGetRun(input:{{runId:"{logged["run"]}"}}){{run{{info{{runName}}}}}}}}'}
    answer = await ask(elara, bob.token, workspace, "POST", "/graphql", graph)
    assert "first" not in answer.text


async def test_a_workspace_reaches_its_own_project_only(elara: Instance, logged: dict[str, str]) -> None:
    code = 'import json, os; print(json.dumps({"token": os.environ["JUPYTERHUB_API_TOKEN"]}))'
    token = (await in_workspace(elara, "carol", "blue/two", code))["token"]
    mine = await ask(elara, token, BLUE, "POST", "/api/2.0/mlflow/experiments/create", {"name": "mine"})
    assert mine.status_code == 200
    # Carol may read red/one, but not from this workspace, whatever she writes into its environment.
    for workspace in (RED, BLUE, None):
        for method, path, body in readings(logged):
            answer = await ask(elara, token, workspace, method, path, body)
            assert answer.status_code == 403, f"{workspace} {method} {path}: {answer.status_code}"


async def test_a_viewer_reads_and_does_not_write(elara: Instance, logged: dict[str, str]) -> None:
    carol = await elara.person("carol", PASSWORD)
    for method, path, body in readings(logged):
        answer = await ask(elara, carol.token, RED, method, path, body)
        assert answer.status_code == (200 if method == "GET" else 403), f"{method} {path}: {answer.status_code}"
    answer = await ask(elara, carol.token, RED, "POST", "/api/2.0/mlflow/experiments/create", {"name": "no"})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/3.0/mlflow/roles/assign", {"username": "bob", "role_id": 1}),
        ("POST", "/api/2.0/mlflow/users/create", {"username": "eve", "password": "eve-password-1"}),
        ("PATCH", "/api/2.0/mlflow/users/update-admin", {"username": "bob", "is_admin": True}),
        ("POST", "/api/3.0/mlflow/workspaces", {"name": "sly"}),
        ("POST", "/ajax-api/3.0/mlflow/gateway/secrets/create", {"secret_name": "x"}),
        ("GET", "/api/2.0/mlflow/webhooks", None),
        ("POST", "/api/2.0/mlflow/experiments/create", {"name": "e", "artifact_location": "file:///etc"}),
        ("POST", "/api/2.0/mlflow/experiments/create", {"name": "e", "artifactLocation": "file:///etc"}),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/..%2f..%2fauth.ini", None),
    ],
)
async def test_ways_around_the_projects_are_closed(elara: Instance, method: str, path: str, body: Any) -> None:
    bob = await elara.person("bob", PASSWORD)
    answer = await ask(elara, bob.token, BLUE, method, path, body)
    assert answer.status_code in (400, 403, 404), answer.text


async def test_without_a_good_token_nobody_gets_in(elara: Instance) -> None:
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic ZWxhcmEvbm9ib2R5Og=="}):
        async with httpx.AsyncClient(base_url=elara.url + MLFLOW, headers=headers) as client:
            assert (await client.get(path)).status_code == 401


@contextlib.asynccontextmanager
async def browser_of(elara: Instance, name: str) -> AsyncIterator[httpx.AsyncClient]:
    """A browser without scripts, in which that person is signed in to the hub."""
    async with httpx.AsyncClient(
        base_url=elara.url,
        follow_redirects=True,
        timeout=60,
        headers={"Accept": "text/html", "Sec-Fetch-Mode": "navigate"},
    ) as client:
        await client.get("/hub/login")
        form = {"username": name, "password": PASSWORD, "_xsrf": client.cookies.get("_xsrf", path="/hub/")}
        await client.post("/hub/login", data=form)
        yield client


async def test_a_browser_is_signed_in_through_the_hub(elara: Instance, logged: dict[str, str]) -> None:
    async with browser_of(elara, "alice") as client:
        page = await client.get(MLFLOW + "/")
        assert page.status_code == 200 and "<title>MLflow" in page.text
        assert page.headers["x-frame-options"] == "SAMEORIGIN"
        ours = [c for c in client.cookies.jar if c.path == MLFLOW + "/" and c.name == "service-mlflow"]
        assert len(ours) == 1 and ours[0].has_nonstandard_attr("HttpOnly")
        api = MLFLOW + "/ajax-api/2.0/mlflow/runs/search"
        body = {"experiment_ids": [logged["experiment"]]}
        same = {"X-MLFLOW-WORKSPACE": RED, "Sec-Fetch-Site": "same-origin"}
        assert logged["run"] in (await client.post(api, json=body, headers=same)).text
        assert (await client.post(api, json=body, headers={**same, "X-MLFLOW-WORKSPACE": BLUE})).status_code == 403


@pytest.mark.parametrize(
    "told", [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://evil.example"}]
)
async def test_another_sites_page_cannot_write(elara: Instance, told: dict[str, str]) -> None:
    async with browser_of(elara, "bob") as client:
        await client.get(MLFLOW + "/")
        answer = await client.post(
            MLFLOW + "/ajax-api/2.0/mlflow/experiments/create",
            json={"name": "forged"},
            headers={"X-MLFLOW-WORKSPACE": BLUE, **told},
        )
        assert answer.status_code == 403 and "another site" in answer.text


async def test_a_sign_in_that_was_begun_elsewhere_is_refused(elara: Instance) -> None:
    async with httpx.AsyncClient(base_url=elara.url) as client:
        answer = await client.get(MLFLOW + "/oauth_callback?code=x&state=y")
        assert answer.status_code == 403


async def test_who_leaves_a_project_is_out_soon(elara: Instance, logged: dict[str, str]) -> None:
    carol, admin = await elara.person("carol", PASSWORD), await elara.admin()
    path = f"/api/2.0/mlflow/runs/get?run_id={logged['run']}"
    assert (await ask(elara, carol.token, RED, "GET", path)).status_code == 200
    assert (await admin.http.delete("/services/elara/api/v1/projects/red/one/members/carol")).status_code == 200

    async def is_out() -> bool:
        return (await ask(elara, carol.token, RED, "GET", path)).status_code == 403

    await elara.until(is_out, "carol is out", 30)


async def test_no_secret_stands_in_a_command_line_or_a_log(elara: Instance) -> None:
    secrets = (*Vault.open(elara.data / "secrets").values(), elara.admin_password)
    lines = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    for secret in secrets:
        assert not any(secret in line for line in lines)
        for log in (elara.data / "logs").rglob("*.log*"):
            assert secret not in log.read_text(errors="replace"), log.name


async def test_internal_routes_cannot_be_reached_by_way_of_the_proxy(elara: Instance) -> None:
    token = Vault.open(elara.data / "secrets").internal_token
    path = "/services/elara/api/v1/internal/spawn-options/ada"
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(headers=headers) as client:
        assert (await client.get(elara.url + path)).status_code in (401, 403, 404)
        assert (await client.get(elara.part("service")["url"] + path)).status_code == 200


async def test_a_proxy_that_dies_is_back_with_its_routes(elara: Instance) -> None:
    alice = await elara.person("alice", PASSWORD)
    elara.kill("proxy")
    await elara.wait_ready("proxy", restarts=1)

    async def reachable() -> bool:
        try:
            status = await alice.http.get("/user/alice/api/status")
            return status.status_code == 200 and (await alice.http.get(MLFLOW + "/version")).status_code == 200
        except httpx.HTTPError:
            return False

    await elara.until(reachable, "alice's workspace by way of the new proxy", 60)


async def test_tracking_goes_on_after_its_server_died(elara: Instance, logged: dict[str, str]) -> None:
    elara.kill("mlflow")
    await elara.wait_ready("mlflow", restarts=1)
    answer = await ask(elara, logged["token"], RED, "GET", f"/api/2.0/mlflow/runs/get?run_id={logged['run']}")
    assert answer.status_code == 200


async def test_a_stop_leaves_nothing_and_a_second_start_finds_everything(
    elara: Instance, logged: dict[str, str]
) -> None:
    assert await elara.stop() == 0
    assert elara.left_behind() == []
    assert elara.status()["ready"] is False
    printed = len(elara.printed())
    busy = os.getloadavg()[0] > 2
    await elara.start()
    print(f"stopped in {elara.stop_seconds:.1f} s, ready again in {elara.start_seconds:.1f} s")
    # On a machine that does other things at the same time the figure says nothing about Elara.
    assert elara.start_seconds < (90 if busy else 20)
    assert "password" not in elara.printed()[printed:]
    async with Person(elara.url, "alice", PASSWORD) as alice:
        answer = await ask(elara, alice.token, RED, "GET", f"/api/2.0/mlflow/runs/get?run_id={logged['run']}")
        assert answer.json()["run"]["info"]["user_id"] == "alice"
        projects = (await alice.http.get("/services/elara/api/v1/me")).json()["projects"]
        assert [(p["team"], p["project"], p["role"]) for p in projects] == [("red", "one", "editor")]
