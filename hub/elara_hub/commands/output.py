"""How the commands print: a table for people, `--json` for programs; and the options that all of them have."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from elara_hub import options
from elara_hub.commands.client import Service, connect

Row = dict[str, Any]


def with_service(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--json` and `--data`; the function gets a `Service` first and `as_json` by name."""

    @options.as_json
    @click.option(
        "--data",
        type=click.Path(),
        help="The data folder of `elara up`. Default: $ELARA_DATA, else elara-data; not used when ELARA_API_URL and "
        "ELARA_TOKEN are set.",
    )
    @functools.wraps(function)
    def wrapped(*arguments: Any, data: str | None, **options: Any) -> Any:
        service: Service = connect(data)
        return function(service, *arguments, **options)

    return wrapped


def show(answer: Any, as_json: bool, text: str) -> None:
    """Print the service's answer, or one sentence about it."""
    click.echo(json.dumps(answer, indent=2) if as_json else text)


def show_table(answer: Any, as_json: bool, rows: Sequence[Row], columns: dict[str, str], empty: str) -> None:
    """Print the answer as JSON, or `rows` as a table with these columns (title: key)."""
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    if not rows:
        click.echo(empty)
        return
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*("" if row.get(key) is None else str(row[key]) for key in columns.values()))
    Console().print(table)


def project_path(name: str) -> str:
    """`team/project` as a path.

    Raises:
        click.BadParameter: it is not one.
    """
    team, slash, project = name.partition("/")
    if not (team and slash and project) or "/" in project:
        raise click.BadParameter(f"{name!r} is not a project: write it as team/project, such as demo/digits.")
    return f"/projects/{team}/{project}"
