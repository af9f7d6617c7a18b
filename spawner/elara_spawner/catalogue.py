"""The catalogue of images and sizes, read from a YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

UNITS = {"MiB": 2**20, "GiB": 2**30}


class CatalogueError(ValueError):
    """The file cannot be used; the text names the file, the place in it and what is wrong."""


@dataclass(frozen=True)
class Image:
    """A pre-built environment. `local` ones are no container but the environment that Elara itself runs in."""

    name: str
    title: str
    description: str = ""
    local: bool = False


@dataclass(frozen=True)
class Size:
    """What the CPU part of a workspace gets."""

    name: str
    title: str
    cpus: int
    memory_bytes: int

    @property
    def label(self) -> str:
        """For people, such as ``Medium: 2 CPUs, 4 GiB``."""
        amount = f"{self.memory_bytes / 2**30:g} GiB"
        return f"{self.title}: {self.cpus} CPU{'s' if self.cpus > 1 else ''}, {amount}"


@dataclass(frozen=True)
class Catalogue:
    """Images and sizes by name, in the file's order."""

    images: dict[str, Image]
    sizes: dict[str, Size]
    default_image: str
    default_size: str


def parse_memory(text: str) -> int:
    """Bytes of an amount such as ``4GiB``."""
    return int(text[:-3]) * UNITS[text[-3:]]


def load_catalogue(path: Path) -> Catalogue:
    """Read `path` and check it against ``schema.json`` beside it.

    Raises:
        CatalogueError: missing, not YAML, or not what the schema says.
    """
    try:
        content: Any = yaml.safe_load(path.read_text())
        schema = yaml.safe_load((path.parent / "schema.json").read_text())
    except OSError as error:
        raise CatalogueError(f"{error.filename}: {error.strerror}. It comes with Elara; restore it.") from error
    except yaml.YAMLError as error:
        raise CatalogueError(f"{path} is not YAML: {error}") from error
    try:
        jsonschema.validate(content, schema)
    except jsonschema.ValidationError as error:
        raise CatalogueError(f"{path}, at {error.json_path}: {error.message}") from error
    images = {entry["name"]: Image(**entry) for entry in content["images"]}
    sizes = {
        entry["name"]: Size(entry["name"], entry["title"], entry["cpus"], parse_memory(entry["memory"]))
        for entry in content["sizes"]
    }
    for kind, known in (("image", images), ("size", sizes)):
        name = content[f"default_{kind}"]
        if name not in known:
            raise CatalogueError(f"{path}: default_{kind} is {name!r}, which is none of {', '.join(known)}")
    return Catalogue(images, sizes, content["default_image"], content["default_size"])
