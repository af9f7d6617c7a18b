"""What the client does to the process it is in: imports, forks, interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.remoting.client.conftest import Bench

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_without_an_attachment_nothing_is_printed_and_there_are_no_devices(run_script: Run, tmp_path: Path) -> None:
    script = "import torch; print(torch.cuda.is_available(), torch.cuda.device_count(), torch.ones(2).tolist())"
    for variables in ({"ELARA_RUNTIME_DIR": str(tmp_path)}, {"ELARA_RUNTIME_DIR": ""}):
        done = run_script(script, **variables)
        assert (done.returncode, done.stdout, done.stderr) == (0, "False 0 [1.0, 1.0]\n", "")


def test_with_another_torch_there_is_one_warning_that_says_what_to_install(run_script: Run, tmp_path: Path) -> None:
    script = """
import importlib.abc, sys
class Pretend(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "elara_remoting.client.takeover":
            import torch
            torch.__version__ = "9.9.0"
        return None
sys.meta_path.insert(0, Pretend())
import torch
print(torch.cuda.is_available(), torch.ones(1).item())
"""
    done = run_script(script, ELARA_RUNTIME_DIR=str(tmp_path))
    assert done.returncode == 0 and done.stdout == "False 1.0\n"
    assert done.stderr.count("Warning") == 1
    assert "torch==2.13.*" in done.stderr and "torch 9.9.0 is installed" in done.stderr


def test_the_device_server_switch_leaves_torch_alone(run_script: Run, bench: Bench) -> None:
    done = run_script(
        "import torch; print(torch.cuda.is_available())",
        ELARA_RUNTIME_DIR=str(bench.servers.folder),
        ELARA_DISABLE="1",
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_gets_torchs_own_error_and_the_parent_goes_on(bench: Bench) -> None:
    tensor = torch.ones(3, device="cuda")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        uses: list[Callable[[], object]] = [lambda: torch.ones(1, device="cuda"), lambda: tensor + 1, tensor.cpu]
        for use in uses:
            try:
                use()
                said.append("nothing was raised")
            except RuntimeError as error:
                said.append(str(error).partition(".")[0])
        os.write(write, "\n".join(said).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as answers:
        assert set(answers.read().splitlines()) == {"Cannot re-initialize CUDA in forked subprocess"}
    assert tensor.sum().item() == 3.0


def test_ctrl_c_ends_a_wait_and_the_session_goes_on(bench: Bench) -> None:
    kept = torch.arange(4.0, device="cuda")
    large = torch.randn(1500, 1500, device="cuda")
    torch.cuda.synchronize()
    for _ in range(8):
        large = large @ large / 1500
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(100):
            large.sum().item()
            large = large @ large / 1500
    assert time.monotonic() - started < 20
    timer.join()
    assert kept.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert (kept + 1).cpu().tolist() == [1.0, 2.0, 3.0, 4.0]
