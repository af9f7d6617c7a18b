"""Builds images one after the other, tells steps as they come, and skips what is as it was."""

from __future__ import annotations

import collections
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from elara_hub.images import docker, plan, sources
from elara_hub.images.bill import write_bill
from elara_hub.images.labels import labels
from elara_hub.images.plan import Recipe
from elara_hub.images.problem import ImageProblem, base_missing, explain
from elara_spawner.catalogue import Catalogue

Say = Callable[[str], None]
_STEP = re.compile(r"#\d+ \[(?P<step>[^\]]+)\] (?P<what>(?:FROM|RUN|COPY|WORKDIR) .*)")
_CACHED = re.compile(r"#\d+ CACHED")
_RAN = re.compile(r"#\d+ (?:DONE (?P<seconds>[\d.]+)s|ERROR)")
_LAST_LINES = 25


@dataclass(frozen=True)
class Wanted:
    """What to build. `root` is the checkout; `wheels` are folders with further wheels for pip."""

    root: Path
    names: tuple[str, ...] = ()
    base_image: str | None = None
    wheels: tuple[Path, ...] = ()
    jobs: int = field(default_factory=lambda: os.cpu_count() or 2)
    fresh: bool = False
    """Neither skip nor use cached layers: to take up what changed outside of the checkout, such as Debian's fixes."""


@dataclass(frozen=True)
class Built:
    """What became of one image. `seconds` includes its bill of materials; `bill` is the file with it."""

    name: str
    tag: str
    id: str
    bytes: int
    seconds: float
    changed: bool
    left_out: tuple[str, ...]
    bill: Path | None


def build(wanted: Wanted, catalogue: Catalogue, say: Say) -> list[Built]:
    """Build what `wanted` names and what that needs. Raises ImageProblem; what was finished is kept."""
    recipes = plan.order(wanted.names)
    docker.require_daemon()
    base_image = choose_base(wanted.base_image)
    results: list[Built] = []
    with ExitStack() as stack:
        options: list[str] | None = None
        for recipe in recipes:
            arguments = plan.build_arguments(recipe, base_image, wanted.jobs)
            target = put_wheels(wanted.root, base_image, say) if recipe.name == "wheels" else None
            below = {value: image_id(value) for name, value in arguments.items() if name.endswith("_IMAGE")}
            inputs = plan.digest(wanted.root, recipe, arguments, below, target)
            begun = time.monotonic()
            known = docker.inspect(recipe.tag)
            made = ((known or {}).get("Config", {}).get("Labels") or {}).get("org.elara.inputs")
            changed = wanted.fresh or made != inputs
            if changed:
                if options is None:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="elara-build-")))
                    options = stack.enter_context(sources.build_options(folder, wanted.wheels))
                say(f"{recipe.name}: building {recipe.tag}")
                tags = labels(recipe, catalogue, inputs, base_image, wanted.root)
                chosen = ("--target", target) if target else ()
                run_build(wanted, recipe, arguments, [*options, *tags, *chosen], say)
            result = finish(wanted.root, recipe, changed, begun)
            say(told(result))
            results.append(result)
    return results


def choose_base(given: str | None) -> str:
    """The base image: the one given, else Debian's where it is here or can be pulled, else the bootstrapped one."""
    wanted = given or plan.DEFAULT_BASE
    if docker.inspect(wanted) is not None:
        return wanted
    if given is None and docker.inspect(plan.BOOTSTRAPPED_BASE) is not None:
        return plan.BOOTSTRAPPED_BASE
    try:
        docker.ask("pull", "--quiet", wanted, timeout=600)
    except (ImageProblem, subprocess.TimeoutExpired) as error:
        raise ImageProblem(f"{base_missing(wanted)}\n    {str(error).splitlines()[-1].strip()}") from error
    return wanted


def image_id(image: str) -> str:
    """The id of an image that is here, or nothing."""
    found = docker.inspect(image)
    return str(found["Id"]) if found else ""


