"""Running the user's command as if `elara run` were not there: its terminal, its signals, its exit status."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence

import click

from elara_remoting.node import process

_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)


class Signals:
    """Ends `task` on a signal as long as there is no command, then passes signals on to the command."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._task = asyncio.current_task()
        self._child: asyncio.subprocess.Process | None = None
        for number in _FORWARDED:
            asyncio.get_running_loop().add_signal_handler(number, self._handle, number)

    def pass_to(self, child: asyncio.subprocess.Process) -> None:
        """From now on signals are for the command."""
        self._child = child

    def ignore(self) -> None:
        """What is left to do is quick, and must be done."""
        self._child, self._task = None, None

    def _handle(self, number: int) -> None:
        if self._child is None:
            if number in (signal.SIGUSR1, signal.SIGUSR2):
                return
            if self._task is not None:
                self.received = number
                self._task.cancel()
                self._task = None  # a second Ctrl-C must not interrupt the cleaning up
        elif self._child.returncode is None and not (number in _FROM_TERMINAL and _in_foreground()):
            # Ctrl-C reaches the command by itself: the terminal sends it to the whole foreground group.
            self._child.send_signal(number)


def _in_foreground() -> bool:
    try:
        with open(os.ctermid(), "rb", buffering=0) as terminal:  # noqa: PTH123 - a device, not a path of ours
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


async def run_command(command: Sequence[str], environment: Mapping[str, str], signals: Signals) -> int:
    """Run it to its end and return its exit status as a shell has it.

    That is 128 + n when signal n killed it, and 127 or 126, with a sentence on standard error, when it was not found or
    cannot be run.
    """
    parent = os.getpid()

    def before_exec() -> None:
        # Should `elara run` be killed, its devices are gone: the command is asked to end too.
        process.die_with_parent(parent, signal.SIGTERM)

    try:
        child = await asyncio.create_subprocess_exec(*command, env=dict(environment), preexec_fn=before_exec)
    except FileNotFoundError:
        return not_found(command[0])
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        click.echo(f"Error: The command {command[0]!r} cannot be run: {text}.", err=True)
        return 126
    signals.pass_to(child)
    try:
        status = await child.wait()
    finally:
        signals.ignore()
    return 128 - status if status < 0 else status


def not_found(name: str) -> int:
    """Say so; returns the status that a shell would give."""
    click.echo(f"Error: The command {name!r} was not found. Check its name and your PATH.", err=True)
    return 127
