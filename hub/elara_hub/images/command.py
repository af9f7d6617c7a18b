"""`elara images`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from elara_hub import options
from elara_hub.images.problem import ImageProblem

_NAMES = click.argument("names", nargs=-1, metavar="[NAME]...")


@click.group()
def images() -> None:
    """The container images of workspaces, of GPU nodes and of the hub."""


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Problems become one message and exit status 1."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        from elara_spawner.catalogue import CatalogueError

        try:
            return function(*arguments, **options)
        except (ImageProblem, CatalogueError) as problem:
            raise click.ClickException(str(problem)) from problem

    return wrapped


def _root() -> Path:
    """The checkout, with the folder `images`. Raises ImageProblem."""
    from elara_hub.supervisor.found import checkout

    root = checkout()
    if not (root / "images" / "catalogue.yaml").is_file():
        raise ImageProblem(
            f"{root} holds no images/catalogue.yaml: images are built from a checkout of Elara, where `make build` ran."
        )
    return root


@images.command("list")
@options.as_json
@_told
def list_images(as_json: bool) -> None:
    """The catalogue, and which of its images are on this machine."""
    from elara_hub.images import listing

    rows = listing.rows(_root())
    click.echo(json.dumps(rows, indent=2) if as_json else listing.table(rows))


@images.command()
@_NAMES
@click.option(
    "--base-image",
    metavar="IMAGE",
    help="The Debian-like image to begin with. Default: debian:bookworm-slim, or the one that `bootstrap-base` "
    "made where that cannot be pulled.",
)
@click.option(
    "--find-links",
    "wheels",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FOLDER",
    help="A folder with further wheels for pip, such as PyTorch's. May be repeated.",
)
@click.option("--jobs", type=click.IntRange(1, 256), help="Compile jobs of the remoting core. Default: one a CPU.")
@click.option("--fresh", is_flag=True, help="Build again without cached layers, to take up Debian's fixes.")
@options.as_json
@_told
def build(
    names: tuple[str, ...],
    base_image: str | None,
    wheels: tuple[Path, ...],
    jobs: int | None,
    fresh: bool,
    as_json: bool,
) -> None:
    """Build images (all, or those named) with what they need. What is unchanged is left as it is.

    Each gets a bill of materials, build/images/NAME.cdx.json. How to reach packages is taken from this machine's
    configuration of pip, apt and npm, and does not get into the images.
    """
    import os

    from elara_hub.images import building
    from elara_spawner.catalogue import load_catalogue

    root = _root()
    wanted = building.Wanted(root, names, base_image, wheels, jobs or os.cpu_count() or 2, fresh)
    say = functools.partial(click.echo, err=as_json)
    built = building.build(wanted, load_catalogue(root / "images" / "catalogue.yaml"), say)
    if as_json:
        click.echo(json.dumps([asdict(result) for result in built], indent=2, default=str))


@images.command("bootstrap-base")
@click.option("--suite", default="bookworm", show_default=True, help="The release of Debian.")
@click.option("--mirror", default="http://deb.debian.org/debian", show_default=True, help="Debian's archive.")
@click.option("--fresh", is_flag=True, help="Make it again though it is there.")
@_told
def bootstrap_base(suite: str, mirror: str, fresh: bool) -> None:
    """Make a base image from Debian's packages with debootstrap, where no image can be pulled. Needs root."""
    from elara_hub.images.bootstrap import bootstrap

    click.echo(bootstrap(suite, mirror, fresh, click.echo))


@images.command()
@_NAMES
@options.as_json
@_told
def check(names: tuple[str, ...], as_json: bool) -> None:
    """Start images (all that are here, or those named) and check from inside what they promise.

    Frameworks train a step; JupyterLab starts with its extensions; devices come and go in the PyTorch image; nothing
    runs as root, no compiler is left, pip cannot replace a pinned framework. Exit status 1 when a check fails.
    """
    from elara_hub.images import checking
    from elara_spawner.catalogue import load_catalogue

    def tell(result: dict[str, Any]) -> None:
        mark = click.style("ok", fg="green") if result["ok"] else click.style("FAILED", fg="red")
        click.echo(f"{result['image']:<11} {mark:<6} {result['what']} ({result['seconds']:.0f} s)", err=as_json)
        if not result["ok"]:
            click.echo(f"            {result['message']}", err=as_json)

    results = checking.check(names, load_catalogue(_root() / "images" / "catalogue.yaml"), tell)
    if as_json:
        click.echo(json.dumps(results, indent=2))
    if not all(result["ok"] for result in results):
        raise SystemExit(1)
