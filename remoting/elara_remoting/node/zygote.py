"""The zygote: a process with torch imported and the core loaded, which forks a device server for each session.

`python -m elara_remoting.node.zygote FD`: FD is one end of a seqpacket socketpair whose other end the agent holds. Each
packet is one JSON line, with file descriptors beside it:

- to the agent: `ready {torch, warm_seconds}` or `broken {message}`, once
- from the agent: `spawn {}` with one descriptor, the new device server's end of its control socket. A control socket
  that closes without a word means that there never was a process.

On its control socket a device server reports `started {pid}`, then waits (one is always kept waiting, so that a session
finds it without a fork) for `serve {...the arguments of serve}` with two or three descriptors, the session's
connection, the ledger and, for a client on this machine, a pidfd of its process, and at its end reports
`ended {reason}`. Meanwhile the core takes further connections from it (`resume local`, `resume tcp`, each with a
descriptor).

A device server is made by two forks, so that it becomes a child of the agent (a subreaper) and not of the zygote: it
outlives a zygote that dies, and the kernel kills it together with an agent that dies, however that happened.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import elara_remoting
from elara_remoting.node import operator_packages, process
from elara_remoting.node.confine import confine

MAX_PACKET = 65536
_EXIT_FAILED = 70
_MEMORY_BESIDES = 2 << 30
"""What a device server may hold besides its lease's memory: messages, code that kernels generate, thread stacks."""
_TASKS_BESIDES = 64


def main(arguments: list[str]) -> None:
    agent = os.getppid()
    process.die_with_parent(agent)
    channel = socket.socket(fileno=int(arguments[0]))
    # Ctrl-C in the terminal is for the agent, which then ends the zygote in order.
    os.setsid()
    started = time.monotonic()
    try:
        import torch

        serve = partial(load_serve(torch.__version__), libraries=operator_packages.load())
    except Exception as error:
        _send(channel, {"type": "broken", "message": f"{type(error).__name__}: {error}"})
        return
    # What lives now stays for good: the collector of a child need not touch (and so copy) its pages.
    gc.collect()
    gc.freeze()
    _send(channel, {"type": "ready", "torch": torch.__version__, "warm_seconds": round(time.monotonic() - started, 3)})
    _serve_requests(channel, serve, torch, agent)


def core_folder(torch_version: str) -> Path:
    """Where the core for this torch lies. The folder need not exist."""
    minor = "_".join(torch_version.split(".")[:2])
    return Path(__file__).resolve().parent.parent / "_core" / f"torch_{minor}"


def load_serve(torch_version: str) -> Callable[..., str]:
    """The core's `serve`.

    Raises:
        ImportError: there is no core for this torch; the text says what to do.
    """
    folder = core_folder(torch_version)
    found = sorted(folder.glob("_server*.so"))
    if not found:
        raise ImportError(
            f"the remoting core is not built for torch {torch_version} ({folder} is missing it); "
            "build it with: pip install --no-build-isolation -e remoting"
        )
    spec = importlib.util.spec_from_file_location("_server", found[0])
    if spec is None or spec.loader is None:
        raise ImportError(f"{found[0]} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    serve: Callable[..., str] = module.serve
    return serve


def _serve_requests(channel: socket.socket, serve: Callable[..., str], torch: ModuleType, agent: int) -> None:
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, MAX_PACKET, 4)
        if not data:
            return  # the agent is gone
        try:
            middle = os.fork()
            if middle == 0:
                try:
                    between = os.getpid()
                    if os.fork() == 0:
                        _become_server(serve, torch, agent, between, descriptors[0])
                finally:
                    os._exit(0)
            os.waitpid(middle, 0)
        except OSError as error:
            # The agent sees the control socket close without a word, and refuses the session.
            process.complain(f"zygote: no process could be started: {error}")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _become_server(serve: Callable[..., str], torch: ModuleType, agent: int, between: int, control_fd: int) -> NoReturn:
    """The life of a device server: give up everything but its control socket, wait for a session, serve it, end."""
    status = _EXIT_FAILED
    control = socket.socket(fileno=control_fd)
    try:
        # Once the process between has ended the agent is the parent, or has ended too.
        while os.getppid() == between:
            time.sleep(0.0005)
        process.die_with_parent(agent)
        os.setsid()
        process.close_all_but({0, 1, 2, control_fd})
        process.renounce()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _send(control, {"type": "started", "pid": os.getpid()})
        data, descriptors, _, _ = socket.recv_fds(control, MAX_PACKET, 3)
        if not data:
            os._exit(0)  # the agent wants none any more
        request = json.loads(data)
        connection, ledger, *client = descriptors
        _give_up_rights(request, torch, agent)
        if not request["emulated"]:
            # The one GPU of the lease and no other, by a name that does not depend on the driver's order of them.
            os.environ["CUDA_VISIBLE_DEVICES"] = request["visible"]
        torch.set_num_threads(int(request["torch_threads"]))
        beside = ("type", "uid", "own_user", "visible")
        options = {key: value for key, value in request.items() if key not in beside}
        options["secret"] = bytes.fromhex(options["secret"])
        reason = serve(
            connection,
            ledger_fd=ledger,
            control_fd=control.fileno(),
            client_pidfd=client[0] if client else -1,
            **options,
        )
        _send(control, {"type": "ended", "reason": reason})
        status = 0
    except BaseException as error:
        with suppress(OSError):
            _send(control, {"type": "ended", "reason": f"{type(error).__name__}: {error}"[:1000]})
    finally:
        # Not sys.exit: what the zygote registered to run at exit is not the child's to run.
        os._exit(status)


def _give_up_rights(request: dict[str, Any], torch: ModuleType, agent: int) -> None:
    """Keep what this one session needs: its connection and ledger, the libraries, its part of the machine."""
    emulated, threads = bool(request["emulated"]), int(request["torch_threads"])
    # The status of this process is no longer readable to itself once it is another user's.
    memory = int(request["memory_bytes"]) * 5 // 4 + _MEMORY_BESIDES if emulated else None
    process.limit_use(memory_bytes=memory, tasks=4 * threads + _TASKS_BESIDES if request["own_user"] else None)
    if emulated:
        confine([Path(module.__file__).resolve().parent for module in (elara_remoting, torch) if module.__file__])
    if request["uid"] is not None:
        # The files of GPUs may belong to a group.
        groups = set() if emulated else {file.stat().st_gid for file in Path("/dev").glob("nvidia*")} - {0}
        process.become(int(request["uid"]), sorted(groups), agent)


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    channel.send(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
