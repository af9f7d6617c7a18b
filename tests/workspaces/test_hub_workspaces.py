"""Workspaces on a real hub with the real service: the form, refusals, what a workspace holds, and what it outlives."""

from __future__ import annotations

import re
import signal
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from hub_world import Browser, HubWorld, gone, until

from elara_hub.contract import API_PREFIX

STARTED = 150
"""Seconds that a workspace may take on a busy machine."""


@pytest.fixture(scope="module")
def mary(world: HubWorld, admin: Browser) -> Iterator[Browser]:
    """Editor of demo/digits, with a running workspace."""
    person = world.join("mary", admin)
    world.add_member(admin, "demo/digits", "mary", "editor")
    answer = person.spawn(project="demo/digits", image="this-environment", size="small")
    assert answer.url.path == "/hub/spawn-pending/mary", answer.text
    person.events = person.progress()
    assert person.ready()
    yield person


def workspace_of(world: HubWorld, name: str, server: str = "-") -> psutil.Process:
    process = world.workspace(name, server)
    assert process is not None
    return process


def xsrf(person: Browser) -> dict[str, str]:
    """What a page of the person's workspace sends along with a change."""
    person.http.get(f"/user/{person.name}/lab")
    return {"X-XSRFToken": person.http.cookies.get("_xsrf", path=f"/user/{person.name}/") or ""}


def test_who_is_in_no_project_is_told_what_to_do(world: HubWorld, admin: Browser) -> None:
    person = world.join("newcomer", admin)
    page = person.http.get("/hub/spawn").text
    assert "You are in no project yet" in page
    assert "Ask your administrator" in page
    refused = person.api("POST", "/users/newcomer/server", {})
    assert refused.status_code == 400
    assert "You are in no project yet" in refused.json()["message"]


def test_the_form_offers_projects_with_roles_and_says_what_is_not_isolated(mary: Browser) -> None:
    page = mary.http.get("/hub/spawn/mary/form-only").text
    assert "demo/digits (editor)" in page
    assert "This environment" in page
    assert "Local mode isolates nobody" in page
    assert "Devices to attach later" in page


def test_the_form_remembers_the_last_choice(mary: Browser) -> None:
    page = mary.http.get("/hub/spawn/mary/another").text
    assert re.search(r'value="small" selected', page)


def test_each_step_of_a_start_is_told(mary: Browser) -> None:
    told = [event["message"] for event in mary.events]
    steps = ("Checking your project", "Opening project demo/digits", "Preparing your home", "Starting the workspace")
    places = [next(i for i, message in enumerate(told) if message.startswith(step)) for step in steps]
    assert places == sorted(places)
    assert mary.events[-1]["ready"] is True


def test_a_workspace_knows_its_project_and_no_secret_of_the_hub(world: HubWorld, mary: Browser) -> None:
    environment = workspace_of(world, "mary").environ()
    assert environment["ELARA_PROJECT"] == "demo/digits"
    assert environment["ELARA_API_URL"] == world.url + API_PREFIX
    assert environment["MLFLOW_TRACKING_URI"] == world.url + "/services/mlflow"
    assert environment["MLFLOW_WORKSPACE"] == "demo--digits"
    assert environment["MLFLOW_TRACKING_TOKEN"] == environment["JUPYTERHUB_API_TOKEN"]
    hub = psutil.Process(world.processes["hub"].pid).environ()
    everything = "\n".join([*environment.values(), *workspace_of(world, "mary").cmdline()])
    for name in world.secrets:
        assert name not in environment
        assert hub[name] not in everything
    cookie_secret = (world.data / "hub" / "cookie-secret").read_text().strip()
    assert cookie_secret not in everything
    runtime = Path(environment["ELARA_RUNTIME_DIR"])
    assert runtime == world.data / "run" / "mary" / "-"
    assert runtime.stat().st_mode & 0o777 == 0o700


