"""Secrets of a part: in a variable, or in the file that the variable with `_FILE` after its name names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def read_secret(environment: Mapping[str, str], name: str) -> str:
    """The secret, empty when neither ``NAME`` nor ``NAME_FILE`` is set. A variable can be seen by whoever may inspect
    the process or its container; a file can be seen by its owner only.

    Raises:
        ValueError: the file cannot be read or is empty; the text says which.
    """
    if environment.get(name):
        return environment[name]
    file = environment.get(f"{name}_FILE")
    if not file:
        return ""
    try:
        value = Path(file).read_text().strip()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ValueError(
            f"the secret {name}_FILE={file} cannot be read ({reason}): it must be there and belong to the user that "
            "this part runs as"
        ) from None
    if not value:
        raise ValueError(f"the secret {name}_FILE={file} is empty: write the secret into it")
    return value
