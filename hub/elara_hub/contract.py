"""Names that other parts rely on: hub scopes, paths, roles, states. Nothing here does I/O."""

from __future__ import annotations

SCOPE_ATTACH = "custom:elara:attach"
"""Carried by a workspace's own token: may ask for devices in that workspace's project."""
SCOPE_ADMIN = "custom:elara:admin"
"""Carried by an administrator's token (never by a workspace's): may administer teams, nodes and every lease."""

CUSTOM_SCOPES = {
    SCOPE_ATTACH: {"description": "Attach elastic devices to one's own workspaces"},
    SCOPE_ADMIN: {"description": "Administer Elara: teams, projects, quotas, nodes and every lease"},
}
"""What `c.JupyterHub.custom_scopes` needs."""

SERVICE_NAME = "elara"
SERVICE_PREFIX = "/services/elara"
API_PREFIX = SERVICE_PREFIX + "/api/v1"

DEFAULT_SERVER = "-"
"""How a path names a user's default server, whose name in the hub is empty."""

INTERNAL_TOKEN_VARIABLE = "ELARA_INTERNAL_TOKEN"  # noqa: S105 - the variable's name, not a token
CSRF_HEADER = "X-Elara"

NODE_SIGNATURE_PREFIX = "elara-node-v1"
"""A node signs this text followed by the challenge's nonce (both UTF-8); the signature travels in base64."""

PROJECT_ROLES = ("viewer", "editor", "owner")
"""Roles in a project, weakest first."""
TEAM_ROLES = ("member", "lead")

LEASE_STATES = ("queued", "starting", "active", "ending", "ended")
LIVE_STATES = ("queued", "starting", "active")
"""States in which a lease belongs to its workspace; `ending` still holds shares until its nodes let go."""


def server_from_path(name: str) -> str:
    """The hub's name of a server from the one in a path: `-` is the default server, whose name is empty."""
    return "" if name == DEFAULT_SERVER else name


def server_to_path(name: str) -> str:
    """The name of a server in a path: `-` for the default one."""
    return name or DEFAULT_SERVER
