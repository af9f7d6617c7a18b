"""Options and types that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from elara_remoting.types import WHOLE, InvalidValue, parse_memory, parse_share

F = TypeVar("F", bound=Callable[..., Any])


class Share(click.ParamType[int]):
    """A share of a device: 250, 0.25 or 1/4; thousandths."""

    name = "share"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        try:
            return parse_share(value)
        except InvalidValue as error:
            self.fail(f"{error}.", parameter, context)


class Memory(click.ParamType[int]):
    """An amount of memory: 2GiB, 512MiB; bytes."""

    name = "memory"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        try:
            return parse_memory(value)
        except InvalidValue as error:
            self.fail(f"{error}.", parameter, context)


def share_options(command: F) -> F:
    """`-p SHARE` and `-m MEMORY`; `exclusive` refuses both at once."""
    memory = click.option(
        "-m",
        "--memory",
        type=Memory(),
        metavar="MEMORY",
        help="So much memory of each device, like 512MiB; the share follows from it.",
    )
    share = click.option(
        "-p",
        "--share",
        type=Share(),
        metavar="SHARE",
        help="So much of each device: 1/4, 0.25 or 250 (thousandths). The whole device when left out.",
    )
    return share(memory(command))


def device_options(command: F) -> F:
    """`--device-memory` and `--threads`, for commands that run a node."""
    threads = click.option(
        "--threads",
        type=click.IntRange(1, 1024),
        help="How many CPU threads a device server may compute with. All by default.",
    )
    memory = click.option(
        "--device-memory",
        type=Memory(),
        metavar="MEMORY",
        help="The memory of each emulated device, like 2GiB (the default). Does not concern NVIDIA devices.",
    )
    return memory(threads(command))


def exclusive(share: int | None, memory: int | None) -> None:
    """Refuse `-p` beside `-m`."""
    if share is not None and memory is not None:
        raise click.UsageError("Give either a share (-p) or an amount of memory (-m), not both.")


def share_of(share: int | None, memory: int | None, device_memory: int) -> int:
    """The share in thousandths: as asked, or what the asked memory is of the device's (rounded up).

    Raises:
        click.UsageError: more memory than the device has.
    """
    if memory is None:
        return WHOLE if share is None else share
    if memory > device_memory:
        from elara_remoting.types import format_memory

        raise click.UsageError(
            f"A device has {format_memory(device_memory)} of memory, less than the {format_memory(memory)} asked for. "
            "Ask for less with -m."
        )
    return -(-memory * WHOLE // device_memory)