def test_the_workspace_s_own_token_stands_for_this_workspace_only(world: HubWorld, mary: Browser) -> None:
    token = workspace_of(world, "mary").environ()["JUPYTERHUB_API_TOKEN"]
    headers = {"Authorization": f"token {token}"}
    me = httpx.get(f"{world.url}{API_PREFIX}/me", headers=headers, trust_env=False).json()
    assert me["workspace"] == {"server": "", "team": "demo", "project": "digits", "role": "editor"}
    scopes = httpx.get(f"{world.url}/hub/api/user", headers=headers, trust_env=False).json()["scopes"]
    assert [s for s in scopes if s.startswith("access:servers")] == ["access:servers!server=mary/"]
    assert "custom:elara:attach" in scopes
    assert httpx.get(f"{world.url}/hub/api/users", headers=headers, trust_env=False).status_code == 403


def test_the_home_holds_the_shared_folder_and_the_examples(world: HubWorld, mary: Browser) -> None:
    shared = world.data / "projects" / "demo" / "digits"
    assert shared.stat().st_mode & 0o7777 == 0o2770
    made = mary.http.put(
        "/user/mary/api/contents/projects/demo/digits/from-mary.txt",
        json={"type": "file", "format": "text", "content": "hello"},
        headers=xsrf(mary),
    )
    assert made.status_code == 201, made.text
    written = shared / "from-mary.txt"
    assert written.read_text() == "hello"
    assert written.stat().st_mode & 0o060 == 0o060
    names = [entry["name"] for entry in mary.http.get("/user/mary/api/contents/examples").json()["content"]]
    assert "digits.ipynb" in names


def test_what_a_user_installs_is_theirs_and_cannot_replace_torch(
    world: HubWorld, mary: Browser, tmp_path: Path
) -> None:
    environment = workspace_of(world, "mary").environ()
    for name, version in (("torch", "99.0"), ("elara_sample", "1.0")):
        wheel(tmp_path, name, version)

    def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["pip", "install", "--no-index", "--find-links", str(tmp_path), *arguments]
        # `sh` looks `pip` up as a terminal of the workspace does.
        return subprocess.run(["sh", "-c", '"$@"', "sh", *command], env=environment, capture_output=True, text=True)

    refused = pip("torch==99.0")
    assert refused.returncode != 0
    assert "(constraint) torch==" in refused.stdout
    done = pip("elara_sample")
    assert done.returncode == 0, done.stderr
    home = world.data / "homes" / "mary"
    python = home / ".elara" / "environment" / "bin" / "python"
    code = "import elara_sample, torch; print(elara_sample.__file__, torch.__file__)"
    shown = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    sample, torch = shown.stdout.split()
    assert Path(sample).is_relative_to(home)
    assert not Path(torch).is_relative_to(home)


