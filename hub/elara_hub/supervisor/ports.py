"""The public port, and free ports for the parts behind it."""

from __future__ import annotations

import errno
import random
import socket

import psutil

from elara_hub.supervisor.problem import UpProblem

# Below the range from which Linux takes the ports of outgoing connections: a part that restarts finds its port free.
_INNER = range(20_000, 32_000)


def check_public(host: str, port: int) -> None:
    """Raises UpProblem when the proxy could not listen there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UpProblem(f"{host!r} is no address of this machine. Choose one with --host, 127.0.0.1 say.") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            raise UpProblem(_why(host, port, error)) from error


def _why(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} is taken{_holder(port)}. Stop what listens there, or choose another port: "
            f"elara up --port {port + 1}"
        )
    if error.errno == errno.EACCES:
        return f"Port {port} needs more rights than this user has. Choose one above 1023: elara up --port 8000"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine. Choose one with --host, 127.0.0.1 say."
    return f"Nothing can listen on {host}:{port} ({error.strerror}). Choose another with --host and --port."


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.pid and connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:2] == (port,):
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        pass  # other users' sockets are not ours to see
    return ""


def free_ports(count: int) -> list[int]:
    """Distinct ports of 127.0.0.1 on which nothing listens. Raises UpProblem when none can be found."""
    found: list[int] = []
    for port in random.sample(_INNER, len(_INNER)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                probe.listen(1)
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise UpProblem(
        f"No {count} free ports are left on 127.0.0.1 between {_INNER.start} and {_INNER.stop}. "
        "Stop some of the programs that listen there."
    )