def put_wheels(root: Path, base_image: str, say: Say) -> str:
    """Put the wheels that the build of `wheels` takes from this machine into its context.

    Returns the build's target: `prepared` where this machine's compiled core runs in the base image too (the same
    release of the same distribution), else `compiled`. Raises ImageProblem.
    """
    same = _release(Path("/etc/os-release").read_text()) == _release(docker.run(base_image, ["cat", "/etc/os-release"]))
    folder = root / "build" / "images" / "wheels"
    say("wheels: preparing the project's own packages")
    python, script = root / ".venv" / "bin" / "python", root / "setup" / "wheels.py"
    made = subprocess.run(
        (str(python), str(script), str(folder), *(("--core",) if same else ())),
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise ImageProblem(f"The project's packages could not be built: {(made.stderr or made.stdout).strip()}")
    return "prepared" if same else "compiled"


def _release(text: str) -> tuple[str, str]:
    """Distribution and release, from the text of os-release."""
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return values.get("ID", "").strip('"'), values.get("VERSION_ID", "").strip('"')


def run_build(wanted: Wanted, recipe: Recipe, arguments: dict[str, str], options: Sequence[str], say: Say) -> None:
    """One `docker build`. Raises ImageProblem with the likeliest cause and the last lines."""
    given = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    if wanted.fresh:
        given.append("--no-cache")
    file = plan.dockerfile(wanted.root, recipe)
    last: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
    steps = Steps(say)
    process = docker.build(wanted.root, file, recipe.tag, [*given, *options])
    assert process.stdout is not None
    with process:
        try:
            for line in process.stdout:
                last.append(line.rstrip())
                steps.take(line.rstrip())
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        said = "\n".join(last)
        shown = "\n".join("    " + line for line in last if line)
        raise ImageProblem(f"Building {recipe.name} failed. {explain(said)}\n{shown}")


class Steps:
    """Tells a build's steps from BuildKit's plain progress: what runs now, how long it took, what was cached."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._names: dict[str, str] = {}

    def take(self, line: str) -> None:
        """One line of progress."""
        number = line.partition(" ")[0]
        if step := _STEP.fullmatch(line):
            self._names[number] = f"[{step['step']}] {_short(step['what'])}"
        elif number in self._names and _CACHED.fullmatch(line):
            self._say(f"  {self._names.pop(number)} (cached)")
        elif number in self._names and (ran := _RAN.match(line)) and ran["seconds"] is not None:
            self._say(f"  {self._names.pop(number)} {float(ran['seconds']):.0f} s")


def _short(what: str, most: int = 90) -> str:
    """A Dockerfile line without its mounts, cut to a length."""
    plain = re.sub(r"--mount=\S+\s*", "", what)
    plain = re.sub(r"\s+", " ", plain)
    return plain if len(plain) <= most else plain[: most - 3] + "..."


def finish(root: Path, recipe: Recipe, changed: bool, begun: float) -> Built:
    """Look at the image that is there now, and write its bill of materials when there is none for it yet."""
    known = docker.inspect(recipe.tag)
    if known is None:
        raise ImageProblem(f"Docker says that it built {recipe.tag}, and does not have it. Build again.")
    bill: Path | None = None
    left_out: tuple[str, ...] = ()
    if recipe.listed:
        bill, left_out = write_bill(root / "build" / "images", recipe, str(known["Id"]))
    return Built(
        recipe.name, recipe.tag, str(known["Id"]), int(known["Size"]), time.monotonic() - begun, changed, left_out, bill
    )


def told(result: Built) -> str:
    """One line for people."""
    if not result.changed:
        return f"{result.name}: unchanged ({size(result.bytes)})"
    lines = [f"{result.name}: {result.tag} in {result.seconds:.0f} s, {size(result.bytes)}"]
    lines += [f"{result.name}: left out {line}" for line in result.left_out]
    return "\n".join(lines)


def size(count: int) -> str:
    """Bytes as Docker tells them: decimal megabytes."""
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"
