"""Checks `gpu-node` or `hub` from inside, as its user; prints one JSON object a check. Argument: the image's name."""

import json
import os
import shutil
import subprocess
import sys
import time

NAME = sys.argv[1]
UIDS = {"gpu-node": 1100, "hub": 1200}
TRAIN = """
import torch
weights = torch.zeros(4, 1, device="cuda", requires_grad=True)
loss = ((torch.ones(8, 4, device="cuda") @ weights - 1) ** 2).mean()
loss.backward()
print(torch.cuda.device_count(), weights.grad.abs().sum().item() > 0)
"""


def need(truth: object, message: str) -> None:
    if not truth:
        raise AssertionError(message)


def said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    need(done.returncode == 0, f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout.strip()


def user() -> None:
    """A user of its own, and a root that cannot be written."""
    need(os.getuid() == UIDS[NAME], f"runs as {os.getuid()}")
    need(not os.access("/opt/elara", os.W_OK), "/opt/elara can be written")
    for compiler in ("cc", "c++", "gcc", "g++", "clang", "ld"):
        need(shutil.which(compiler) is None, f"{shutil.which(compiler)} is in the image")


def computing() -> None:
    """A device server starts here, and a program trains on its device."""
    command = ("elara", "run", "--local", "1", "--device-memory", "256MiB", "--", "python", "-c", TRAIN)
    need(said(*command) == "1 True", "the step on the device gave no gradient")


def parts() -> None:
    """Every part that this image is started as is there, and loads."""
    for code in ("import elara_hub.app", "import elara_hub.tracking.server", "import elara_spawner"):
        said("python", "-c", code)
    for command in (("jupyterhub", "--version"), ("configurable-http-proxy", "--version"), ("elara", "--help")):
        said(*command)
    need(shutil.which("iptables") is not None, "iptables is missing")


for check in (user, computing if NAME == "gpu-node" else parts):
    begun, ok, message = time.monotonic(), True, ""
    try:
        check()
    except Exception as error:
        ok, message = False, f"{error}" if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    told = {"check": check.__name__, "what": check.__doc__, "ok": ok, "message": message}
    print(json.dumps({**told, "seconds": round(time.monotonic() - begun, 1)}), flush=True)
