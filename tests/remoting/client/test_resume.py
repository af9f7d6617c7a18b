"""A connection that breaks: the session goes on where it was, or ends with a sentence that says why."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.remoting.client.conftest import Bench
from tests.remoting.harness import DeviceServers
from tests.remoting.proxy import FaultyProxy

MEGABYTE = 1 << 20


class Doubtful:
    """A device behind a proxy, attached anew for each use."""

    def __init__(self, bench: Bench, folder: Path, tls: bool) -> None:
        self.bench, self.tls = bench, tls
        servers = bench.servers
        self.proxy = (
            FaultyProxy(("127.0.0.1", servers.ports[0]))
            if tls
            else FaultyProxy(servers.sockets[0], folder / "proxy.sock")
        )
        self.attach()

    def attach(self) -> None:
        """A session of its own; the proxy behaves again."""
        self.bench.epoch += 1
        self.bench.servers.attach(
            epoch=self.bench.epoch, devices=1, local=not self.tls, through={0: self.proxy.address}
        )
        assert torch.cuda.device_count() == 1


@pytest.fixture(params=["local", "tls"])
def doubtful(request: pytest.FixtureRequest, bench: Bench, tmp_path: Path) -> Iterator[Doubtful]:
    """A device that is reached through a proxy, over a local socket and over TLS."""
    made = Doubtful(bench, tmp_path, request.param == "tls")
    with made.proxy:
        yield made


def losses(device: str, steps: int = 6) -> list[float]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 8))
    inputs, targets = torch.randn(32, 64), torch.randint(0, 8, (32,))
    model, inputs, targets = model.to(device), inputs.to(device), targets.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    up=st.lists(st.integers(1, 60_000), max_size=4),
    down=st.lists(st.integers(1, 700), max_size=4),
)
def test_wherever_it_is_cut_training_gives_the_losses_of_an_uninterrupted_run(
    doubtful: Doubtful, up: list[int], down: list[int]
) -> None:
    doubtful.attach()
    torch.ones(1, device="cuda").item()  # the opening is not part of the session
    doubtful.proxy.cut_after("up", *up)
    doubtful.proxy.cut_after("down", *down)
    assert losses("cuda") == losses("cpu")
    doubtful.proxy._cuts["up"].clear()
    doubtful.proxy._cuts["down"].clear()


def test_transfers_survive_cuts_in_their_midst(doubtful: Doubtful) -> None:
    value = torch.randint(0, 256, (96 * MEGABYTE,), dtype=torch.uint8)
    doubtful.proxy.cut_after("up", 7 * MEGABYTE + 13, 40 * MEGABYTE, 1, 2)
    there = value.to("cuda")
    torch.cuda.synchronize()
    doubtful.proxy.cut_after("down", 5 * MEGABYTE + 3, 50 * MEGABYTE, 9)
    back = there.cpu()
    assert doubtful.proxy.cuts_made == 7
    assert torch.equal(back, value)


def test_an_upload_may_be_changed_as_soon_as_it_returns(doubtful: Doubtful) -> None:
    device = torch.empty(24 * MEGABYTE, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    doubtful.proxy.refuse()
    value = torch.full((24 * MEGABYTE,), 7, dtype=torch.uint8)
    device.copy_(value)  # fits into the replay window
    value.fill_(9)
    doubtful.proxy.admit()
    assert device.min().item() == 7 and device.max().item() == 7


def test_work_goes_on_while_the_connection_is_away_and_is_done_once(doubtful: Doubtful) -> None:
    counter = torch.zeros(1, dtype=torch.int64, device="cuda")
    torch.cuda.synchronize()
    doubtful.proxy.refuse()
    threading.Timer(1.5, doubtful.proxy.admit).start()
    for _ in range(2000):
        counter += 1
    assert counter.item() == 2000


def test_what_is_kept_for_a_replay_is_bounded_and_pushes_back(doubtful: Doubtful) -> None:
    device = torch.empty(200 * MEGABYTE, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    doubtful.proxy.refuse()
    done = threading.Event()

    def upload() -> None:
        device.copy_(torch.ones(200 * MEGABYTE, dtype=torch.uint8))
        done.set()

    before = resident()
    thread = threading.Thread(target=upload)
    thread.start()
    assert not done.wait(1.5)
    # The source's own pages, the window of 64 MiB, and what the allocators round up.
    assert resident() - before < (200 + 64 + 40) * MEGABYTE
    doubtful.proxy.admit()
    assert done.wait(60)
    thread.join()
    assert device.min().item() == 1


def test_a_stalled_connection_goes_on_when_it_moves_again(doubtful: Doubtful) -> None:
    value = torch.arange(1000.0, device="cuda")
    torch.cuda.synchronize()
    doubtful.proxy.stall()
    threading.Timer(1.0, doubtful.proxy.resume).start()
    assert (value * 2).sum().item() == 999_000.0


def test_a_slow_link_makes_progress(doubtful: Doubtful) -> None:
    torch.ones(1, device="cuda").item()
    doubtful.proxy.rate = 125_000  # 1 Mbit/s
    value = torch.randint(0, 256, (150_000,), dtype=torch.uint8)
    assert torch.equal(value.cuda().cpu(), value)


def test_eight_threads_survive_a_cut(doubtful: Doubtful) -> None:
    results: dict[int, bool] = {}

    def work(number: int) -> None:
        value = torch.full((MEGABYTE,), number, dtype=torch.int32)
        same = True
        for _ in range(4):
            same = same and torch.equal((value.cuda() + 1).cpu(), value + 1)
        results[number] = same

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    doubtful.proxy.cut_after("up", 9 * MEGABYTE, 20 * MEGABYTE)
    doubtful.proxy.cut_after("down", 11 * MEGABYTE, 25 * MEGABYTE)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert results == dict.fromkeys(range(8), True)


@pytest.mark.parametrize("what", ["upload", "download", "wait"])
def test_ctrl_c_leaves_the_session_sound(doubtful: Doubtful, what: str) -> None:
    kept = torch.arange(4.0, device="cuda")
    large = torch.ones(64 * MEGABYTE, dtype=torch.uint8)
    there = large.cuda()
    torch.cuda.synchronize()
    doubtful.proxy.stall()
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    began = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(3):  # 64 MiB may be copied before an upload waits
            if what == "upload":
                there.copy_(large)
            elif what == "download":
                there.cpu()
            else:
                kept.sum().item()
    assert time.monotonic() - began < 10
    timer.join()
    doubtful.proxy.resume()
    assert kept.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert torch.equal(there.cpu(), large)
    assert torch.equal((large + 1).cuda().cpu(), large + 1)


@pytest.fixture
def other(bench: Bench, tmp_path: Path) -> Iterator[tuple[DeviceServers, FaultyProxy]]:
    """Device servers of their own behind a proxy, which wait only two seconds for a lost connection."""
    with (
        DeviceServers(tmp_path, grace_seconds=2) as servers,
        FaultyProxy(servers.sockets[0], tmp_path / "proxy.sock") as proxy,
    ):
        bench.epoch += 1
        servers.attach(epoch=bench.epoch, through={0: proxy.address})
        (tmp_path / "attachment").replace(bench.servers.folder / "attachment")
        assert torch.cuda.device_count() == 1
        yield servers, proxy


def assert_lost(tensor: Any, reason: str) -> None:
    """The loss is told within two seconds at the next call, and the same at every later one."""
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(
            RuntimeError, match=rf"cuda:0 \(emulated \(CPU\)\) is gone\. .*{reason}.*attach a GPU again"
        ):
            tensor.sum().item()
        assert time.monotonic() - began < 2
    with pytest.raises(RuntimeError, match="is gone"):
        torch.ones(1, device="cuda")


def test_past_the_grace_the_session_is_lost_and_its_memory_free(
    bench: Bench, other: tuple[DeviceServers, FaultyProxy]
) -> None:
    servers, proxy = other
    tensor = torch.ones(1000, device="cuda")
    torch.cuda.synchronize()
    proxy.refuse()
    with pytest.raises(RuntimeError, match="could not be restored within 2 s"):
        tensor.sum().item()
    assert_lost(tensor, "could not be restored within 2 s")
    (ended,) = servers.wait_ended(1)
    assert "did not come back within 2 s" in ended.reason
    assert servers.ledger_words()[2] == 0
    proxy.admit()
    assert_lost(tensor, "could not be restored within 2 s")
    bench.attach()
    assert losses("cuda", 2) == losses("cpu", 2)


def test_a_killed_device_server_is_told_from_a_cut(bench: Bench, other: tuple[DeviceServers, FaultyProxy]) -> None:
    servers, proxy = other
    tensor = torch.ones(1000, device="cuda")
    torch.cuda.synchronize()
    (pid,) = servers.running()
    os.kill(pid, signal.SIGKILL)
    assert_lost(tensor, "Its device server has ended")
    assert proxy.connections == 2
    bench.attach()
    assert losses("cuda", 2) == losses("cpu", 2)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_of_one_session_is_no_other_ones(bench: Bench, number: int) -> None:
    bench.attach(2)
    before = set(bench.servers.running())
    first = torch.ones(10, device="cuda:0")
    first.sum().item()
    (kept,) = set(bench.servers.running()) - before
    second = torch.ones(10, device="cuda:1")
    second.sum().item()
    (crashing,) = set(bench.servers.running()) - before - {kept}
    os.kill(crashing, number)
    with pytest.raises(RuntimeError, match=r"cuda:1 \(emulated \(CPU\)\) is gone"):
        second.sum().item()
    assert first.sum().item() == 10.0
    assert losses("cuda:0", 2) == losses("cpu", 2)


def test_running_out_of_memory_in_one_process_leaves_another_alone(bench: Bench, run_script: Any) -> None:
    kept = torch.ones(1000, device="cuda")
    script = """
