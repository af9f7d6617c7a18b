"""Workspaces as containers, on a real hub, service and engine: what they are, share, outlive and refuse."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from contextlib import closing

import httpx
import psutil

from elara_hub.contract import API_PREFIX
from elara_spawner import names
from tests.docker.docker_world import DockerWorld
from tests.workspaces.hub_world import Browser, until

SHARED = "/home/elara/projects/demo/digits"


def test_each_step_of_a_start_is_told(mary: Browser) -> None:
    told = [event["message"] for event in mary.events]
    steps = (
        "Checking your project",
        "Opening project demo/digits",
        "Closing the workspace's network",
        "Preparing your home",
        "Starting the workspace",
        "Waiting for JupyterLab",
    )
    places = [next(i for i, message in enumerate(told) if message.startswith(step)) for step in steps]
    assert places == sorted(places)


def test_a_workspace_has_no_more_rights_than_it_needs(world: DockerWorld, mary: Browser) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in world.shell("mary", "cat /proc/self/status").stdout.splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == ["1000"] * 4
    assert status["NoNewPrivs"] == "1"
    assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")} == {"0" * 16}
    for forbidden in ("touch /x", "touch /usr/x", "touch /etc/x", "touch /opt/x", "ls /var/run/docker.sock", "mount"):
        done = world.shell("mary", forbidden if forbidden != "mount" else "mount -t tmpfs none /mnt")
        assert done.returncode != 0, forbidden
    for allowed in ("touch ~/x", "touch /tmp/x", "touch /scratch/x", "touch /run/elara/x", f"touch {SHARED}/x"):
        done = world.shell("mary", allowed)
        assert done.returncode == 0, done.stderr
    assert world.shell("mary", "stat -c '%a %u' /run/elara").stdout.split() == ["700", "1000"]
    host = world.inspect("mary")["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (768 * 2**20, 768 * 2**20, 4096)
    assert host["CpuQuota"] == host["CpuPeriod"]
    size = int(world.shell("mary", "df -B1 --output=size /dev/shm | tail -1").stdout)
    assert size == 384 * 2**20


def test_it_knows_its_project_and_no_secret_of_the_hub(world: DockerWorld, mary: Browser) -> None:
    container = world.inspect("mary")
    environment = dict(entry.split("=", 1) for entry in container["Config"]["Env"])
    assert environment["ELARA_PROJECT"] == "demo/digits"
    assert environment["ELARA_API_URL"] == world.site + API_PREFIX
    assert environment["JUPYTERHUB_API_URL"] == world.site + "/hub/api"
    assert environment["MLFLOW_WORKSPACE"] == "demo--digits"
    hub = psutil.Process(world.processes["hub"].pid).environ()
    for name in world.secrets:
        assert hub[name] not in json.dumps(container)
    headers = {"Authorization": f"token {environment['JUPYTERHUB_API_TOKEN']}"}
    me = httpx.get(f"{world.url}{API_PREFIX}/me", headers=headers, trust_env=False).json()
    assert me["workspace"] == {"server": "", "team": "demo", "project": "digits", "role": "editor"}


def test_files_of_a_project_are_shared_and_a_viewer_only_looks(
    world: DockerWorld, mary: Browser, victor: Browser
) -> None:
    """Also what a program writes with a umask of 022 stays writable for the group."""
    done = world.shell("mary", f"umask 022 && mkdir -p {SHARED}/data && echo hello > {SHARED}/data/from-mary")
    assert done.returncode == 0, done.stderr
    seen = world.shell("victor", f"cat {SHARED}/data/from-mary && stat -c %A {SHARED}/data/from-mary")
    assert seen.stdout.split() == ["hello", "-rw-rw----+"] or seen.stdout.split() == ["hello", "-rw-rw----"], seen
    written = world.shell("victor", f"echo bye > {SHARED}/data/from-mary")
    assert written.returncode != 0
    assert "Read-only file system" in written.stderr
    assert any("read-only for you" in event["message"] for event in victor.events)
    assert world.shell("victor", "ls ~").stdout.split() == ["datasets", "projects"], "another's home is not there"


def test_a_data_set_is_for_its_teams_and_nobody_writes_to_it(world: DockerWorld, admin: Browser, mary: Browser) -> None:
    """Though the volume's own permissions would let everybody."""
    assert world.shell("mary", "ls ~/datasets").stdout.split() == ["words"]
    assert world.shell("mary", "cat ~/datasets/words/file").stdout == "words\n"
    for attempt in ("echo mine > ~/datasets/words/file", "touch ~/datasets/words/new", "rm ~/datasets/words/file"):
        done = world.shell("mary", attempt)
        assert done.returncode != 0 and "Read-only file system" in done.stderr, attempt
    person = world.join("vivian", admin)
    world.make_project(admin, "vision", "cats")
    world.add_member(admin, "vision/cats", "vivian", "owner")
    world.begin(person, project="vision/cats")
    assert world.shell("vivian", "cat ~/datasets/*/file").stdout.split() == ["scans", "words"]
    assert "Read-only file system" in world.shell("vivian", "touch ~/datasets/scans/new").stderr
    person.stop()


