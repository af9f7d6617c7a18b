"""Attempts from inside one user's workspace to read or use what is another's.

Local mode runs every workspace as the same operating-system user, so files and processes cannot be kept apart there:
the last test says so, and holds the product to saying so too. What is decided by a token holds in every mode.
"""

from __future__ import annotations

import json

import pytest

from tests.journey.conftest import PASSWORD
from tests.journey.people import at_work, attach, detach
from tests.support.instance import Instance

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

_TRY = """
import json, os, urllib.error, urllib.request
def attempt(method, path, body=None, base=os.environ["ELARA_API_URL"], **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, method=method, data=data)
    token = {{"Authorization": "token " + os.environ["JUPYTERHUB_API_TOKEN"], "Content-Type": "application/json"}}
    for name, value in {{**token, **headers}}.items():
        request.add_header(name, value)
    try:
        return urllib.request.urlopen(request, timeout=20).status
    except urllib.error.HTTPError as error:
        return error.code
lease, team, project, run = {lease!r}, "vision", "cats", {run!r}
mlflow = os.environ["MLFLOW_TRACKING_URI"]
forged = {{"X-MLFLOW-WORKSPACE": "vision--cats"}}
print(json.dumps([
    attempt("GET", "/leases/" + lease),
    attempt("GET", "/leases/" + lease + "/attachment"),
    attempt("POST", "/leases/" + lease + "/heartbeat", {{}}),
    attempt("POST", "/leases/" + lease + "/extend", {{"minutes": 60}}),
    attempt("DELETE", "/leases/" + lease),
    attempt("GET", "/projects/vision/cats"),
    attempt("PUT", "/projects/vision/cats/members/bob", {{"role": "owner"}}),
    attempt("PUT", "/projects/sound/birds/members/bob", {{"role": "owner"}}),
    attempt("PUT", "/projects/sound/birds/quota", {{"max_device_share": 8000, "max_lease_minutes": 9999}}),
    attempt("POST", "/nodes/join-tokens", {{"name": "mine"}}),
    attempt("POST", "/internal/mlflow/access", {{"token": "x"}}),
    attempt("GET", "/api/2.0/mlflow/runs/get?run_id=" + run, base=mlflow, **forged),
    attempt("POST", "/api/2.0/mlflow/runs/delete", {{"run_id": run}}, base=mlflow, **forged),
    attempt("GET", "/user/alice/api/contents", base=os.environ["ELARA_API_URL"].partition("/services")[0]),
]))
"""
_LOG = "import mlflow\nwith mlflow.start_run() as run: mlflow.log_param('a', 1)\nprint(run.info.run_id)"
_REFUSED = {401, 403, 404}


async def test_another_users_lease_project_and_run_are_out_of_reach(elara: Instance) -> None:
    alice, bob = await elara.person("alice", PASSWORD), await elara.person("bob", PASSWORD)
    async with at_work(alice, "vision/cats") as hers, at_work(bob, "sound/birds") as his:
        lease = await attach(alice)
        logged = await hers.run(_LOG)
        run = logged.stdout.split()[-1]
        answers = json.loads((await his.run(_TRY.format(lease=lease["id"], run=run))).stdout)
        assert set(answers) <= _REFUSED, answers
        # And nothing happened to her lease.
        state = (await alice.http.get(f"/services/elara/api/v1/leases/{lease['id']}")).json()["state"]
        assert state == "active"
        await detach(alice)


async def test_a_changed_environment_opens_no_other_project(elara: Instance) -> None:
    bob = await elara.person("bob", PASSWORD)
    async with at_work(bob, "sound/birds") as kernel:
        lease = await attach(bob)
        assert (lease["team"], lease["project"]) == ("sound", "birds")
        await detach(bob)
        tried = await kernel.run(
            "import os, mlflow\n"
            "os.environ['MLFLOW_WORKSPACE'] = 'vision--cats'; os.environ['ELARA_PROJECT'] = 'vision/cats'\n"
            "mlflow.set_workspace('vision--cats')\n"
            "try:\n    print(len(mlflow.search_experiments()))\n"
            "except mlflow.MlflowException as error:\n    print('refused', error)"
        )
        assert tried.stdout.startswith("refused"), tried.stdout


async def test_local_mode_cannot_keep_files_apart_and_says_so(elara: Instance) -> None:
    bob = await elara.person("bob", PASSWORD)
    async with at_work(bob, "sound/birds") as kernel:
        secrets = await kernel.run(f"import os; print(len(os.listdir({str(elara.data / 'secrets')!r})))")
        assert int(secrets.stdout) > 0
    # The spawn page says it too: the browser's journey looks.
    assert "nothing isolates them" in elara.printed()