def wheel(folder: Path, name: str, version: str) -> None:
    """The least that pip installs."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def test_a_terminal_finds_the_workspace_s_own_programs(world: HubWorld, mary: Browser) -> None:
    made = mary.http.post("/user/mary/api/terminals", headers=xsrf(mary))
    assert made.status_code == 200, made.text
    workspace = workspace_of(world, "mary")
    shell = until(
        lambda: next((p for p in workspace.children() if "bash" in Path(p.cmdline()[0]).name), None),
        "the terminal's shell",
    )
    # As a login shell it would read /etc/profile, which sets PATH anew.
    assert shell.cmdline() == ["/bin/bash"]
    assert shell.environ()["PATH"].startswith(str(world.data / "homes" / "mary" / ".elara" / "environment" / "bin"))


def test_refusals_are_sentences(world: HubWorld, mary: Browser) -> None:
    for options, sentence in (
        ({"project": "demo/secret"}, "You are not a member of a project 'demo/secret'. You may choose demo/digits"),
        ({"project": "demo/digits", "image": "windows"}, "There is no image 'windows'"),
        ({"project": "demo/digits", "size": "huge"}, "There is no size 'huge'"),
        ({"project": ["demo/digits"]}, "must be a text"),
        ({"gpus": "8"}, "A workspace has no option 'gpus'"),
    ):
        refused = mary.api("POST", "/users/mary/servers/refused", options)
        assert refused.status_code == 400, options
        assert sentence in refused.json()["message"]
    page = mary.spawn("refused", project="<script>alert(1)</script>")
    assert page.status_code == 400
    assert "You are not a member of a project" in page.text
    assert "<script>alert(1)" not in page.text
    assert "Traceback" not in world.log("hub").split("windows")[-1].split("huge")[0]


def test_named_servers_have_places_of_their_own(world: HubWorld, mary: Browser) -> None:
    mary.spawn("second", project="demo/digits", size="large")
    until(lambda: mary.ready("second"), "the named server runs", STARTED)
    environment = workspace_of(world, "mary", "second").environ()
    assert environment["HOME"] == workspace_of(world, "mary").environ()["HOME"]
    headers = {"Authorization": f"token {environment['JUPYTERHUB_API_TOKEN']}"}
    me = httpx.get(f"{world.url}{API_PREFIX}/me", headers=headers, trust_env=False).json()
    assert me["workspace"]["server"] == "second"
    mary.stop("second")
    assert world.workspace("mary", "second") is None
    assert mary.ready()


def test_a_workspace_outlives_the_hub_and_is_found_again(world: HubWorld, mary: Browser) -> None:
    before = workspace_of(world, "mary")
    kernel = mary.http.post("/user/mary/api/kernels", headers=xsrf(mary))
    assert kernel.status_code == 201, kernel.text
    family = until(lambda: before.children(recursive=True), "the kernel's process")
    assert any(str(world.data / "homes" / "mary" / ".elara" / "environment") in p.cmdline()[0] for p in family)
    world.stop("hub", signal.SIGKILL)
    token = before.environ()["JUPYTERHUB_API_TOKEN"]
    assert mary.http.get("/user/mary/api/status").status_code == 200, "the notebook goes on without the hub"
    world.start_hub()
    world.wait_for_hub()
    until(mary.ready, "the hub knows the workspace again")
    assert workspace_of(world, "mary").pid == before.pid
    assert mary.http.get("/user/mary/api/kernels").json()[0]["id"] == kernel.json()["id"]
    mary.stop()
    until(lambda: all(gone(p) for p in (before, *family)), "workspace and kernel are gone")
    me = httpx.get(
        f"{world.url}/hub/api/user", headers={"Authorization": f"token {token}"}, trust_env=False
    ).status_code
    assert me == 403


def test_without_the_service_the_refusal_says_so(world: HubWorld, mary: Browser) -> None:
    world.stop("service")
    try:
        assert "service does not answer" in mary.http.get("/hub/spawn/mary/later").text
        refused = mary.api("POST", "/users/mary/servers/later", {"project": "demo/digits"})
        assert refused.status_code == 503
        assert "service does not answer" in refused.json()["message"]
    finally:
        world.start_service()
        world.wait_for_service()


def test_a_workspace_that_died_is_noticed_and_starts_again(world: HubWorld, mary: Browser) -> None:
    mary.spawn(project="demo/digits")
    until(mary.ready, "the workspace runs", STARTED)
    home = world.data / "homes" / "mary"
    assert list(home.glob(".elara/environment/lib/*/site-packages/elara_sample.py")), "installs survive a restart"
    process = workspace_of(world, "mary")
    token = process.environ()["JUPYTERHUB_API_TOKEN"]
    process.kill()
    until(lambda: not mary.api("GET", "/users/mary").json()["servers"], "the hub noticed")
    answer = httpx.get(f"{world.url}/hub/api/user", headers={"Authorization": f"token {token}"}, trust_env=False)
    assert answer.status_code == 403
