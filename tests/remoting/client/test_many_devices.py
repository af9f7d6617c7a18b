"""cuda:0 to cuda:7 of one lease in one program."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import pytest
import torch
from torch import nn

from tests.remoting.client.conftest import Bench

STAGES = 8


class Pipeline(nn.Module):  # type: ignore[misc]
    """A network cut into stages, each on the device of its number, or all on the CPU."""

    def __init__(self, devices: list[str]) -> None:
        super().__init__()
        self.devices = devices
        self.stages = nn.ModuleList(nn.Linear(16, 16) for _ in devices)
        for stage, device in zip(self.stages, devices, strict=True):
            stage.to(device)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for stage, device in zip(self.stages, self.devices, strict=True):
            values = torch.tanh(stage(values.to(device)))
        return values


def losses(devices: list[str]) -> list[float]:
    torch.manual_seed(0)
    model = Pipeline(devices)
    inputs, targets = torch.randn(32, 16), torch.randn(32, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    seen = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = (model(inputs) - targets.to(devices[-1])).square().mean()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen


@pytest.mark.parametrize("stages", [2, STAGES])
def test_a_model_over_several_devices_trains_to_native_losses(bench: Bench, stages: int) -> None:
    bench.attach(STAGES)
    assert losses([f"cuda:{number}" for number in range(stages)]) == losses(["cpu"] * stages)


def test_a_seed_holds_for_devices_that_are_used_only_later(bench: Bench) -> None:
    bench.attach(STAGES)
    torch.manual_seed(7)
    first = [torch.rand(3, device=f"cuda:{number}").tolist() for number in range(STAGES)]
    bench.attach(STAGES)
    torch.manual_seed(7)
    assert [torch.rand(3, device=f"cuda:{number}").tolist() for number in reversed(range(STAGES))] == first[::-1]
    assert len({tuple(values) for values in first}) == 1


def test_a_wrong_index_raises_torchs_error_and_harms_nothing(bench: Bench) -> None:
    bench.attach(3)
    uses = (
        lambda: torch.ones(1, device="cuda:3"),
        lambda: torch.ones(1).to("cuda:7"),
        lambda: torch.ones(1, device="cuda:0").to("cuda:3"),
        lambda: torch.cuda.set_device(3),
        lambda: torch.cuda.synchronize(5),
    )
    for use in uses:
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            use()
    assert torch.ones(1, device="cuda:2").item() == 1.0
    assert torch.cuda.current_device() == 0


def test_copies_between_devices_are_in_the_order_of_both(bench: Bench) -> None:
    bench.attach(STAGES)
    values = torch.zeros(1000, device="cuda:0")
    for number in range(1, 40):
        values.add_(1)
        there = values.to(f"cuda:{number % STAGES or 1}", non_blocking=True)
        values.mul_(2)
        values = (there * 1).to("cuda:0", non_blocking=True)
    assert values.unique().tolist() == [39.0]


def test_the_bytes_of_a_copy_between_devices_do_not_pass_the_client(bench: Bench) -> None:
    from elara_remoting import _client

    bench.attach(2)
    first = torch.arange(16 << 20, dtype=torch.int32, device="cuda:0")
    first.to("cuda:1")
    torch.cuda.synchronize(1)
    before = _client.counters(0), _client.counters(1)
    second = first.to("cuda:1")
    third = second.t().to("cuda:0")
    torch.cuda.synchronize(0)
    torch.cuda.synchronize(1)
    after = _client.counters(0), _client.counters(1)
    assert sum(now["bytes_sent"] - then["bytes_sent"] for now, then in zip(after, before, strict=True)) < 2000
    assert torch.equal(third.cpu(), first.cpu())


def test_a_failure_before_a_copy_is_told_on_both_devices(bench: Bench) -> None:
    bench.attach(2)
    values = torch.zeros(3, 1, device="cuda:0")

    def look(row: int) -> torch.Tensor:
        return nn.functional.embedding(torch.tensor([row], device="cuda:0"), values)

    look(0).to("cuda:1")
    torch.cuda.synchronize(0)
    there = look(7).to("cuda:1")
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
        torch.cuda.synchronize(0)
    with pytest.raises(RuntimeError, match="copy between this device and cuda:0 failed"):
        torch.cuda.synchronize(1)
    assert there.device.index == 1
    assert (values.to("cuda:1") + 1).sum().item() == 3.0


def test_a_killed_device_ends_copies_to_it_and_no_others(bench: Bench) -> None:
    bench.attach(3)
    before = set(bench.servers.running())
    values = torch.ones(1 << 20, device="cuda:0")
    torch.cuda.synchronize(0)
    known = set(bench.servers.running())
    values.to("cuda:1")
    torch.cuda.synchronize(1)
    (doomed,) = set(bench.servers.running()) - known
    assert known - before
    os.kill(doomed, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"cuda:1 .*is gone|copy between this device and cuda:1 failed"):
        for _ in range(50):
            values.to("cuda:1")
            torch.cuda.synchronize(0)
    with contextlib.suppress(RuntimeError):
        torch.cuda.synchronize(0)  # what was on its way may have failed there too
    assert values.to("cuda:2").sum().item() == 1 << 20


def test_eight_threads_train_on_eight_devices(bench: Bench) -> None:
    bench.attach(STAGES)
    expected = losses(["cpu"])
    seen: dict[int, list[float]] = {}
    lock = threading.Lock()

    def work(number: int) -> None:
        # A seed is the process's: the models are made one after the other.
        device = f"cuda:{number}"
        with lock:
            torch.manual_seed(0)
            model, inputs, targets = Pipeline(["cpu"]), torch.randn(32, 16), torch.randn(32, 16)
        stage, inputs, targets = model.stages[0].to(device), inputs.to(device), targets.to(device)
        optimizer = torch.optim.AdamW(stage.parameters(), lr=1e-2)
        mine = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = (torch.tanh(stage(inputs)) - targets).square().mean()
            loss.backward()
            optimizer.step()
            mine.append(loss.item())
        seen[number] = mine

    threads = [threading.Thread(target=work, args=(number,)) for number in range(STAGES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert seen == dict.fromkeys(range(STAGES), expected)
