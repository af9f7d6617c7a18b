"""What to build, in which order, from what. Pure but for reading the files of the checkout."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elara_hub.images.problem import ImageProblem
from elara_hub.version import __version__

DEFAULT_BASE = "debian:bookworm-slim"
BOOTSTRAPPED_BASE = "elara/debian:bookworm"


@dataclass(frozen=True)
class Recipe:
    """An image of the project. `parent` and `copies` are others of it: the one it begins with, those it copies from."""

    name: str
    title: str
    description: str
    parent: str | None = None
    copies: tuple[str, ...] = ()
    workspace: bool = False
    listed: bool = True

    @property
    def tag(self) -> str:
        return f"elara/{self.name}:{__version__}"

    @property
    def needs(self) -> tuple[str, ...]:
        return (*((self.parent,) if self.parent else ()), *self.copies)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("wheels", "Wheels", "The project's own packages, for the other images", listed=False),
        Recipe("packages", "Packages", "What all workspaces' images begin with", listed=False),
        *(
            Recipe(name, title, description, parent="packages", copies=("wheels",), workspace=True)
            for name, title, description in (
                ("base", "Base", "JupyterLab and the packages of data science"),
                ("pytorch", "PyTorch", "base with PyTorch"),
                ("tensorflow", "TensorFlow", "base with TensorFlow"),
                ("jax", "JAX", "base with JAX"),
            )
        ),
        Recipe("gpu-node", "GPU node", "The node agent and its device servers", copies=("wheels",)),
        Recipe("hub", "Hub", "Hub, service, MLflow and proxy", copies=("wheels",)),
    )
}


def order(names: Sequence[str]) -> list[Recipe]:
    """The recipes of `names` (all when empty) and what they need, each after what it needs. Raises ImageProblem."""
    wanted = list(names) or [recipe.name for recipe in RECIPES.values() if recipe.listed]
    for name in wanted:
        if name not in RECIPES:
            known = ", ".join(r.name for r in RECIPES.values() if r.listed)
            raise ImageProblem(f"There is no image {name!r}. Elara's images are {known}.")
    found: dict[str, Recipe] = {}

    def add(name: str) -> None:
        for other in RECIPES[name].needs:
            add(other)
        found.setdefault(name, RECIPES[name])

    for name in wanted:
        add(name)
    return list(found.values())


def build_arguments(recipe: Recipe, base_image: str, jobs: int) -> dict[str, str]:
    """The `ARG`s of a recipe's Dockerfile that the build decides."""
    arguments = {"PARENT_IMAGE": RECIPES[recipe.parent].tag} if recipe.parent else {"BASE_IMAGE": base_image}
    if "wheels" in recipe.copies:
        arguments["WHEELS_IMAGE"] = RECIPES["wheels"].tag
    if recipe.name == "wheels":
        arguments["JOBS"] = str(jobs)
    return arguments


def dockerfile(root: Path, recipe: Recipe) -> Path:
    return root / "images" / recipe.name / "Dockerfile"


def context_files(root: Path, recipe: Recipe) -> list[Path]:
    """The files that a build of `recipe` can see, by its .dockerignore: whose `!` lines name files and folders, whose
    other lines take away again (`**/name` anywhere, or a path below the root, which may end in `*`)."""
    ignore = dockerfile(root, recipe).with_name("Dockerfile.dockerignore")
    lines = [line.strip() for line in ignore.read_text().splitlines() if line.strip() and line.strip() != "**"]
    without = [line for line in lines if not line.startswith("!")]
    found: set[Path] = set()
    for line in lines:
        if not line.startswith("!"):
            continue
        place = root / line[1:]
        if place.is_dir():
            for base, folders, files in os.walk(place):
                folders[:] = [f for f in folders if not _ignored(root, Path(base) / f, without)]
                found.update(file for f in files if not _ignored(root, file := Path(base) / f, without))
        elif place.is_file():
            found.add(place)
    return sorted(found)


def _ignored(root: Path, path: Path, patterns: Sequence[str]) -> bool:
    relative = path.relative_to(root)
    return any(path.match(p[3:]) if p.startswith("**/") else relative.match(p) for p in patterns)


def digest(
    root: Path, recipe: Recipe, arguments: Mapping[str, str], below: Mapping[str, str], target: str | None = None
) -> str:
    """What an image is made from: its Dockerfile (and which stage of it), the files of its context, its arguments, and
    the ids of the images below it. The number of compile jobs makes no other image; nor do the sources of a core that
    comes compiled."""
    hashed = hashlib.sha256(f"{target}\0".encode())
    for file in (dockerfile(root, recipe), *context_files(root, recipe)):
        name = file.relative_to(root)
        if target == "prepared" and name.parts[0] == "remoting":
            continue
        content = file.read_bytes()
        hashed.update(f"{name}\0{len(content)}\0".encode() + content)
    for argument, value in sorted(arguments.items()):
        if argument != "JOBS":
            hashed.update(f"{argument}={value}\0{below.get(value, '')}\0".encode())
    return hashed.hexdigest()
