"""Accounts on a real hub: what somebody at the sign-in page, or with an invitation, meets."""

from __future__ import annotations

import html
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from hub_world import PASSWORD, Browser, HubWorld, gone, open_hub, until


def elara_admin(world: HubWorld, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line beside the data folder."""
    code = "from elara_hub.accounts.commands import admin; admin()"
    return subprocess.run(
        [sys.executable, "-c", code, "user", "--data", str(world.data), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_first_admin_signs_in_with_the_generated_password(world: HubWorld, admin: Browser) -> None:
    file = world.data / "secrets" / "first-admin-password"
    assert file.stat().st_mode & 0o777 == 0o600
    assert admin.api("GET", "/user").json()["admin"] is True
    assert file.read_text().strip() not in world.log("hub")


def test_a_wrong_password_and_an_unknown_name_are_told_alike(world: HubWorld) -> None:
    answers = [world.browser().sign_in(name, "not this one") for name in ("admin", "nobody-of-that-name")]
    assert [answer.status_code for answer in answers] == [403, 403]
    assert all("Invalid username or password" in answer.text for answer in answers)
    assert all(not Browser(world.url).signed_in() for _ in answers)


def test_a_form_from_elsewhere_is_refused(world: HubWorld, admin: Browser) -> None:
    answer = admin.http.post(
        "/hub/accounts", data={"action": "invite"}, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    )
    assert answer.status_code == 403


def test_an_invitation_makes_one_account(world: HubWorld, admin: Browser) -> None:
    link = world.invitation(admin)
    token = link.partition("invitation=")[2]
    first, second = world.browser(), world.browser()
    assert "Welcome" in first.http.get(link).text
    second.http.get(link)
    form = {"invitation": token, "password": PASSWORD, "repeated": PASSWORD}
    assert first.post("/hub/signup", username="ada", **form).status_code == 200
    assert first.signed_in()
    late = second.post("/hub/signup", username="eve", **form)
    assert late.status_code == 400
    assert "was used already" in late.text
    assert not second.signed_in()
    assert world.browser().sign_in("eve").status_code == 403


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"username": "admin"}, "reserved"),
        ({"username": "Not A Name"}, "lower-case letters"),
        ({"password": "short", "repeated": "short"}, "at least 10 characters"),
        ({"repeated": "something else entirely"}, "differ"),
    ],
)
def test_a_bad_sign_up_says_why_and_leaves_the_invitation(
    world: HubWorld, admin: Browser, fields: dict[str, str], sentence: str
) -> None:
    link = world.invitation(admin)
    browser = world.browser()
    browser.http.get(link)
    form = {"invitation": link.partition("invitation=")[2], "username": "grace", "password": PASSWORD}
    answer = browser.post("/hub/signup", **{**form, "repeated": PASSWORD, **fields})
    assert answer.status_code == 400
    assert sentence in answer.text
    assert "Welcome" in browser.http.get(link).text


def test_without_an_invitation_nobody_signs_up(world: HubWorld) -> None:
    browser = world.browser()
    answer = browser.http.get("/hub/signup")
    assert answer.status_code == 403
    assert "by invitation" in answer.text
    answer = browser.post("/hub/signup", username="mallory", password=PASSWORD, repeated=PASSWORD)
    assert answer.status_code == 400
    assert world.browser().sign_in("mallory").status_code == 403


def test_only_administrators_see_the_accounts(world: HubWorld, admin: Browser) -> None:
    person = world.join("linus", admin)
    assert person.http.get("/hub/accounts").status_code == 403
    assert person.post("/hub/accounts", action="invite").status_code == 403
    assert "linus" in admin.http.get("/hub/accounts").text


def test_a_changed_password_signs_other_browsers_out(world: HubWorld, admin: Browser) -> None:
    here = world.join("barbara", admin)
    there = world.browser()
    there.sign_in("barbara")
    token = there.token()
    # Longer than 72 bytes: what some hashes cut off must count here.
    new = "a phrase of many words " * 6
    wrong = here.post("/hub/password", current="not the one at all", password=new, repeated=new)
    assert "current password is wrong" in wrong.text
    done = here.post("/hub/password", current=PASSWORD, password=new, repeated=new)
    assert "Your password is changed" in done.text
    assert here.signed_in()
    assert not there.signed_in()
    answer = httpx.get(f"{world.url}/hub/api/user", headers={"Authorization": f"token {token}"}, trust_env=False)
    assert answer.status_code == 403
    assert world.browser().sign_in("barbara", PASSWORD).status_code == 403
    assert world.browser().sign_in("barbara", new[:-1] + "x").status_code == 403
    again = world.browser()
    again.sign_in("barbara", new)
    assert again.signed_in()


def test_a_disabled_user_is_out_within_a_minute(world: HubWorld, admin: Browser) -> None:
    person = world.join("edsger", admin)
    world.add_member(admin, "demo/digits", "edsger", "editor")
    token = person.token()
    person.spawn(project="demo/digits")
    until(person.ready, "the workspace runs", 120)
    process = world.workspace("edsger")
    assert process is not None
    began = time.monotonic()
    done = elara_admin(world, "disable", "edsger")
    assert done.returncode == 0, done.stderr
    headers = {"Authorization": f"token {token}"}
    until(
        lambda: httpx.get(f"{world.url}/hub/api/user", headers=headers, trust_env=False).status_code == 403,
        "the token is dead",
    )
    until(lambda: not person.signed_in(), "the browser is signed out")
    until(lambda: gone(process), "the workspace is gone")
    assert time.monotonic() - began < 60
    refused = world.browser().sign_in("edsger")
    assert refused.status_code == 403
    assert "This account is disabled" in refused.text
    assert "This account is disabled" not in world.browser().sign_in("edsger", "a wrong password").text
    assert elara_admin(world, "enable", "edsger").returncode == 0
    back = world.browser()
    back.sign_in("edsger")
    assert back.signed_in()


def test_a_reset_password_ends_sessions(world: HubWorld, admin: Browser) -> None:
    person = world.join("donald", admin)
    done = elara_admin(world, "reset-password", "donald")
    assert done.returncode == 0, done.stderr
    until(lambda: not person.signed_in(), "the browser is signed out")
    fresh = world.browser()
    fresh.sign_in("donald", done.stdout.split()[-1])
    assert fresh.signed_in()


def test_the_command_line_lists_invites_and_refuses_plainly(world: HubWorld, admin: Browser) -> None:
    people = {person["name"]: person for person in json.loads(elara_admin(world, "list", "--json").stdout)}
    assert people["admin"]["admin"] is True
    link = elara_admin(world, "invite", "--url", world.url).stdout.strip()
    assert "Welcome" in httpx.get(link, trust_env=False).text
    unknown = elara_admin(world, "disable", "nobody-here")
    assert unknown.returncode == 1
    assert "There is no account" in unknown.stderr
    last = elara_admin(world, "disable", "admin")
    assert "last administrator" in last.stderr


def test_a_lock_out_survives_a_restart_of_the_hub(world: HubWorld, admin: Browser) -> None:
    world.join("alan", admin)
    attacker = world.browser()
    answers = [attacker.sign_in("alan", f"guess number {n}").status_code for n in range(6)]
    assert answers[:5] == [403] * 5
    assert answers[5] == 429
    locked = attacker.sign_in("alan")
    assert locked.status_code == 429
    assert "Too many failed attempts. Try again in" in locked.text
    world.stop("hub", signal.SIGKILL)
    world.start_hub()
    world.wait_for_hub()
    # The restart may have taken longer than the lock; a count that was lost would allow five more guesses.
    assert [attacker.sign_in("alan", "one more guess").status_code for _ in range(2)][-1] == 429
    assert world.browser().sign_in("alan").status_code == 429


def test_where_sign_up_is_on_an_administrator_approves(world: HubWorld, admin: Browser) -> None:
    world.stop("hub")
    world.extra["ELARA_SIGN_UP"] = "approval"
    world.start_hub()
    world.wait_for_hub()
    person = world.browser()
    assert "Ask for an account" in person.http.get("/hub/login").text
    person.http.get("/hub/signup")
    asked = person.post("/hub/signup", username="hedy", password=PASSWORD, repeated=PASSWORD)
    assert "waits for an administrator's approval" in html.unescape(asked.text)
    early = person.sign_in("hedy")
    assert early.status_code == 403
    assert "waits for an administrator's approval" in html.unescape(early.text)
    admin.http.get("/hub/accounts")
    assert "hedy may sign in" in admin.post("/hub/accounts", action="approve", name="hedy").text
    person.sign_in("hedy")
    assert person.signed_in()


def test_cookies_of_an_https_site_travel_by_https_only(tmp_path: Path) -> None:
    # TLS ends in front of the proxy, so nothing that reaches the hub says https but its own setting.
    with open_hub(tmp_path / "data", service=False, extra={"ELARA_PUBLIC_URL": "https://elara.example"}) as world:
        cookies = httpx.get(f"{world.url}/hub/login", trust_env=False).headers.get_list("set-cookie")
    assert cookies and all("secure" in cookie.lower() for cookie in cookies), cookies
