"""What goes wrong around a program: an interrupted backward, a full disk or memory, a long cut in a large upload."""

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
from torch import nn

from tests.remoting.client.conftest import Bench
from tests.remoting.harness import DeviceServers
from tests.remoting.proxy import FaultyProxy

Run = Callable[..., subprocess.CompletedProcess[str]]
MEGABYTE = 1 << 20
CUT_SECONDS = float(os.environ.get("ELARA_TEST_CUT_SECONDS", "3"))
"""For how long the large upload is cut off: less than the grace of 60 s."""


class Remembering(torch.autograd.Function):  # type: ignore[misc]
    """Its backward waits for the device, as one with a data-dependent shape does, and says that it has begun."""

    begun = threading.Event()

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> torch.Tensor:
        Remembering.begun.set()
        for _ in range(40):
            grad = (grad @ grad).clamp(-1, 1)
        grad.sum().item()
        return grad


def test_ctrl_c_in_a_backward_leaves_the_session_sound(bench: Bench) -> None:
    weight = torch.eye(400, device="cuda", requires_grad=True)
    kept = torch.arange(4.0, device="cuda")
    torch.cuda.synchronize()
    Remembering.begun.clear()

    def interrupt() -> None:
        assert Remembering.begun.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(3):
            Remembering.apply(weight).sum().backward()
        time.sleep(60)  # where the signal only comes when it is over, as with a GPU of one's own
    thread.join()
    assert kept.tolist() == [0.0, 1.0, 2.0, 3.0]
    model = nn.Linear(4, 2).cuda()
    model(torch.ones(3, 4, device="cuda")).sum().backward()
    assert model.weight.grad is not None and torch.equal(model.weight.grad.cpu(), torch.full((2, 4), 3.0))


def test_a_full_disk_is_an_error_of_the_save_and_of_nothing_else(bench: Bench, tmp_path: Path) -> None:
    values = torch.arange(1_000_000, device="cuda")
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises((OSError, RuntimeError)):
        torch.save(values, full)
    torch.save(values, tmp_path / "values.pt")
    assert torch.equal(torch.load(tmp_path / "values.pt", map_location="cpu"), values.cpu())


FULL_MEMORY = """
import resource, torch
there = torch.ones(300 << 20, dtype=torch.uint8, device="cuda")
host = torch.ones(100 << 20, dtype=torch.uint8)
torch.cuda.synchronize()
held = next(line for line in open("/proc/self/status") if line.startswith("VmData"))
limit = (int(held.split()[1]) << 10) + (24 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    there.cpu()
except (RuntimeError, MemoryError) as error:
    print("download:", type(error).__name__)
print(there[:5].sum().item(), (there[:3] + 1).tolist())
try:
    for _ in range(4):
        there[: 100 << 20].copy_(host)
    torch.cuda.synchronize()
    print("upload: fits")
except (RuntimeError, MemoryError) as error:
    print("upload:", "no memory left" in str(error) or "alloc" in str(error) or str(error))
"""


def test_a_client_without_memory_gets_an_error_and_never_hangs(run_script: Run, tmp_path: Path) -> None:
    # A device of its own: what a client that could not say goodbye held there is kept for a while.
    with DeviceServers(tmp_path):
        done = run_script(FULL_MEMORY, ELARA_RUNTIME_DIR=str(tmp_path), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] in ("download: RuntimeError", "download: MemoryError")
    assert lines[1] == "5 [2, 2, 2]"
    # What a replay would need either fits, or the session is over with a sentence that says so.
    assert lines[2] in ("upload: fits", "upload: True")


def test_a_node_without_memory_says_so_and_serves_on(bench: Bench) -> None:
    kept = torch.ones(1000, device="cuda")
    (server,) = set(bench.servers.running()) - set(bench.before)
    held = next(line for line in Path(f"/proc/{server}/status").read_text().splitlines() if line.startswith("VmData"))
    limit = (int(held.split()[1]) << 10) + 64 * MEGABYTE
    # As confinement does: past this the kernel gives the process no more, whatever the lease's cap says.
    subprocess.run(["prlimit", f"--data={limit}:{limit}", "--pid", str(server)], check=True)
    with pytest.raises(torch.OutOfMemoryError):
        large = torch.empty(200 * MEGABYTE, dtype=torch.uint8, device="cuda")
        large.fill_(1)
        torch.cuda.synchronize()
    assert kept.sum().item() == 1000.0
    assert (kept + 1).sum().item() == 2000.0


def sums(values: torch.Tensor) -> torch.Tensor:
    """The sum of each row, without a copy of them all in a wider type."""
    return torch.cat([part.sum(1, dtype=torch.int64) for part in values.split(32)])


@pytest.mark.timeout(300 + CUT_SECONDS)
def test_a_cut_of_seconds_in_the_midst_of_an_upload_of_a_gigabyte(bench: Bench, tmp_path: Path) -> None:
    value = torch.randint(0, 256, (MEGABYTE,), dtype=torch.uint8) + torch.arange(1024).to(torch.uint8)[:, None]
    expected = sums(value)
    with (
        DeviceServers(tmp_path, memory=3 << 30) as servers,
        FaultyProxy(servers.sockets[0], tmp_path / "proxy.sock") as proxy,
    ):
        bench.epoch += 1
        servers.attach(epoch=bench.epoch, through={0: proxy.address})
        (tmp_path / "attachment").replace(bench.servers.folder / "attachment")
        assert torch.cuda.device_count() == 1
        there = torch.zeros(1024, MEGABYTE, dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()

        def cut_off() -> None:
            while proxy.passed["up"] < 400 * MEGABYTE:
                time.sleep(0.005)
            proxy.refuse()
            time.sleep(CUT_SECONDS)
            proxy.admit()

        thread = threading.Thread(target=cut_off)
        thread.start()
        began = time.monotonic()
        there.copy_(value)
        took = time.monotonic() - began
        thread.join()
        assert took > CUT_SECONDS
        assert torch.equal(sums(there).cpu(), expected)
        assert torch.equal(there[::511].cpu(), value[::511])
        bench.detach()
