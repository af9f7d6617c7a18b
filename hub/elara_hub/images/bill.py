"""An image's software bill of materials, in CycloneDX JSON: Debian packages, Python distributions, npm packages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from elara_hub.images import docker
from elara_hub.images.plan import Recipe
from elara_hub.version import __version__

_INSIDE = Path(__file__).parent / "inside" / "collect.py"
# It looks at files; it needs no network, no place to write, and no entry point that prepares a home.
_QUIET = ("--network", "none", "--entrypoint", "", "--read-only")


def write_bill(folder: Path, recipe: Recipe, image_id: str) -> tuple[Path, tuple[str, ...]]:
    """Write `<name>.cdx.json` unless it is there for this very image. Returns it, and what the build left out."""
    file = folder / f"{recipe.name}.cdx.json"
    if (known := _known(file, image_id)) is not None:
        return file, known
    python = ["/opt/elara/bin/python", "-I", "-"]
    found = json.loads(docker.run(recipe.tag, python, _QUIET, stdin=_INSIDE.read_bytes()))
    left_out = tuple(found["left_out"])
    folder.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".new")
    temporary.write_text(bill(recipe, image_id, found))
    temporary.replace(file)
    return file, left_out


def bill(recipe: Recipe, image_id: str, found: dict[str, Any]) -> str:
    """The bill as CycloneDX 1.6 JSON.

    Args:
        found: `debian` (name, version, architecture), `python` and `npm` (name, version), `distribution`, `left_out`.
    """
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    root = Component(name=f"elara/{recipe.name}", version=__version__, type=ComponentType.CONTAINER, bom_ref=recipe.tag)
    root.properties.add(Property(name="org.elara.image.id", value=image_id))
    for line in found["left_out"]:
        root.properties.add(Property(name="org.elara.left-out", value=line))
    urls = [
        PackageURL("deb", found["distribution"], name, version, {"arch": architecture})
        for name, version, architecture in found["debian"]
    ]
    urls += [PackageURL("pypi", None, name.lower().replace("_", "-"), version) for name, version in found["python"]]
    for name, version in found["npm"]:
        scope, _, plain = name.rpartition("/")
        urls.append(PackageURL("npm", scope or None, plain, version))
    bom = Bom()
    bom.metadata.component = root
    for url in dict.fromkeys(urls):
        bom.components.add(
            Component(name=url.name, version=url.version, type=ComponentType.LIBRARY, purl=url, bom_ref=url.to_string())
        )
    bom.register_dependency(root, bom.components)
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def _known(file: Path, image_id: str) -> tuple[str, ...] | None:
    """What the image left out, by a bill of exactly this image; None when there is none."""
    try:
        listed = json.loads(file.read_text())["metadata"]["component"]["properties"]
        pairs = [(entry["name"], entry["value"]) for entry in listed]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if ("org.elara.image.id", image_id) not in pairs:
        return None
    return tuple(value for name, value in pairs if name == "org.elara.left-out")