import torch
try:
    hoard = [torch.zeros(70 << 20, dtype=torch.uint8, device="cuda") for _ in range(100)]
except torch.OutOfMemoryError as error:
    print("full")
hoard = None
print(torch.ones(10, device="cuda").sum().item())
"""
    done = run_script(script, ELARA_RUNTIME_DIR=str(bench.servers.folder))
    assert done.stdout == "full\n10.0\n", done.stderr
    assert kept.sum().item() == 1000.0


def test_a_device_server_that_stands_still_is_given_up(bench: Bench, other: tuple[DeviceServers, FaultyProxy]) -> None:
    servers, _ = other
    tensor = torch.ones(1000, device="cuda")
    torch.cuda.synchronize()
    (pid,) = servers.running()
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="could not be restored within 2 s"):
        tensor.sum().item()
    assert time.monotonic() - began < 15
    assert_lost(tensor, "could not be restored within 2 s")


def test_a_process_that_ends_leaves_nothing_behind(bench: Bench, run_script: Any) -> None:
    torch.ones(1, device="cuda").item()
    before = set(bench.servers.running())
    known = {ended.pid for ended in bench.servers.ended()}
    done = run_script(
        "import torch; kept = torch.ones(10, device='cuda'); torch.cuda.synchronize()",
        ELARA_RUNTIME_DIR=str(bench.servers.folder),
    )
    assert (done.returncode, done.stderr) == (0, "")
    deadline = time.monotonic() + 3
    while set(bench.servers.running()) - before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # A session of an earlier test, whose client is being waited for, may end in the meantime.
    assert "goodbye" in [ended.reason for ended in bench.servers.ended() if ended.pid not in known | before]


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
