"""The process behind `DeviceServers`: torch is imported once, and a server is forked for every connection.

Stands where a node agent stands, without leases and without a control plane.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import struct
import sys
from types import ModuleType
from typing import Any

from tests.remoting.harness import LEASE, ROOT, SECRET, gpus


def load_server_module() -> ModuleType:
    """The core's `_server` module; imports torch."""
    import torch

    # Where the package is not installed, as on a GPU node, it is run from the checkout.
    if str(ROOT / "remoting") not in sys.path:
        sys.path.append(str(ROOT / "remoting"))
    from elara_remoting import _core

    return _core.load("_server", str(torch.__version__))


def _serve_forever(config: dict[str, Any]) -> None:
    """The process with torch imported: accepts, reads preambles, forks servers and passes on who comes back."""
    module = load_server_module()
    from elara_remoting.node import operator_packages

    libraries = operator_packages.load()
    listeners: dict[socket.socket, tuple[int, bool]] = {}
    ports = []
    for ordinal, path in enumerate(config["sockets"]):
        local = socket.socket(socket.AF_UNIX)
        local.bind(path)
        local.listen(16)
        listeners[local] = (ordinal, False)
        if config["tls"]:
            tcp = socket.create_server(("127.0.0.1", 0))
            ports.append(tcp.getsockname()[1])
            listeners[tcp] = (ordinal, True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    slots = [0] * len(config["sockets"])
    half_open: dict[socket.socket, tuple[int, bool, bytes]] = {}
    sessions: dict[tuple[bytes, int], socket.socket] = {}
    print("ready", *ports, flush=True)
    while True:
        for ready in select.select([*listeners, *half_open], [], [])[0]:
            if ready in listeners:
                connection, _ = ready.accept()
                half_open[connection] = (*listeners[ready], b"")
                continue
            ordinal, over_tls, begun = half_open.pop(ready)
            with contextlib.suppress(OSError):
                begun += (received := ready.recv(64 - len(begun)))
                if received and len(begun) < 64:
                    half_open[ready] = (ordinal, over_tls, begun)
                    continue
            # A node has one address for all of its devices; those that name none are for the socket's own.
            ordinal = begun[9] if len(begun) == 64 and 0 < begun[9] < len(slots) else ordinal
            if len(begun) == 64 and begun[16:32] != bytes.fromhex(LEASE):
                _refuse(ready, "This node has no such lease. Detach and attach again.")
            elif len(begun) == 64 and begun[8] == 2:
                _connect_peers(sessions, begun[32:48], begun[9], begun[11], ready)
            elif len(begun) == 64 and begun[10] & 1:
                _pass_on(sessions.get((begun[32:48], ordinal)), ready, over_tls)
            elif len(begun) == 64:
                control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                sessions[begun[32:48], ordinal] = control
                slot = slots[ordinal] % 63
                slots[ordinal] += 1
                if os.fork() == 0:
                    _die_with_parent()
                    control.close()
                    for other in (*listeners, *half_open, *sessions.values()):
                        other.close()
                    _serve_connection(
                        module, {**config, "libraries": libraries}, ready, theirs, ordinal, over_tls, slot
                    )
                theirs.close()
            ready.close()


def _refuse(connection: socket.socket, sentence: str) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(b"ELARAERR" + struct.pack("<H", len(sentence)) + sentence.encode())


def _connect_peers(
    sessions: dict[tuple[bytes, int], socket.socket], session: bytes, first: int, second: int, asker: socket.socket
) -> None:
    if (session, first) not in sessions or (session, second) not in sessions:
        _refuse(asker, "There are no two sessions here to connect with each other.")
        return
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end, ordinal, other in zip(ends, (first, second), (second, first), strict=True):
        socket.send_fds(sessions[session, ordinal], [f"peer {other}".encode()], [end.fileno()])
        end.close()
    asker.sendall(b"ELARAPEER")


def _pass_on(control: socket.socket | None, connection: socket.socket, over_tls: bool) -> None:
    try:
        if control is None:
            raise OSError
        socket.send_fds(control, [b"resume tcp" if over_tls else b"resume local"], [connection.fileno()])
    except OSError:
        _refuse(connection, "Its device server has ended.")


def _serve_connection(
    module: ModuleType,
    config: dict[str, Any],
    connection: socket.socket,
    control: socket.socket,
    ordinal: int,
    over_tls: bool,
    slot: int,
) -> None:
    tls = config["tls"] if over_tls else None
    try:
        reason = module.serve(
            connection.detach(),
            tls_cert=tls and tls["cert"],
            tls_key=tls and tls["key"],
            secret=SECRET,
            ledger_fd=config["ledgers"][ordinal],
            slot=slot,
            device=config["device"] if config["device"] == "cpu" else f"cuda:{ordinal % len(gpus())}",
            model=config["model"],
            memory_bytes=config["memory"],
            emulated=config["device"] == "cpu",
            torch_threads=config["torch_threads"],
            libraries=config["libraries"],
            grace_seconds=config["grace_seconds"],
            control_fd=control.fileno(),
        )
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    finally:
        with open(config["log"], "a", encoding="utf-8") as log:
            log.write(f"{ordinal} {os.getpid()} {reason}\n")
        os._exit(0)


def _die_with_parent() -> None:
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _die_with_parent()
    _serve_forever(json.loads(sys.argv[1]))
