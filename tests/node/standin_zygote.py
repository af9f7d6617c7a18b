"""A zygote with the real life cycle and a `serve` that speaks a line protocol instead of tensors.

Lines: `pid`, `options`, `reserve N` (counts in the ledger as the core does), `stubborn` (ignores SIGTERM),
`env`, `status`, `try EXPRESSION`, `take` (answers, on both, what came with another connection), `crash`, `quit`.
"""

import contextlib
import ctypes
import json
import mmap
import os
import signal
import socket
import struct
import sys
import threading  # noqa: F401 - for `try`: what is not loaded yet may lie where the session's user cannot read
import types


def serve(fd, *, ledger_fd, slot, control_fd, client_pidfd, **options):
    ledger = mmap.mmap(ledger_fd, 0)

    def add(word, amount):
        (value,) = struct.unpack_from("<Q", ledger, 8 * word)
        struct.pack_into("<Q", ledger, 8 * word, value + amount)

    connection = socket.socket(fileno=fd)
    stream = connection.makefile("w")
    for line in connection.makefile("r"):
        command, *arguments = line.split()
        answer = "ok"
        if command == "pid":
            answer = str(os.getpid())
        elif command == "options":
            answer = json.dumps({key: value for key, value in options.items() if key != "secret"})
        elif command == "reserve":
            amount = int(arguments[0])
            add(2, amount)
            add(8 + 8 * slot, amount)
            add(8 + 8 * slot + 2, 1)
            add(8 + 8 * slot + 3, 1_000_000)
        elif command == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif command == "env":
            answer = json.dumps(dict(os.environ))
        elif command == "status":
            with open("/proc/self/status") as status:
                answer = json.dumps({row.partition(":")[0]: row.partition(":")[2].strip() for row in status})
        elif command == "try":
            try:
                answer = str(bool(eval(line[4:])) or "nothing")
            except (OSError, MemoryError) as error:
                answer = type(error).__name__
        elif command == "crash":
            ctypes.string_at(0)
        elif command == "take":
            control = socket.socket(fileno=os.dup(control_fd))
            data, descriptors, _, _ = socket.recv_fds(control, 100, 1)
            control.close()
            answer = f"{data.decode()}, client known: {client_pidfd >= 0}"
            taken = socket.socket(fileno=descriptors[0])
            with contextlib.suppress(BrokenPipeError):
                taken.sendall(answer.encode() + b"\n")
            taken.close()
        elif command == "quit":
            return "said goodbye"
        stream.write(answer + "\n")
        stream.flush()
    return "the client closed the connection"


if __name__ == "__main__":
    from elara_remoting.node import zygote

    # The life cycle is under test here, not torch: without its import the suite is quick.
    torch = types.ModuleType("torch")
    torch.__version__, torch.__file__ = "0.0.0", None
    torch.set_num_threads = lambda count: None
    sys.modules["torch"] = torch
    zygote.load_serve = lambda version: serve
    zygote.main(sys.argv[1:])
