"""The spawn page's form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from elara_spawner.catalogue import Catalogue, Image
from elara_spawner.choice import Membership, suggest
from elara_spawner.service import SpawnOptions

_templates = Environment(
    loader=PackageLoader("elara_spawner"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

ROLES = {"owner": "owner", "editor": "editor", "viewer": "viewer: may look, not attach"}


@dataclass(frozen=True)
class FreeDevices:
    """One line on what could be attached now."""

    model: str
    free: str
    total: int


def free_devices(pool: dict[str, Any]) -> list[FreeDevices]:
    """Lines from the answer of ``GET /pool``; a share is given in thousandths of a device there."""
    lines = []
    for entry in pool.get("models", []):
        model = str(entry.get("model", "unknown"))
        if entry.get("emulated") and "emulated" not in model:
            model += " emulated (CPU)"
        whole, share = int(entry.get("free_whole", 0)), int(entry.get("largest_free_share", 0))
        if whole:
            free = f"{whole} whole"
        elif share:
            free = f"a share of up to {share / 10:g} %"
        else:
            free = "none"
        lines.append(FreeDevices(model, free, int(entry.get("devices", 0))))
    return lines


def render_form(options: SpawnOptions, catalogue: Catalogue, *, server: str, isolated: bool) -> str:
    """The form's inner HTML; every value is escaped."""
    return _templates.get_template("spawn_form.html").render(
        memberships=options.memberships,
        role_text=_role_text,
        catalogue=catalogue,
        images=offered(options.memberships, catalogue),
        chosen=suggest(options.memberships, catalogue, options.last),
        devices=free_devices(options.pool),
        server=server,
        isolated=isolated,
    )


def offered(memberships: Sequence[Membership], catalogue: Catalogue) -> list[Image]:
    """The images that at least one of the user's teams may use."""
    teams = {membership.team for membership in memberships}
    return [image for image in catalogue.images.values() if any(image.allowed(team) for team in teams)]


def render_trouble(message: str) -> str:
    """The form when nothing can be chosen now."""
    return _templates.get_template("spawn_trouble.html").render(message=message)


def _role_text(membership: Membership) -> str:
    return ROLES.get(membership.role, membership.role)
