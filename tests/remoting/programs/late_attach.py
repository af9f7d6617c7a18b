"""A kernel that imported torch and trained on its CPU gets a device, loses it, and gets another: no restart."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.remoting.harness import DeviceServers


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(os.environ["ELARA_RUNTIME_DIR"])


@pytest.fixture(scope="module")
def kernel() -> dict[str, Any]:
    """The variables of a notebook, made before any device was there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    return {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=3e-3),
        "images": torch.randn(64, 1, 8, 8),
        "labels": torch.randint(10, (64,)),
        "losses": [],
    }


@pytest.fixture(scope="module")
def servers(folder: Path, kernel: dict[str, Any]) -> Iterator[DeviceServers]:
    train(kernel, "cpu", 3)  # so that backward() has run before anything is attached
    assert not torch.cuda.is_available()
    with DeviceServers(folder, devices=2, memory=1 << 30) as running:
        yield running


def move(kernel: dict[str, Any], device: str) -> None:
    """Model and optimizer state to `device`, as the example notebook does it."""
    kernel["model"].to(device)
    kernel["optimizer"].load_state_dict(kernel["optimizer"].state_dict())


def train(kernel: dict[str, Any], device: str, steps: int) -> None:
    move(kernel, device)
    model, optimizer = kernel["model"], kernel["optimizer"]
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(kernel["images"].to(device)), kernel["labels"].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        kernel["losses"].append(loss.item())


def wait_for_devices(count: int) -> None:
    """The attachment is noticed without the program's help, within a moment."""
    deadline = time.monotonic() + 10
    while torch.cuda.device_count() != count:
        assert time.monotonic() < deadline, f"{torch.cuda.device_count()} devices instead of {count}"
        time.sleep(0.01)


def test_the_same_variables_train_on_after_a_late_attach(servers: DeviceServers, kernel: dict[str, Any]) -> None:
    wait_for_devices(2)
    assert torch.cuda.is_available()
    train(kernel, "cuda", 20)
    losses = kernel["losses"]
    assert next(kernel["model"].parameters()).is_cuda
    assert losses[3] < losses[0] and losses[-1] < losses[0] / 2


def test_the_training_is_that_of_the_cpu(servers: DeviceServers, kernel: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    alone = {**kernel, "model": model, "optimizer": torch.optim.AdamW(model.parameters(), lr=3e-3), "losses": []}
    train(alone, "cpu", 23)
    assert alone["losses"] == pytest.approx(kernel["losses"], rel=1e-5)


def test_after_a_detach_tensors_raise_a_sentence_and_the_cpu_goes_on(
    servers: DeviceServers, kernel: dict[str, Any]
) -> None:
    move(kernel, "cpu")
    left_behind = torch.ones(3, device="cuda")
    left_behind.add_(1).cpu()
    servers.detach(epoch=2, reason="you handed it back")
    wait_for_devices(0)
    assert not torch.cuda.is_available()
    for use in (left_behind.cpu, lambda: (left_behind + 1).cpu(), left_behind.tolist):
        with pytest.raises(RuntimeError, match=r"(?i)detach|handed it back|attach"):
            use()
    with pytest.raises(RuntimeError):
        torch.ones(1, device="cuda")
    repr(torch.ones(2))
    train(kernel, "cpu", 3)
    kernel["left behind"] = left_behind


def test_another_attachment_with_another_number_of_devices(servers: DeviceServers, kernel: dict[str, Any]) -> None:
    servers.attach(epoch=3, devices=1)
    wait_for_devices(1)
    train(kernel, "cuda", 5)
    with pytest.raises(RuntimeError, match=r"(?i)earlier|attach|detach"):
        kernel["left behind"].cpu()
    with pytest.raises(RuntimeError):
        torch.ones(1, device="cuda:1")
    kernel.pop("left behind")
    gc.collect()
    assert torch.ones(2, device="cuda").sum().item() == 2.0


def test_and_again(servers: DeviceServers, kernel: dict[str, Any]) -> None:
    for epoch in range(4, 10, 2):
        move(kernel, "cpu")
        servers.detach(epoch=epoch)
        wait_for_devices(0)
        servers.attach(epoch=epoch + 1)
        wait_for_devices(2)
        before = len(kernel["losses"])
        train(kernel, f"cuda:{epoch % 4 // 2}", 2)
        assert len(kernel["losses"]) == before + 2
