"""From what a form or an API call sent to a `Choice`, or a refusal in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from elara_spawner.catalogue import Catalogue
from elara_spawner.workspace import Choice

FIELDS = ("project", "image", "size")


class BadChoice(ValueError):
    """What was asked for cannot be had. `reason` is a label for metrics; the text is for the user."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Membership:
    """A project that the user may open, and the role there."""

    team: str
    project: str
    role: str

    @property
    def path(self) -> str:
        return f"{self.team}/{self.project}"


def from_form(data: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """The form's fields (lists of strings) as options. Unknown fields are dropped, repeated ones refused."""
    options: dict[str, str] = {}
    for field in FIELDS:
        values = data.get(field) or []
        if len(values) > 1:
            raise BadChoice("bad_option", f"The form gave {len(values)} values for {field}. Choose one.")
        if values and str(values[0]):
            options[field] = str(values[0])
    return options


def choose(
    options: Mapping[str, Any], memberships: Sequence[Membership], catalogue: Catalogue, last: Mapping[str, Any] | None
) -> Choice:
    """The choice that `options` stand for. What is left out comes from `last`, then from the catalogue's defaults.

    Args:
        options: ``{"project": "<team>/<project>", "image": ..., "size": ...}``, each may be missing.

    Raises:
        BadChoice: an unknown or forbidden value, or none to choose from.
    """
    unknown = [key for key in options if key not in FIELDS]
    if unknown:
        raise BadChoice("bad_option", f"A workspace has no option {unknown[0]!r}. It has project, image and size.")
    for key, value in options.items():
        if not isinstance(value, str):
            raise BadChoice("bad_option", f"The option {key} must be a text, such as {_example(key)!r}.")
    if not memberships:
        raise BadChoice(
            "no_project",
            "You are in no project yet, so there is nowhere to open a workspace. Ask your administrator, or a lead "
            "of your team, to add you to one.",
        )
    remembered = suggest(memberships, catalogue, last)
    project = options.get("project") or remembered["project"]
    by_path = {membership.path: membership for membership in memberships}
    if project not in by_path:
        raise BadChoice(
            "not_a_member",
            f"You are not a member of a project {project!r}. You may choose {_listed(list(by_path))}; to join another "
            "one ask its owner.",
        )
    membership = by_path[project]
    image = _image(options.get("image"), remembered["image"], membership.team, catalogue)
    size = options.get("size") or remembered["size"]
    if size not in catalogue.sizes:
        raise BadChoice("no_size", f"There is no size {size!r}. You may choose {_listed(list(catalogue.sizes))}.")
    return Choice(membership.team, membership.project, image, size)


def _image(asked: str | None, remembered: str, team: str, catalogue: Catalogue) -> str:
    """The image asked for; without one the remembered one if the team may use it, else the first that it may."""
    allowed = [image.name for image in catalogue.for_team(team)]
    if not asked:
        if not allowed:
            raise BadChoice(
                "image_not_allowed",
                f"The catalogue has no image for team {team}. Ask your administrator to allow one, or choose a "
                "project of another team.",
            )
        return remembered if remembered in allowed else allowed[0]
    if asked not in catalogue.images:
        raise BadChoice("no_image", f"There is no image {asked!r}. You may choose {_listed(allowed)}.")
    if asked not in allowed:
        raise BadChoice(
            "image_not_allowed",
            f"The image {catalogue.images[asked].title} is not for team {team}. You may choose {_listed(allowed)}; to "
            "use it all the same, ask your administrator to allow it to your team.",
        )
    return asked


def suggest(memberships: Sequence[Membership], catalogue: Catalogue, last: Mapping[str, Any] | None) -> dict[str, str]:
    """What the form shows as chosen: the last choice where it still exists, else the defaults."""
    last = last or {}
    paths = [membership.path for membership in memberships]
    project = f"{last.get('team')}/{last.get('project')}"
    image, size = last.get("image"), last.get("size")
    return {
        "project": project if project in paths else (paths[0] if paths else ""),
        "image": str(image) if image in catalogue.images else catalogue.default_image,
        "size": str(size) if size in catalogue.sizes else catalogue.default_size,
    }


def as_record(choice: Choice) -> dict[str, str]:
    """The choice as the service records it."""
    return asdict(choice)


def _listed(names: list[str]) -> str:
    shown = names[:8]
    if not names:
        return "none"
    text = ", ".join(shown) if len(shown) < 2 else ", ".join(shown[:-1]) + " or " + shown[-1]
    return text if len(names) <= 8 else ", ".join(shown) + " or others"


def _example(key: str) -> str:
    return {"project": "demo/digits", "image": "this-environment", "size": "medium"}[key]
