"""`elara admin user ...`: accounts from the command line, beside the data folder. The hub notices within seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

import click

from elara_hub import options
from elara_hub.accounts.first import invitation_link, made_password
from elara_hub.accounts.passwords import Passwords
from elara_hub.accounts.rules import BadInput
from elara_hub.accounts.store import INVITATION_HOURS, Accounts
from elara_hub.accounts.tables import AccountsTooNew
from elara_hub.checks.command import check


def _open(data: Path) -> Accounts:
    file = data / "hub" / "accounts.sqlite"
    if not file.exists():
        raise click.ClickException(
            f"There are no accounts in {data}. Give the data folder with --data, or start Elara once with `elara up`."
        )
    return Accounts(file)


def _plainly(command: Callable[..., None]) -> Callable[..., None]:
    """Refusals as sentences, exit status 1."""

    @wraps(command)
    def run(*args: Any, **values: Any) -> None:
        try:
            command(*args, **values)
        except (BadInput, AccountsTooNew) as bad:
            raise click.ClickException(str(bad)) from None

    return run


@click.group()
def admin() -> None:
    """Administer this installation."""


admin.add_command(check)


@admin.group()
@options.data_folder
@click.pass_context
def user(context: click.Context, data: Path) -> None:
    """Accounts: who may sign in."""
    context.obj = data


@user.command("list")
@options.as_json
@click.pass_obj
@_plainly
def list_users(data: Path, as_json: bool) -> None:
    """All accounts."""
    people = _open(data).people()
    if as_json:
        click.echo(json.dumps([asdict(person) for person in people], indent=1))
        return
    for person in people:
        click.echo(f"{person.name:32} {person.state:9} {'administrator' if person.admin else ''}".rstrip())


@user.command()
@click.option("--admin", "as_admin", is_flag=True, help="The account will be an administrator's.")
@click.option("--hours", default=INVITATION_HOURS, show_default=True, help="How long the link is good.")
@click.option("--url", help="The address that people type; asked of the running instance when left out.")
@click.pass_obj
@_plainly
def invite(data: Path, as_admin: bool, hours: int, url: str | None) -> None:
    """Print a link that makes one account."""
    token = _open(data).invite("command line", admin=as_admin, hours=hours)
    click.echo(invitation_link(url or _running_url(data), "/hub/", token))


def _running_url(data: Path) -> str:
    try:
        return str(json.loads((data / "up.json").read_text())["url"])
    except (OSError, ValueError, KeyError):
        return "http://127.0.0.1:8000"


@user.command()
@click.argument("name")
@click.pass_obj
@_plainly
def disable(data: Path, name: str) -> None:
    """Shut NAME out: sessions, tokens and workspaces end within a minute."""
    _open(data).set_state(name, "disabled")
    click.echo(f"{name} is disabled.")


@user.command()
@click.argument("name")
@click.pass_obj
@_plainly
def enable(data: Path, name: str) -> None:
    """Let NAME sign in: one who was disabled, or who waits for approval."""
    _open(data).set_state(name, "active")
    click.echo(f"{name} may sign in.")


@user.command("reset-password")
@click.argument("name")
@click.pass_obj
@_plainly
def reset_password(data: Path, name: str) -> None:
    """Give NAME a new generated password, and sign it out everywhere."""
    accounts, password = _open(data), made_password()
    accounts.set_password(name, Passwords().hash(password), end_sessions=True)
    click.echo(f"The new password of {name}, shown this once: {password}")