THREADS = """
import json, threading
end, started = threading.Event(), 0
try:
    while started < 200:
        threading.Thread(target=end.wait).start()
        started += 1
except RuntimeError as error:
    print(json.dumps([started, str(error)]))
end.set()
"""


def test_a_size_s_processes_are_all_that_it_gets(world: DockerWorld, mary: Browser) -> None:
    world.begin(mary, "narrow", size="narrow")
    assert world.inspect("mary", "narrow")["HostConfig"]["PidsLimit"] == 40
    started, error = world.python("mary", THREADS, server="narrow")
    assert 10 < started < 40 and error == "can't start new thread"
    assert mary.http.get("/user/mary/narrow/api").json() == {}, "the workspace itself goes on"
    assert world.python("mary", "print(1)", server="narrow") == 1
    mary.stop("narrow")


def test_home_stays_and_scratch_goes(world: DockerWorld, admin: Browser) -> None:
    person = world.join("hanna", admin)
    world.add_member(admin, "demo/digits", "hanna", "viewer")
    world.begin(person)
    assert world.shell("hanna", "echo kept > ~/note && echo gone > /scratch/note").returncode == 0
    person.stop()
    assert world.name("hanna") not in world.containers()
    world.add_member(admin, "demo/digits", "hanna", "editor")
    world.begin(person)
    assert world.shell("hanna", "cat ~/note").stdout == "kept\n"
    assert world.shell("hanna", "ls /scratch").stdout == ""
    assert world.shell("hanna", f"touch {SHARED}/editor-now").returncode == 0, "the next start follows the role"
    person.stop()


def test_the_folders_of_a_home_are_its_users_own(world: DockerWorld, admin: Browser) -> None:
    """Also those that the project is mounted in; a file in their place is moved aside, and its user told."""
    person = world.join("frida", admin)
    world.add_member(admin, "demo/digits", "frida", "editor")
    world.begin(person)
    owners = world.shell("frida", "id -u; stat -c %u ~ ~/projects ~/projects/demo").stdout.split()
    assert len(owners) == 4 and len(set(owners)) == 1, owners
    world.make_project(admin, "other", "one")
    world.add_member(admin, "other/one", "frida", "editor")
    assert world.shell("frida", "echo mine > ~/projects/other").returncode == 0
    person.stop()
    events = world.begin(person, project="other/one")
    assert world.shell("frida", "cat ~/projects/other.before").stdout == "mine\n"
    assert world.shell("frida", "touch ~/projects/other/file").returncode == 0
    assert any("~/projects/other was no folder" in event["message"] for event in person.events), events
    person.stop()


def test_refusals_are_sentences(world: DockerWorld, mary: Browser) -> None:
    for options, sentence in (
        ({"image": "windows"}, "There is no image 'windows'"),
        ({"image": "vision"}, "The image Vision only is not for team demo"),
        ({"image": "missing"}, "The image of Missing (elara-test/nowhere:1) is not on the machine"),
    ):
        told = world.refused(mary, "refused", **options)
        assert sentence in told
    assert "Traceback" not in world.log("hub")


def test_a_workspace_that_does_not_come_up_is_told_of_with_its_last_lines(world: DockerWorld, mary: Browser) -> None:
    told = world.refused(mary, "dying", image="dies")
    assert "ended while it started, with status 7" in told
    assert "Traceback: the settings in your home are broken" in told
    told = world.refused(mary, "hanging", image="hangs")
    assert "did not answer within 20 s" in told
    assert "Still reading your settings" in told
    told = world.refused(mary, "hogging", image="hogs", size="tiny")
    assert "all the memory of its size" in told
    until(lambda: world.containers_of("mary") == [world.name("mary")], "nothing is left of them")


def test_whoever_asks_while_a_failed_start_is_undone_is_told_of_it(world: DockerWorld, mary: Browser) -> None:
    """As a page does that was slow to load."""
    begun, container = int(time.time()), world.name("mary", "undone")
    mary.api("POST", "/users/mary/servers/undone", {"project": "demo/digits", "image": "hangs"}).raise_for_status()
    only = ("--filter", f"container={container}", "--filter", "event=kill", "--format", "{{.Action}}")

    def is_stopped() -> bool:
        """Its end was asked for, which takes the two seconds that it has to end by itself."""
        return "kill" in world.engine.run("events", "--since", str(begun), "--until", f"{time.time():.9f}", *only)

    until(is_stopped, "the hub stops what did not come up")
    last = mary.progress("undone")[-1]
    assert last.get("failed") and "did not answer within 20 s" in last["message"]


