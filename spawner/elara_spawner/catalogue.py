"""The catalogue of images and sizes, read from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from elara_hub.version import __version__

UNITS = {"MiB": 2**20, "GiB": 2**30}


class CatalogueError(ValueError):
    """The file cannot be used; the text names the file, the line in it and what is wrong."""


@dataclass(frozen=True)
class Image:
    """A pre-built environment. `local` ones are no container but the environment that Elara itself runs in.

    frameworks: name to version. attach: whether a GPU can be attached in it; `attach_note` says why not, or what to
    know. teams: slugs of the teams that may use it, None for all.
    """

    name: str
    title: str
    description: str = ""
    local: bool = False
    image: str = ""
    frameworks: Mapping[str, str] = field(default_factory=dict)
    attach: bool = True
    attach_note: str = ""
    teams: tuple[str, ...] | None = None

    @property
    def reference(self) -> str:
        """What a container is made from, such as ``elara/pytorch:0.1.0``."""
        return self.image or f"elara/{self.name}:{__version__}"

    def allowed(self, team: str) -> bool:
        """Whether projects of `team` may use it."""
        return self.teams is None or team in self.teams


@dataclass(frozen=True)
class Size:
    """What the CPU part of a workspace gets.

    processes: how many of them at most, threads counted; None for the spawner's own setting.
    """

    name: str
    title: str
    cpus: int
    memory_bytes: int
    processes: int | None = None

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

    def offered(self, local: bool = False) -> Catalogue:
        """What one engine can start: the environment of local mode, or the containers. Its default is among them.

        Raises:
            CatalogueError: the file has no such image.
        """
        images = {name: image for name, image in self.images.items() if image.local == local}
        if not images:
            kind = "an image with `local: true`" if local else "an image without `local: true`"
            raise CatalogueError(f"The catalogue lists nothing that this engine can start: add {kind}.")
        default = self.default_image if self.default_image in images else next(iter(images))
        return replace(self, images=images, default_image=default)

    def for_team(self, team: str) -> list[Image]:
        """The images that projects of `team` may use."""
        return [image for image in self.images.values() if image.allowed(team)]


def parse_memory(text: str) -> int:
    """Bytes of an amount such as ``4GiB``."""
    return int(text[:-3]) * UNITS[text[-3:]]


def load_catalogue(path: Path) -> Catalogue:
    """Read `path` and check it against ``schema.json`` beside it.

    Raises:
        CatalogueError: missing, not YAML, or not what the schema says.
    """
    try:
        text = path.read_text()
        schema = yaml.safe_load((path.parent / "schema.json").read_text())
    except OSError as error:
        raise CatalogueError(f"{error.filename}: {error.strerror}. It comes with Elara; restore it.") from error
    try:
        content: Any = yaml.safe_load(text)
        tree = yaml.compose(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise CatalogueError(f"{where}: this is not YAML: {getattr(error, 'problem', None) or error}") from error
    # The deepest error names the mistake itself, where an outer one would only say that something below is wrong.
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(content), key=lambda e: _line(tree, e.path))
    if errors:
        raise CatalogueError("\n".join(f"{path}, line {_line(tree, e.path)}: {_sentence(e)}" for e in errors))
    problems = _repeated(tree) + _defaults(content, tree)
    if problems:
        raise CatalogueError("\n".join(f"{path}, line {line}: {message}" for line, message in sorted(problems)))
    images = {entry["name"]: _image(entry) for entry in content["images"]}
    sizes = {entry["name"]: _size(entry) for entry in content["sizes"]}
    return Catalogue(images, sizes, content["default_image"], content["default_size"])


def _image(entry: Mapping[str, Any]) -> Image:
    teams = entry.get("teams")
    return Image(**{**entry, "teams": None if teams is None else tuple(teams)})


def _size(entry: Mapping[str, Any]) -> Size:
    memory = parse_memory(entry["memory"])
    return Size(entry["name"], entry["title"], entry["cpus"], memory, entry.get("processes"))


def _sentence(error: jsonschema.ValidationError) -> str:
    """A schema's complaint with its place, such as ``images[1].teams[0]: 'A b' does not match ...``."""
    place = error.json_path.removeprefix("$").removeprefix(".")
    hint = error.schema.get("description") if isinstance(error.schema, Mapping) else None
    return f"{place + ': ' if place else ''}{error.message}{f' ({hint})' if hint else ''}"


def _line(tree: yaml.Node | None, path: Sequence[Any]) -> int:
    """The line, from 1, of what `path` leads to: a key of a mapping, or an entry of a sequence."""
    line = 1
    node = tree
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _repeated(tree: yaml.Node | None) -> list[tuple[int, str]]:
    """Names that two entries of a list have, and keys that a mapping has twice (YAML would let the last one win)."""
    found: list[tuple[int, str]] = []
    if isinstance(tree, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in tree.value:
            if key.value in seen:
                found.append((key.start_mark.line + 1, f"{key.value!r} is given twice"))
            seen.add(key.value)
            found += _repeated(value)
    elif isinstance(tree, yaml.SequenceNode):
        names: set[str] = set()
        for entry in tree.value:
            if isinstance(entry, yaml.MappingNode):
                for key, value in entry.value:
                    if key.value == "name" and value.value in names:
                        found.append((value.start_mark.line + 1, f"there is another {value.value!r} above"))
                    elif key.value == "name":
                        names.add(value.value)
            found += _repeated(entry)
    return found


def _defaults(content: Mapping[str, Any], tree: yaml.Node | None) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for kind in ("image", "size"):
        name = content[f"default_{kind}"]
        known = [entry["name"] for entry in content[f"{kind}s"]]
        if name not in known:
            message = f"default_{kind} is {name!r}, which is none of {', '.join(known)}"
            found.append((_line(tree, [f"default_{kind}"]), message))
    return found
