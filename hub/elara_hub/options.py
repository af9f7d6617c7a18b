"""Options that several sub-commands of `elara` have. Cheap to import, since every command line is."""

from __future__ import annotations

from pathlib import Path

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

data_folder = click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path("elara-data"),
    envvar="ELARA_DATA",
    show_default=True,
    help="The data folder.",
)
