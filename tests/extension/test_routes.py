"""The server extension in a real Jupyter server: sign-in, answers, refusals, activity."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest
from jupyter_server.serverapp import ServerApp
from jupyter_server.utils import JupyterServerAuthWarning

from jupyterlab_elara.routes import ROUTES

from .conftest import StartLab
from .fake_service import EMULATED_MODEL, FakeService
from .jupyter_process import JUPYTER_TOKEN, Lab
from .waiting import wait_until

VERBS = {"status": "GET", "preview": "POST", "attach": "POST", "extend": "POST", "detach": "POST"}


@pytest.fixture(scope="module")
def lab(shared_service: FakeService, start_lab: StartLab) -> Lab:
    return start_lab(shared_service)


@pytest.fixture
def user(lab: Lab, shared_service: FakeService) -> Iterator[httpx.Client]:
    with lab.client() as client:
        yield client
        client.post("elara/detach")
        wait_until(lambda: not shared_service.open_leases, "the end of the test's leases")


def status(client: httpx.Client, query: str = "?no_track_activity=1") -> Any:
    return client.get(f"elara/status{query}").raise_for_status().json()


def test_the_table_below_names_every_route() -> None:
    assert {path.removeprefix("/elara/") for path, _ in ROUTES} == set(VERBS)


@pytest.mark.parametrize("route", VERBS)
def test_no_route_answers_a_stranger(lab: Lab, route: str) -> None:
    answer = httpx.request(VERBS[route], f"{lab.url}elara/{route}", json={}, follow_redirects=False)
    assert answer.status_code == 403


def test_every_verb_asks_for_sign_in() -> None:
    """What the server itself checks when told to allow no unauthenticated access; a warning is a finding."""
    app = ServerApp(
        allow_unauthenticated_access=False,
        jpserver_extensions={"jupyterlab_elara": True},
        reraise_server_extension_failures=True,
    )
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        app.initialize(argv=[], find_extensions=False, new_httpserver=False)
    assert [str(w.message) for w in found if issubclass(w.category, JupyterServerAuthWarning)] == []


def test_a_forged_form_of_another_site_is_refused(lab: Lab) -> None:
    """A browser that carries the sign-in cookie, but not the page's XSRF token."""
    with httpx.Client(base_url=lab.url, follow_redirects=True) as browser:
        browser.get(f"lab?token={JUPYTER_TOKEN}").raise_for_status()
        assert browser.get("elara/status").status_code == 200
        answer = browser.post("elara/attach", content=b'{"count": 1}')
    assert answer.status_code == 403
    assert "_xsrf" in answer.text


def test_attach_extend_detach(user: httpx.Client) -> None:
    before = status(user, "?pool=1&no_track_activity=1")
    assert (before["available"], before["project"], before["role"]) == (True, "demo/digits", "editor")
    assert before["limits"] == {"max_minutes": 240}
    assert before["pool"]["models"][0]["free_whole"] == 2
    attached = user.post("elara/attach", json={"count": 2, "share": "1/4", "minutes": 30})
    assert attached.status_code == 200
    lease = attached.json()["lease"]
    assert [device["share"] for device in lease["devices"]] == [250, 250]
    assert status(user)["attachment"]["id"] == lease["id"]
    longer = user.post("elara/extend", json={"minutes": 15}).json()["lease"]
    assert datetime.fromisoformat(longer["ends_at"]) > datetime.fromisoformat(lease["ends_at"])
    assert user.post("elara/detach").status_code == 200
    assert status(user)["attachment"] is None
    assert status(user)["last_request"]["share"] == 250


@pytest.mark.parametrize(
    ("route", "body", "code", "reason"),
    [
        ("attach", {"share": 2.5}, 400, "bad_request"),
        ("attach", {"share": 500, "memory_bytes": 1}, 400, "bad_request"),
        ("attach", [], 400, "bad_request"),
        ("extend", {"minutes": "x"}, 400, "bad_request"),
        ("extend", {"minutes": 15}, 409, "not_attached"),
        ("detach", {}, 409, "not_attached"),
        ("attach", {"count": 9}, 409, "no_capacity"),
    ],
)
def test_refusals_say_the_next_step(user: httpx.Client, route: str, body: Any, code: int, reason: str) -> None:
    answer = user.post(f"elara/{route}", json=body)
    assert answer.status_code == code
    refusal = answer.json()
    assert refusal["reason"] == reason
    assert refusal["message"].endswith(".")
    assert refusal["next_step"].endswith(".")


def test_preview_offers_the_nearest(user: httpx.Client) -> None:
    assert user.post("elara/preview", json={"count": 1, "minutes": 60}).json() == {"ok": True}
    refused = user.post("elara/preview", json={"count": 3, "minutes": 60}).json()
    assert refused["ok"] is False
    assert refused["details"]["nearest"] == {"count": 1, "share": 1000, "model": EMULATED_MODEL}


def test_polling_is_no_activity_and_a_busy_device_is(user: httpx.Client, shared_service: FakeService) -> None:
    def last_activity() -> datetime:
        answer = user.get("api/status", params={"no_track_activity": "1"}).json()
        return datetime.fromisoformat(answer["last_activity"])

    lease = user.post("elara/attach", json={"count": 1, "minutes": 30}).json()["lease"]
    before = last_activity()
    for _ in range(3):
        status(user)
    beats = shared_service.count("POST", "/heartbeat")
    wait_until(lambda: shared_service.count("POST", "/heartbeat") > beats + 1, "heartbeats")
    assert last_activity() == before
    shared_service.leases[lease["id"]]["busy"] = True
    wait_until(lambda: last_activity() > before, "the activity of a busy device")


def test_status_answers_while_the_service_is_silent(user: httpx.Client, shared_service: FakeService) -> None:
    user.post("elara/attach", json={"count": 1, "minutes": 30})
    shared_service.answers = False
    try:
        wait_until(lambda: not status(user)["service"]["reachable"], "the notice of the silence")
        assert status(user)["attachment"] is not None
        refused = user.post("elara/extend", json={"minutes": 15})
        assert refused.status_code == 503
        assert "keep working" in refused.json()["next_step"]
    finally:
        shared_service.answers = True
    wait_until(lambda: status(user)["service"]["reachable"], "the service's return")


def test_viewers_are_told_whom_to_ask(shared_service: FakeService, start_lab: StartLab) -> None:
    shared_service.role = "viewer"
    try:
        with start_lab(shared_service).client() as client:
            answer = status(client)
            assert answer["available"] is False
            assert "Ask an owner" in answer["why_not"]
            assert client.post("elara/attach", json={"count": 1}).status_code == 409
    finally:
        shared_service.role = "editor"


def test_outside_of_a_workspace_the_reason_is_given(start_lab: StartLab) -> None:
    with start_lab(None).client() as client:
        answer = status(client)
        assert answer["available"] is False
        assert "not an Elara workspace" in answer["why_not"]
        assert client.post("elara/attach", json={"count": 1}).status_code == 409
