"""Makes an ordinary PyTorch process one whose "cuda" devices are those of the attachment."""

from __future__ import annotations

import atexit
import os

import torch

from elara_remoting import _core

DEFAULT_GUARDS = 8
_taken = False


def take_over(runtime_dir: str) -> None:
    """Install the C++ core and what `torch.cuda` needs of Python. Once a process; later calls do nothing.

    Raises:
        elara_remoting._core.CoreNotBuilt: there is no core for the installed PyTorch.
    """
    global _taken
    if _taken:
        return
    _core.load("_client", str(torch.__version__))
    # These bind to the compiled module when they are imported, so not before it is known to load.
    from elara_remoting import _client
    from elara_remoting.client import (
        comm,
        compilation,
        cuda_module,
        flags,
        legacy_types,
        sharing,
        storage,
    )

    _client.install(runtime_dir, guard_count())
    # A device server keeps the session of a client that went away without a word, in case it comes back.
    atexit.register(_client.leave)
    cuda_module.install()
    storage.install()
    flags.install()
    compilation.install()
    comm.install()
    legacy_types.install()
    sharing.install()
    _taken = True


def guard_count() -> int:
    """How many devices an attachment may ever have here (`ELARA_MAX_DEVICES`, default 8).

    PyTorch's autograd engine makes one idle thread a device at the first `backward()` and never more, so the number is
    fixed before anything is attached.
    """
    text = os.environ.get("ELARA_MAX_DEVICES", "")
    return min(max(int(text), 1), 64) if text.isdigit() else DEFAULT_GUARDS
