"""The project's container images, built once for a test run by the command that users have.

    def test_something(docker_engine: Engine, built_images: BuiltImages) -> None:  # fixtures of tests/conftest.py
        docker_engine.run("run", "--rm", built_images.pytorch, ...)

What is built for the same inputs already is left as it is, so only the first run on a machine waits for the build.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.docker import Engine

ROOT = Path(__file__).resolve().parents[2]
BUILD_SECONDS = 1200
"""With empty caches; pytest's own limit for the test that comes first has to hold it."""


@dataclass(frozen=True)
class BuiltImages:
    """What the build told of each image, by the image's name."""

    results: dict[str, dict[str, Any]]

    @property
    def pytorch(self) -> str:
        """The tag of the image that most tests start."""
        return str(self.results["pytorch"]["tag"])


def elara_images(*arguments: str, check: bool = True, limit: float = BUILD_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run `elara images ARGUMENTS`. Raises AssertionError with what it said when `check` and it fails."""
    command = (str(Path(sys.executable).with_name("elara")), "images", *arguments)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"elara images {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-3000:]}")
    return done


def build(engine: Engine) -> BuiltImages:
    """Build the images that are not built for what the checkout holds now."""
    engine.base_image()  # no registry is asked for one
    return BuiltImages({entry["name"]: entry for entry in json.loads(elara_images("build", "--json").stdout)})
