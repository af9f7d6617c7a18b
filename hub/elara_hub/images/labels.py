"""The labels of an image: the OCI ones, and what a spawner or a person asks of it."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

from elara_hub.images.plan import Recipe
from elara_hub.version import __version__
from elara_spawner.catalogue import Catalogue

_OCI = "org.opencontainers.image."


def labels(recipe: Recipe, catalogue: Catalogue, inputs: str, base_image: str, root: Path) -> list[str]:
    """Options of `docker build`. Labels are no part of what decides whether a layer is cached."""
    values = {
        _OCI + "title": f"Elara {recipe.title}",
        _OCI + "description": recipe.description,
        _OCI + "version": __version__,
        _OCI + "licenses": "Apache-2.0",
        _OCI + "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        _OCI + "base.name": base_image,
        "org.elara.image": recipe.name,
        "org.elara.inputs": inputs,
    }
    if revision := _revision(root):
        values[_OCI + "revision"] = revision
    if entry := catalogue.images.get(recipe.name):
        values["org.elara.attach"] = "yes" if entry.attach else "no"
        values["org.elara.attach.note"] = entry.attach_note
        values["org.elara.frameworks"] = " ".join(f"{name}={version}" for name, version in entry.frameworks.items())
    return [part for name, value in values.items() for part in ("--label", f"{name}={value}")]


def _revision(root: Path) -> str:
    try:
        done = subprocess.run(
            ("git", "-C", str(root), "rev-parse", "HEAD"), capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
