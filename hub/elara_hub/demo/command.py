"""`elara demo`."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import click

EXAMPLE = Path("examples") / "digits.ipynb"


@click.command()
@click.option(
    "--notebook",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="The example to run. Default: examples/digits.ipynb of this installation.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "docker"]),
    default="local",
    show_default=True,
    help="What the workspace is, as for `elara up`: a process, or a container (of the catalogue's default image).",
)
def demo(notebook: Path | None, engine: str) -> None:
    """Make the whole journey without a browser, on a throw-away instance.

    Sign in, open a workspace, train on its CPU, attach a device to the running kernel, train there, track in MLflow,
    detach. Each step prints its figure; the exit status is 0 when all of them did what they should.
    """
    path = notebook or _example()
    if path is None or not path.is_file():
        raise click.ClickException(
            f"{notebook or EXAMPLE} is not there: run this in a checkout, or give --notebook FILE"
        )
    sys.exit(asyncio.run(_demo(path, engine)))


def _example() -> Path | None:
    """The example beside the current folder, or in the checkout that this module is part of."""
    for root in (Path.cwd(), Path(__file__).resolve().parents[3]):
        if (root / EXAMPLE).is_file():
            return root / EXAMPLE
    return None


async def _demo(path: Path, engine: str) -> int:
    # Imported here: `elara --help` must not pay for the hub's libraries.
    from elara_hub.demo.journey import JourneyFailed, make_journey, notebook_cells
    from elara_hub.demo.person import Person, SignInFailed
    from elara_hub.demo.throwaway import InstanceFailed, Throwaway
    from elara_hub.supervisor.problem import UpProblem

    began = time.monotonic()

    def report(step: str, figure: str) -> None:
        click.echo(f"  {step:<36} {figure}")

    click.echo("Elara's journey on a throw-away instance, with emulated devices (CPU): they show how, not how fast.")
    if engine == "docker":
        click.echo("The workspace is a container; its volumes are removed with the instance.")
    try:
        instance = Throwaway(engine=engine)
        async with instance:
            report("every part is up", f"{instance.start_seconds:.1f} s")
            async with Person(instance.url, instance.admin_name, instance.admin_password) as person:
                report("signed in", person.name)
                await make_journey(person, notebook_cells(path), {"project": "demo/digits"}, report)
        report("every part stopped", f"{instance.stop_seconds:.1f} s")
    except (InstanceFailed, JourneyFailed, SignInFailed, UpProblem) as error:
        click.secho(f"Failed: {error}", fg="red", err=True)
        return 1
    click.echo(f"The journey holds. {time.monotonic() - began:.0f} s")
    return 0
