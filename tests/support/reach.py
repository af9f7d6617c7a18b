"""Trying from inside a workspace what it reaches."""

from __future__ import annotations

import json
from collections.abc import Sequence

_TRY = """
import json, socket
def attempt(host, port):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as s:
        s.settimeout(4)
        try:
            s.connect((host, port))
        except OSError as error:
            return type(error).__name__ + ": " + str(error)
        return "open"
print(json.dumps([attempt(host, port) for host, port in json.loads({targets!r})]))
"""


def trying(targets: Sequence[tuple[str, int]]) -> str:
    """Python that prints a JSON list of what a TCP connection to each target came to: `open`, or the error."""
    return _TRY.format(targets=json.dumps(targets))
