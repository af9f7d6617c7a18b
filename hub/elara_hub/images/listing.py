"""What `elara images list` tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from elara_hub.images import docker, plan
from elara_hub.images.problem import ImageProblem
from elara_spawner.catalogue import load_catalogue


def rows(root: Path) -> list[dict[str, Any]]:
    """One entry an image: the catalogue's, then the others. `here` is None where Docker cannot be asked."""
    catalogue = load_catalogue(root / "images" / "catalogue.yaml")
    try:
        docker.require_daemon()
        reachable = True
    except ImageProblem:
        reachable = False
    found: list[dict[str, Any]] = []
    for image in catalogue.images.values():
        known = None if image.local or not reachable else docker.inspect(image.reference)
        found.append(
            {
                "name": image.name,
                "title": image.title,
                "image": None if image.local else image.reference,
                "frameworks": dict(image.frameworks),
                "attach": image.attach,
                "attach_note": image.attach_note,
                "teams": None if image.teams is None else list(image.teams),
                "here": True if image.local else (known is not None if reachable else None),
                "bytes": known["Size"] if known else None,
            }
        )
    for recipe in plan.RECIPES.values():
        if recipe.listed and not recipe.workspace:
            known = docker.inspect(recipe.tag) if reachable else None
            found.append(
                {
                    "name": recipe.name,
                    "title": recipe.title,
                    "image": recipe.tag,
                    "here": known is not None if reachable else None,
                    "bytes": known["Size"] if known else None,
                }
            )
    return found


def table(found: list[dict[str, Any]]) -> str:
    """The same for people."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("Name", "Image", "Frameworks", "Attach a GPU", "Teams", "Here"):
        shown.add_column(column, overflow="fold")
    for row in found:
        frameworks = ", ".join(f"{n} {v}" for n, v in row.get("frameworks", {}).items())
        attach = {True: "yes", False: "no"}.get(row.get("attach"), "")  # type: ignore[arg-type]
        teams = "all" if "teams" in row and row["teams"] is None else ", ".join(row.get("teams") or [])
        shown.add_row(row["name"], row["image"] or "(no container)", frameworks, attach, teams, _here(row))
    console = Console(width=120)
    with console.capture() as captured:
        console.print(shown)
    return str(captured.get()).rstrip()


def _here(row: dict[str, Any]) -> str:
    if row["here"] is None:
        return "Docker does not answer"
    if not row["here"]:
        return f"no: elara images build {row['name']}"
    return f"{row['bytes'] / 1e6:.0f} MB" if row["bytes"] else "yes"
