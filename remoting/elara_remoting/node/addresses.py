"""Where clients reach a node, and host:port in text."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class Addresses:
    """Where clients reach this node: a socket's path, and host:port; either may be missing."""

    local: str | None
    tcp: str | None


def own_address() -> str:
    """The address that this machine most likely has for others: the one of its default route, else its name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks the routing table only
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def join_address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def split_address(text: str, default_port: int) -> tuple[str, int]:
    """Read `host:port`, `host`, `[v6]:port` or `:port`.

    Raises:
        ValueError: the port is not one.
    """
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, ""
    number = int(port) if port else default_port
    if not 0 <= number <= 65535:
        raise ValueError(f"{number} is not a port")
    return host.strip("[]"), number
