"""What is kept of accounts, invitations and failed sign-ins, and the changes that may happen to them."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from elara_hub.accounts.rules import (
    ADDRESS,
    FORGET_AFTER,
    NAME_ANYWHERE,
    PAIR,
    BadInput,
    Bucket,
    check_name,
    check_open_name,
    lock_seconds,
)
from elara_hub.accounts.tables import Account, Failure, Invitation, open_tables

INVITATION_HOURS = 72


@dataclass(frozen=True)
class Person:
    """An account as others may see it."""

    name: str
    admin: bool
    state: str
    created_at: float
    signed_in_at: float | None


class Accounts:
    """The accounts in one file. Calls take milliseconds and block; any process may open the same file."""

    def __init__(self, file: Path, now: Callable[[], float] = time.time) -> None:
        self._engine = open_tables(file)
        self._now = now

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    # -- accounts

    def people(self) -> list[Person]:
        """All accounts by name."""
        with self._session() as session:
            return [_person(account) for account in session.scalars(select(Account).order_by(Account.name))]

    def person(self, name: str) -> Person | None:
        with self._session() as session:
            account = session.get(Account, name)
            return _person(account) if account else None

    def password_hash(self, name: str) -> str | None:
        with self._session() as session:
            account = session.get(Account, name)
            return account.password_hash if account else None

    def add(self, name: str, password_hash: str, *, admin: bool = False, state: str = "active") -> None:
        """Raises BadInput for a bad name or one that is taken."""
        check_name(name)
        with self._session() as session:
            self._add(session, name, password_hash, admin=admin, state=state)

    def _add(self, session: Session, name: str, password_hash: str, *, admin: bool, state: str) -> None:
        if session.get(Account, name) is not None:
            raise BadInput(f"The name {name!r} is taken. Choose another name.")
        session.add(Account(name=name, password_hash=password_hash, admin=admin, state=state, created_at=self._now()))

    def set_state(self, name: str, state: str) -> Person:
        """``active`` or ``disabled``; the hub shuts a disabled one out. Raises BadInput."""
        with self._session() as session:
            account = self._get(session, name)
            if state == "disabled" and account.admin and account.state == "active":
                others = session.scalars(select(Account).where(Account.admin, Account.state == "active")).all()
                if len(others) == 1:
                    raise BadInput(f"{name!r} is the last administrator. Make another one first.")
            account.state = state
            account.shut_out = account.shut_out or state == "disabled"
            return _person(account)

    def set_password(self, name: str, password_hash: str, *, end_sessions: bool) -> None:
        """`end_sessions`: the hub signs the account out everywhere. Raises BadInput for an unknown name."""
        with self._session() as session:
            account = self._get(session, name)
            account.password_hash = password_hash
            account.shut_out = account.shut_out or end_sessions
            session.execute(delete(Failure).where(Failure.key.startswith(f"{PAIR.kind} {name} ", autoescape=True)))
            session.execute(delete(Failure).where(Failure.key == f"{NAME_ANYWHERE.kind} {name}"))

    def signed_in(self, name: str) -> None:
        with self._session() as session:
            self._get(session, name).signed_in_at = self._now()

    def _get(self, session: Session, name: str) -> Account:
        account = session.get(Account, name)
        if account is None:
            raise BadInput(f"There is no account {name!r}. `elara admin user list` shows all.")
        return account

    # -- shutting out

    def disabled(self) -> list[str]:
        """Names of accounts that may hold nothing."""
        with self._session() as session:
            return list(session.scalars(select(Account.name).where(Account.state != "active")))

    def to_shut_out(self) -> list[Person]:
        """Accounts whose sessions and tokens the hub has yet to end."""
        with self._session() as session:
            return [_person(account) for account in session.scalars(select(Account).where(Account.shut_out))]

    def was_shut_out(self, name: str) -> None:
        with self._session() as session:
            account = session.get(Account, name)
            if account:
                account.shut_out = False

    # -- invitations

    def invite(self, by: str, *, admin: bool = False, hours: float = INVITATION_HOURS) -> str:
        """A new invitation's token, which is kept nowhere."""
        token = secrets.token_urlsafe(32)
        with self._session() as session:
            session.execute(delete(Invitation).where(Invitation.expires_at < self._now() - 30 * 24 * 3600))
            session.add(
                Invitation(
                    digest=_digest(token),
                    admin=admin,
                    created_by=by,
                    created_at=self._now(),
                    expires_at=self._now() + hours * 3600,
                )
            )
        return token

    def check_invitation(self, token: str) -> None:
        """Raises BadInput when it makes no account (any more)."""
        with self._session() as session:
            self._invitation(session, token)

    def accept(self, token: str, name: str, password_hash: str) -> Person:
        """Make the account that the invitation stands for; it works once. Raises BadInput."""
        check_open_name(name)
        with self._session() as session:
            invitation = self._invitation(session, token)
            self._add(session, name, password_hash, admin=invitation.admin, state="active")
            invitation.used_by = name
            session.flush()
            return _person(self._get(session, name))

    def _invitation(self, session: Session, token: str) -> Invitation:
        invitation = session.get(Invitation, _digest(token))
        if invitation is None:
            raise BadInput("This invitation is not known. Check the link, or ask your administrator for a new one.")
        if invitation.used_by is not None:
            raise BadInput("This invitation was used already. Sign in, or ask your administrator for a new one.")
        if invitation.expires_at <= self._now():
            raise BadInput("This invitation has expired. Ask your administrator for a new one.")
        return invitation

    def sign_up(self, name: str, password_hash: str) -> None:
        """An account that an administrator has yet to approve. Raises BadInput."""
        check_open_name(name)
        with self._session() as session:
            self._add(session, name, password_hash, admin=False, state="pending")

    # -- failed sign-ins

    def locked_for(self, name: str, address: str) -> int:
        """Seconds for which nobody at `address` may try `name`; 0 when free to try."""
        with self._session() as session:
            found = [session.get(Failure, key) for _, key in _keys(name, address)]
        latest = max((failure.locked_until for failure in found if failure), default=0.0)
        return max(0, int(latest - self._now() + 0.999))

    def failed(self, name: str, address: str) -> None:
        """Count a wrong password, or an unknown name: both count alike, so that neither can be told from it."""
        now = self._now()
        with self._session() as session:
            session.execute(delete(Failure).where(Failure.last_at < now - FORGET_AFTER))
            for bucket, key in _keys(name, address):
                failure = session.get(Failure, key)
                if failure is None:
                    failure = Failure(key=key, count=0, last_at=now, locked_until=0.0)
                    session.add(failure)
                failure.count += 1
                failure.last_at = now
                failure.locked_until = now + lock_seconds(bucket, failure.count)

    def succeeded(self, name: str, address: str) -> None:
        """The right password clears what was counted for this name at this address."""
        with self._session() as session:
            session.execute(delete(Failure).where(Failure.key == _keys(name, address)[0][1]))
            account = session.get(Account, name)
            if account:
                account.signed_in_at = self._now()


def _keys(name: str, address: str) -> list[tuple[Bucket, str]]:
    # A name that somebody typed can be anything and of any length.
    short = name if len(name) <= 64 else "~" + _digest(name)[:32]
    return [
        (PAIR, f"{PAIR.kind} {short} {address}"),
        (ADDRESS, f"{ADDRESS.kind} {address}"),
        (NAME_ANYWHERE, f"{NAME_ANYWHERE.kind} {short}"),
    ]


def _digest(token: str) -> str:
    # A plain digest is enough for 256 random bits: there is nothing to guess.
    return hashlib.sha256(token.encode()).hexdigest()


def _person(account: Account) -> Person:
    return Person(account.name, account.admin, account.state, account.created_at, account.signed_in_at)