def test_a_taken_name_is_left_alone(world: DockerWorld, image: str, mary: Browser) -> None:
    name = world.name("mary", "taken")
    world.engine.run("create", "--name", name, image)
    try:
        told = world.refused(mary, "taken")
        assert f"The name {name} is taken" in told
        assert world.engine.run("inspect", "--format", "{{.State.Status}}", name).strip() == "created"
    finally:
        world.engine.run("rm", name)


def test_a_volume_that_was_made_otherwise_is_refused(world: DockerWorld, admin: Browser) -> None:
    person = world.join("vera", admin)
    world.add_member(admin, "demo/digits", "vera", "editor")
    volume = names.home(world.instance, "vera")
    world.engine.run("volume", "create", "--label", f"org.elara.instance={world.instance}", volume)
    told = world.refused(person)
    assert f"The volume {volume} is there, but it is not this workspace's" in told
    world.engine.run("volume", "rm", volume)
    world.begin(person)
    person.stop()


def test_a_workspace_outlives_the_hub_and_is_found_again(world: DockerWorld, mary: Browser) -> None:
    before = world.inspect("mary")["Id"]
    world.stop("hub", signal.SIGKILL)
    world.start_hub()
    world.wait_for_hub()
    until(mary.ready, "the hub knows the workspace again")
    assert world.inspect("mary")["Id"] == before
    assert world.containers_of("mary") == [world.name("mary")]


def test_a_container_that_a_killed_hub_left_is_not_doubled(world: DockerWorld, mary: Browser) -> None:
    """The hub was killed after the engine started the container, and before it wrote that down."""
    name = world.name("mary", "second")
    labels = {"instance": world.instance, "kind": "workspace", "user": "mary", "server": "second"}
    given = [text for key, value in labels.items() for text in ("--label", f"org.elara.{key}={value}")]
    image = world.images[0]["image"]
    left = world.engine.run("run", "--detach", "--name", name, *given, image).strip()
    world.begin(mary, "second")
    assert world.inspect("mary", "second")["Id"] != left
    assert sorted(world.containers_of("mary")) == sorted([world.name("mary"), name])
    mary.stop("second")


def test_a_killed_workspace_is_noticed_cleaned_up_and_starts_again(world: DockerWorld, mary: Browser) -> None:
    token = dict(entry.split("=", 1) for entry in world.inspect("mary")["Config"]["Env"])["JUPYTERHUB_API_TOKEN"]
    world.engine.run("kill", world.name("mary"))
    until(lambda: not mary.api("GET", "/users/mary").json()["servers"], "the hub noticed")
    headers = {"Authorization": f"token {token}"}
    assert httpx.get(f"{world.url}/hub/api/user", headers=headers, trust_env=False).status_code == 403
    until(lambda: world.name("mary") not in world.containers(), "what is left of it is removed")
    with closing(sqlite3.connect(world.data / "elara.sqlite", timeout=30)) as database:
        rows = database.execute("SELECT stopped_at FROM workspaces WHERE user = 'mary' AND server = ''").fetchall()
    assert rows and all(stopped is not None for (stopped,) in rows), "the service ended its leases"
    world.begin(mary)


def test_a_start_follows_what_became_of_a_project_and_its_members(
    world: DockerWorld, admin: Browser, image: str
) -> None:
    """Renamed: the same files. Removed member, archived project: refused. Made anew: nothing of the old one."""
    person = world.join("paula", admin)
    folder = "/home/elara/projects/demo/letters"
    volume = names.project(world.instance, "demo--letters")

    def made() -> None:
        world.make_project(admin, "demo", "letters")
        world.add_member(admin, "demo/letters", "paula", "editor")

    made()
    world.begin(person, project="demo/letters")
    assert world.shell("paula", f"echo old > {folder}/file").returncode == 0
    person.stop()
    with world.api(admin) as api:
        api.patch("/projects/demo/letters", json={"title": "Letters of old"}).raise_for_status()
        world.begin(person, project="demo/letters")
        assert world.shell("paula", f"cat {folder}/file").stdout == "old\n"
        person.stop()
        api.delete("/projects/demo/letters/members/paula").raise_for_status()
        assert "You are" in world.refused(person, project="demo/letters")
        world.add_member(admin, "demo/letters", "paula", "viewer")
        world.begin(person, project="demo/letters")
        assert "Read-only" in world.shell("paula", f"touch {folder}/new").stderr, "a member again, with another role"
        # Archived under a workspace that runs: the files stay mounted until it stops, and the next start is refused.
        api.delete("/projects/demo/letters").raise_for_status()
    assert world.shell("paula", f"cat {folder}/file").stdout == "old\n"
    person.stop()
    assert "You are" in world.refused(person, project="demo/letters")
    made()
    world.begin(person, project="demo/letters")
    assert world.shell("paula", f"ls {folder}").stdout == ""
    person.stop()
    read = ("run", "--rm", "--user", "0:0", "--volume", f"{volume}:/data:ro", image, "cat", "/data/file")
    assert world.engine.run(*read) == "old\n", "the archived project's volume stays, with all that was in it"
