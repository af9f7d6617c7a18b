"""Accounts without a hub: names, passwords, invitations, lock-out, on a clock of our own."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st

from elara_hub.accounts.first import ensure_admin, made_password
from elara_hub.accounts.passwords import MOST_WAITING, Passwords, TooBusy
from elara_hub.accounts.rules import ADDRESS, NAME_ANYWHERE, PAIR, BadInput, check_name, check_password, lock_seconds
from elara_hub.accounts.store import Accounts
from elara_hub.accounts.tables import AccountsTooNew

FAST = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
"""Weak on purpose: these tests are about what surrounds the hash."""


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(tmp_path: Path, clock: Clock) -> Accounts:
    return Accounts(tmp_path / "accounts.sqlite", clock)


@pytest.mark.parametrize("name", ["a", "ada", "ada-l", "x9", "a" * 32])
def test_good_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "9a", "Ada", "a b", "a--b", "-a", "a-", "a/b", "..", "é", "a" * 33, "a\n"])
def test_bad_names_are_refused_with_the_rule(name: str) -> None:
    with pytest.raises(BadInput, match="lower-case letters"):
        check_name(name)


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaa", "adaadaada!"[:9], "x" * 1025])
def test_bad_passwords(password: str) -> None:
    with pytest.raises(BadInput):
        check_password(password)


@given(st.integers(0, 200))
def test_locks_grow_and_stay_bounded(failures: int) -> None:
    for bucket in (PAIR, ADDRESS, NAME_ANYWHERE):
        now, later = lock_seconds(bucket, failures), lock_seconds(bucket, failures + 1)
        assert 0 <= now <= later <= bucket.longest
        assert (now > 0) == (failures >= bucket.free)


def test_a_password_longer_than_72_bytes_counts_in_full() -> None:
    stored = FAST.hash("x" * 100)
    assert FAST.matches(stored, "x" * 100)
    assert not FAST.matches(stored, "x" * 99)
    assert not FAST.matches(None, "nobody has this password")


async def test_more_than_can_wait_are_turned_away() -> None:
    passwords = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    passwords._waiting = MOST_WAITING
    with pytest.raises(TooBusy):
        await passwords.matches_soon(None, "x")


def test_the_first_admin_is_made_once(accounts: Accounts, tmp_path: Path) -> None:
    file = tmp_path / "secrets" / "password"
    assert ensure_admin(accounts, FAST, "admin", file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert FAST.matches(accounts.password_hash("admin"), file.read_text().strip())
    file.unlink()
    assert not ensure_admin(accounts, FAST, "admin", file)
    assert not file.exists()


def test_a_given_first_password_is_taken(accounts: Accounts, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("a given pass phrase\n")
    ensure_admin(accounts, FAST, "root-of-all", file)
    assert FAST.matches(accounts.password_hash("root-of-all"), "a given pass phrase")


def test_an_invitation_works_once_and_not_for_ever(accounts: Accounts, clock: Clock, tmp_path: Path) -> None:
    token = accounts.invite("admin", hours=1)
    assert token not in (tmp_path / "accounts.sqlite").read_bytes().decode("latin-1")
    accounts.accept(token, "ada", "hash")
    with pytest.raises(BadInput, match="used already"):
        accounts.accept(token, "eve", "hash")
    late = accounts.invite("admin", hours=1)
    clock.now += 3601
    with pytest.raises(BadInput, match="expired"):
        accounts.accept(late, "eve", "hash")
    with pytest.raises(BadInput, match="not known"):
        accounts.accept("guessed", "eve", "hash")
    assert [person.name for person in accounts.people()] == ["ada"]


def test_of_many_who_use_an_invitation_at_once_one_gets_in(accounts: Accounts) -> None:
    token, results = accounts.invite("admin"), []

    def accept(name: str) -> None:
        try:
            results.append(accounts.accept(token, name, "hash").name)
        except BadInput as bad:
            results.append(str(bad))

    threads = [threading.Thread(target=accept, args=(f"user{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([r for r in results if r.startswith("user")]) == 1
    assert len(accounts.people()) == 1


@pytest.mark.parametrize("name", ["admin", "root", "elara"])
def test_official_names_cannot_be_taken(accounts: Accounts, name: str) -> None:
    with pytest.raises(BadInput, match="reserved"):
        accounts.sign_up(name, "hash")
    with pytest.raises(BadInput, match="reserved"):
        accounts.accept(accounts.invite("admin"), name, "hash")


def test_who_signs_up_waits_and_a_name_is_taken_once(accounts: Accounts) -> None:
    accounts.sign_up("ada", "hash")
    person = accounts.person("ada")
    assert person is not None
    assert person.state == "pending"
    with pytest.raises(BadInput, match="taken"):
        accounts.accept(accounts.invite("admin"), "ada", "other")
    assert accounts.set_state("ada", "active").state == "active"


def test_lock_out_by_name_and_address(accounts: Accounts, clock: Clock, tmp_path: Path) -> None:
    for _ in range(5):
        assert accounts.locked_for("ada", "10.0.0.1") == 0
        accounts.failed("ada", "10.0.0.1")
    assert accounts.locked_for("ada", "10.0.0.1") == 15
    assert accounts.locked_for("ada", "10.0.0.2") == 0
    assert accounts.locked_for("bob", "10.0.0.1") == 0
    # Another process, or this one after a restart, knows it too.
    assert Accounts(tmp_path / "accounts.sqlite", clock).locked_for("ada", "10.0.0.1") == 15
    clock.now += 16
    assert accounts.locked_for("ada", "10.0.0.1") == 0
    accounts.failed("ada", "10.0.0.1")
    assert accounts.locked_for("ada", "10.0.0.1") == 30
    clock.now += 31
    accounts.succeeded("ada", "10.0.0.1")
    accounts.failed("ada", "10.0.0.1")
    assert accounts.locked_for("ada", "10.0.0.1") == 0


def test_an_address_that_tries_many_names_is_locked(accounts: Accounts) -> None:
    for n in range(20):
        accounts.failed(f"name{n}", "10.0.0.1")
    assert accounts.locked_for("somebody-else", "10.0.0.1") > 0
    assert accounts.locked_for("somebody-else", "10.0.0.2") == 0


def test_failures_are_forgotten(accounts: Accounts, clock: Clock) -> None:
    for _ in range(4):
        accounts.failed("ada", "10.0.0.1")
    clock.now += 24 * 3600 + 1
    accounts.failed("ada", "10.0.0.1")
    assert accounts.locked_for("ada", "10.0.0.1") == 0


def test_any_text_may_be_typed_as_a_name(accounts: Accounts) -> None:
    for name in ("", "x" * 100_000, "a'b\"; drop table account", "%", "\x00"):
        accounts.failed(name, "10.0.0.1")
        assert accounts.locked_for(name, "10.0.0.9") == 0


def test_the_last_administrator_stays(accounts: Accounts) -> None:
    accounts.add("admin", "hash", admin=True)
    with pytest.raises(BadInput, match="last administrator"):
        accounts.set_state("admin", "disabled")
    accounts.add("second", "hash", admin=True)
    assert accounts.set_state("admin", "disabled").state == "disabled"
    assert [person.name for person in accounts.to_shut_out()] == ["admin"]


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "accounts.sqlite"
    Accounts(file).close()
    assert file.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(AccountsTooNew, match="newer version"):
        Accounts(file)


def test_made_passwords_pass_the_rules_and_differ() -> None:
    made = {made_password() for _ in range(50)}
    assert len(made) == 50
    for password in made:
        check_password(password)
