"""The docker command line: found, and asked. Builds go through it since BuildKit has no other stable client."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elara_hub.images.problem import ImageProblem, explain


@functools.cache
def program() -> str:
    """The docker command that can build with BuildKit. Raises ImageProblem.

    A client from 23 on needs the plug-in buildx for that. More than one client on the PATH is common (a distribution's
    and one from Docker itself), so each is asked.
    """
    found = [
        candidate
        for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)
        if (candidate := shutil.which("docker", path=folder))
    ]
    if not found:
        raise ImageProblem(
            "Docker is not installed: there is no command `docker`. On Debian or Ubuntu: sudo apt-get install "
            "docker.io docker-buildx (Debian 12's docker.io needs no docker-buildx)."
        )
    for candidate in found:
        if _builds(candidate):
            return candidate
    raise ImageProblem(
        f"{found[0]} cannot build with BuildKit: its plug-in buildx is missing. Install it (Debian's docker-buildx, or "
        "docker-buildx-plugin from Docker's own repository)."
    )


def _builds(candidate: str) -> bool:
    if subprocess.run((candidate, "buildx", "version"), capture_output=True, check=False).returncode == 0:
        return True
    version = subprocess.run(
        (candidate, "version", "--format", "{{.Client.Version}}"), capture_output=True, text=True, check=False
    ).stdout
    major = version.strip().partition(".")[0]
    return major.isdigit() and 19 <= int(major) < 23


def ask(*arguments: str, stdin: bytes | None = None, timeout: float | None = 600) -> str:
    """What a docker command prints. Raises ImageProblem with a sentence and what it said."""
    done = subprocess.run((program(), *arguments), input=stdin, capture_output=True, check=False, timeout=timeout)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise ImageProblem(f"docker {arguments[0]} failed. {explain(said)}\n    {said[-1500:]}")
    return done.stdout.decode(errors="replace")


def require_daemon() -> None:
    """Raises ImageProblem when no daemon answers."""
    ask("version", "--format", "{{.Server.Version}}", timeout=30)


def inspect(image: str) -> dict[str, Any] | None:
    """What the daemon knows of an image; None when it is not there."""
    done = subprocess.run(
        (program(), "image", "inspect", image), capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode != 0:
        if "no such image" in done.stderr.lower():
            return None
        raise ImageProblem(explain(done.stderr) + f"\n    {done.stderr.strip()[-500:]}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found[0] if found else None


def run(image: str, command: Sequence[str], options: Sequence[str] = (), stdin: bytes | None = None) -> str:
    """What a command in a throw-away container prints."""
    interactive = ("-i",) if stdin is not None else ()
    return ask("run", "--rm", *interactive, *options, image, *command, stdin=stdin)


def build(folder: Path, dockerfile: Path, tag: str, options: Sequence[str]) -> subprocess.Popen[str]:
    """A running `docker build` of the context `folder`, whose progress comes line by line on stdout."""
    return subprocess.Popen(
        (program(), "build", "--progress=plain", "--file", str(dockerfile), "--tag", tag, *options, str(folder)),
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
