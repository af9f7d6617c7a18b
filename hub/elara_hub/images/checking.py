"""Runs the checks inside images, in containers as confined as workspaces are."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from elara_hub.images import docker, plan
from elara_hub.images.plan import Recipe
from elara_hub.images.problem import ImageProblem
from elara_spawner.catalogue import Catalogue

_INSIDE = Path(__file__).parent / "inside"
_CONFINED = (
    *("--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--tmpfs", "/tmp:mode=1777", "--memory", "6g", "--pids-limit", "512"),  # noqa: S108 - its own
)
_MOST_SECONDS = 900
Result = dict[str, Any]
"""`image`, `check`, `what`, `ok`, `message`, `seconds`."""


def check(names: Sequence[str], catalogue: Catalogue, tell: Callable[[Result], None]) -> list[Result]:
    """Check images (all that are here, when none is named); `tell` gets each result as it comes.

    Raises:
        ImageProblem: a named image is not here, or a container could not be started.
    """
    docker.require_daemon()
    recipes = [recipe for recipe in plan.order(names) if recipe.listed and (not names or recipe.name in names)]
    present = [recipe for recipe in recipes if docker.inspect(recipe.tag) is not None]
    missing = [recipe.name for recipe in recipes if recipe not in present]
    if missing and (names or not present):
        raise ImageProblem(f"{', '.join(missing)}: not built on this machine. First: elara images build")
    results: list[Result] = []
    for recipe in present:
        for found in _workspace(recipe, catalogue) if recipe.workspace else _server(recipe):
            results.append({"image": recipe.name, **found})
            tell(results[-1])
    return results


def _workspace(recipe: Recipe, catalogue: Catalogue) -> Iterator[Result]:
    entry = catalogue.images.get(recipe.name)
    if entry is None:
        raise ImageProblem(f"images/catalogue.yaml has no entry {recipe.name}, which says what to check in it.")
    note = "" if entry.attach else entry.attach_note
    asked = {"frameworks": dict(entry.frameworks), "attach": entry.attach, "note": note}
    volume = f"elara-check-{uuid.uuid4().hex[:12]}"
    options = (
        *_CONFINED,
        *("--tmpfs", "/run/elara:uid=1000,gid=1000,mode=0700", "--tmpfs", "/scratch:mode=1777"),
        *("--volume", f"{volume}:/home/elara"),
    )
    docker.ask("volume", "create", volume)
    try:
        for again in (False, True):
            yield from _run(recipe, "workspace.py", json.dumps({**asked, "again": again}), options)
    finally:
        docker.ask("volume", "rm", "--force", volume)


def _server(recipe: Recipe) -> Iterator[Result]:
    return _run(recipe, "server.py", recipe.name, (*_CONFINED, "--env", "HOME=/tmp"))


def _run(recipe: Recipe, program: str, argument: str, options: Sequence[str]) -> Iterator[Result]:
    """One container; what it prints are the results. One that ends badly, or not in time, is a failed check."""
    name = f"elara-check-{uuid.uuid4().hex[:12]}"
    command = ("run", "--rm", "-i", "--name", name, *options, recipe.tag, "/opt/elara/bin/python", "-I", "-", argument)
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            (docker.program(), *command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        )
        assert process.stdin is not None and process.stdout is not None
        late = threading.Timer(_MOST_SECONDS, subprocess.run, ((docker.program(), "kill", name),))
        late.start()
        try:
            with suppress(BrokenPipeError):  # it could not be started; why is told below
                process.stdin.write((_INSIDE / program).read_text())
                process.stdin.close()
            for line in process.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
            if process.wait() != 0:
                said.seek(0)
                message = said.read().strip()[-1000:] or f"it ended with status {process.returncode}"
                if not late.is_alive():
                    message = f"it took longer than {_MOST_SECONDS} s"
                what = "The container starts and ends as it should."
                yield {"check": "container", "what": what, "ok": False, "message": message, "seconds": 0.0}
        finally:
            late.cancel()
            subprocess.run((docker.program(), "rm", "--force", name), capture_output=True, check=False)
            process.wait()
