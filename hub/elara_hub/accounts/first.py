"""How people get in at first: the first administrator, invitation links, passwords that we make up."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from elara_hub.accounts.passwords import Passwords
from elara_hub.accounts.rules import check_password
from elara_hub.accounts.store import Accounts

_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


def made_password() -> str:
    """Four groups of five easy letters: 99 bits."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(5)) for _ in range(4))


def invitation_link(public_url: str, hub_base: str, token: str) -> str:
    """The address that an invited person opens."""
    return f"{public_url.rstrip('/')}{hub_base}signup?invitation={token}"


def ensure_admin(accounts: Accounts, passwords: Passwords, name: str, password_file: Path) -> bool:
    """Make the account `name` with the password in `password_file` when there is no account at all yet.

    Without a file one is made (mode 0600) that holds a generated password. Returns whether an account was made.

    Raises:
        BadInput: the name, or the password in the file, will not do.
    """
    if accounts.people():
        return False
    try:
        password = password_file.read_text().strip()
    except FileNotFoundError:
        password = made_password()
        password_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(password + "\n")
    check_password(password, name)
    accounts.add(name, passwords.hash(password), admin=True)
    return True
