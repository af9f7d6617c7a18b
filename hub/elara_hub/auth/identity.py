"""What the service knows of whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from elara_hub.contract import SCOPE_ADMIN, SCOPE_ATTACH

_SERVER_SCOPE = "access:servers!server="
_HUB_ADMIN_SCOPES = frozenset({"admin:users"})


@dataclass(frozen=True)
class Identity:
    """A user, seen through one token. `server` is set for a workspace's own token ('' is the default server)."""

    name: str
    admin: bool
    may_attach: bool
    server: str | None = None
    by_cookie: bool = False


OPERATOR = Identity("operator", admin=True, may_attach=False)
"""Whoever holds the internal token on the service's own machine: the command line beside the data folder."""


def identity_of(
    model: Mapping[str, Any], *, access_scopes: frozenset[str], trust_hub_admins: bool, by_cookie: bool
) -> Identity | None:
    """Read the hub's answer about a token; None when the token is no user's or may not use this service.

    A workspace's own token is recognised by its scope for one server. It never administers anything, whoever the user
    is: code in a notebook is not its user's will.
    """
    if model.get("kind") != "user":
        return None
    name, scopes = str(model["name"]), frozenset(str(scope) for scope in model.get("scopes") or ())
    server = _own_server(name, scopes)
    may_attach = SCOPE_ATTACH in scopes
    admin = server is None and (SCOPE_ADMIN in scopes or (trust_hub_admins and bool(scopes & _HUB_ADMIN_SCOPES)))
    everywhere = "access:services" in scopes
    if not (may_attach or admin or everywhere or scopes & access_scopes):
        return None
    return Identity(name, admin=admin, may_attach=may_attach, server=server, by_cookie=by_cookie)


def _own_server(name: str, scopes: frozenset[str]) -> str | None:
    if {"access:servers", f"access:servers!user={name}"} & scopes:
        return None
    prefix = f"{_SERVER_SCOPE}{name}/"
    servers = [scope.removeprefix(prefix) for scope in scopes if scope.startswith(prefix)]
    return servers[0] if len(servers) == 1 else None
