"""The command `elara`. Importing it is quick: each command imports what it needs when it runs, and none torch."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import entry_points

import click

from elara_remoting import __version__

_COMMANDS = {
    "attach": "elara_remoting.cli.attach:attach",
    "detach": "elara_remoting.cli.attach:detach",
    "node": "elara_remoting.cli.node:node",
    "run": "elara_remoting.cli.run:run",
    "serve": "elara_remoting.cli.serve:serve",
    "smi": "elara_remoting.cli.smi:smi",
}
GROUP = "elara.commands"
"""The entry-point group by which other distributions add commands: name = command, value = a `click.Command`."""


class _Commands(click.Group):
    """Our own commands and those of other installed distributions; one that fails to load spoils no other."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*_COMMANDS, *(point.name for point in entry_points(group=GROUP))})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in _COMMANDS:
            module, _, attribute = _COMMANDS[name].partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        for point in entry_points(group=GROUP, name=name):
            try:
                loaded = point.load()
            except Exception as error:
                return _broken(name, f"{type(error).__name__}: {error}")
            return loaded if isinstance(loaded, click.Command) else _broken(name, "it is not a command")
        return None


def _broken(name: str, reason: str) -> click.Command:
    message = f"The command '{name}' could not be loaded ({reason}). Install the package that it comes from again."

    def fail() -> None:
        raise click.ClickException(message)

    return click.Command(name, callback=fail, help=message, context_settings={"ignore_unknown_options": True})


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="elara", message="elara %(version)s")
def cli() -> None:
    """Elastic remote accelerators: devices for a running PyTorch program, and back again."""


def main() -> None:
    """Entry point of the console script."""
    try:
        cli(prog_name="elara")
    except BrokenPipeError:
        # `elara smi | head`: whoever read has enough.
        sys.stderr.close()
        sys.exit(141)
