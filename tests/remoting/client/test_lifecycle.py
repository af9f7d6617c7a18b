"""Attach, detach and attach again under a process that lives on."""

from __future__ import annotations

import gc
import os
import signal
import time

import pytest
import torch
from torch import nn

from tests.remoting.client.conftest import Bench
from tests.remoting.harness import DeviceServers


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor) -> float:
    optimizer.zero_grad()
    loss = model(inputs).square().mean()
    loss.backward()
    optimizer.step()
    return float(loss.item())


def test_a_model_trained_on_the_cpu_moves_to_a_device_attached_later(bench: Bench) -> None:
    bench.detach()
    assert not torch.cuda.is_available()
    model, inputs = nn.Linear(8, 4), torch.randn(16, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = train_step(model, optimizer, inputs)
    bench.attach(1)
    assert torch.cuda.is_available() and torch.cuda.device_count() == 1
    model.cuda()
    second = train_step(model, optimizer, inputs.cuda())
    assert second < first and model.weight.grad is not None and model.weight.grad.is_cuda


def test_device_count_is_true_at_once_in_every_way_of_asking(bench: Bench) -> None:
    for count in (3, 1, 2):
        bench.attach(count)
        assert torch.cuda.device_count() == count
        assert torch.accelerator.device_count() == count
        assert torch.cuda.is_available() and torch.accelerator.is_available()
    bench.detach()
    assert torch.cuda.device_count() == 0
    assert not torch.cuda.is_available() and not torch.accelerator.is_available()


def test_after_a_detach_every_use_says_so_and_why(bench: Bench) -> None:
    tensor = torch.ones(3, device="cuda")
    bench.detach("idle for 30 minutes")
    for use in (lambda: tensor + 1, lambda: tensor.cpu(), lambda: repr(tensor), lambda: tensor.fill_(2)):
        with pytest.raises(RuntimeError, match=r"GPU was detached \(idle for 30 minutes\).*attach a GPU again"):
            use()
    for use in (lambda: torch.ones(2, device="cuda"), torch.cuda.synchronize, lambda: nn.Linear(2, 2).cuda()):
        with pytest.raises(RuntimeError, match=r"No CUDA GPUs are available: the GPU was detached \(idle"):
            use()
    assert (torch.ones(2) + 1).tolist() == [2.0, 2.0]


def test_tensors_of_an_earlier_attachment_raise_while_new_ones_work(bench: Bench) -> None:
    old = torch.ones(3, device="cuda")
    bench.attach(1)
    new = torch.ones(3, device="cuda")
    assert (new + 1).tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(RuntimeError, match="belongs to an earlier attachment"):
        old + 1
    with pytest.raises(RuntimeError, match="belongs to an earlier attachment"):
        new + old


def test_an_attachment_that_is_extended_keeps_its_tensors(bench: Bench) -> None:
    tensor = torch.ones(3, device="cuda")
    bench.servers.attach(epoch=bench.epoch, devices=2)  # the file is replaced, the epoch is not
    assert torch.cuda.device_count() == 2
    assert tensor.sum().item() == 3.0


def test_a_file_that_is_garbage_or_gone_means_no_devices(bench: Bench) -> None:
    attachment = bench.servers.folder / "attachment"
    attachment.write_text("elara-attachment 1\nepoch nine\n", encoding="utf-8")
    assert torch.cuda.device_count() == 0
    attachment.unlink()
    assert torch.cuda.device_count() == 0
    with pytest.raises(RuntimeError, match="none is attached to this workspace"):
        torch.ones(1, device="cuda")


def test_a_lost_device_raises_the_same_sentence_until_the_next_attachment(bench: Bench) -> None:
    folder = bench.servers.folder / "other"
    folder.mkdir(exist_ok=True)
    with DeviceServers(folder) as doomed:
        text = (folder / "attachment").read_text(encoding="utf-8")
        bench.epoch += 1
        replacement = bench.servers.folder / "attachment.new"
        replacement.write_text(text.replace("epoch 1\n", f"epoch {bench.epoch}\n"), encoding="utf-8")
        replacement.replace(bench.servers.folder / "attachment")
        assert torch.cuda.device_count() == 1
        tensor = torch.ones(3, device="cuda")
        assert tensor.sum().item() == 3.0
        assert doomed._process is not None
        os.killpg(doomed._process.pid, signal.SIGKILL)
        doomed._process.wait()
        for _ in range(3):
            with pytest.raises(RuntimeError, match=r"cuda:0 \(.*\) is gone\..*attach a GPU again"):
                torch.cuda.synchronize()
                (tensor + 1).cpu()
        with pytest.raises(RuntimeError, match="is gone"):
            torch.ones(1, device="cuda")
    bench.attach()
    assert torch.ones(3, device="cuda").sum().item() == 3.0


def test_a_node_that_is_not_there_is_named_and_tried_again(bench: Bench) -> None:
    path = bench.servers.sockets[0]
    hidden = path.with_suffix(".hidden")
    path.rename(hidden)
    try:
        bench.attach(1)
        with pytest.raises(RuntimeError, match=r"cannot open a session on cuda:0.*"):
            torch.ones(1, device="cuda")
    finally:
        hidden.rename(path)
    assert torch.ones(1, device="cuda").item() == 1.0


def test_a_detach_ends_the_sessions_of_this_process(bench: Bench) -> None:
    before = len(bench.servers.ended())
    torch.ones(1, device="cuda:0").item()
    torch.ones(1, device="cuda:1").item()
    bench.detach()
    torch.cuda.is_available()
    bench.servers.wait_ended(before + 2)


def wait_sessions(count: int, seconds: float = 20) -> None:
    """Until no more than `count` session objects are left: the flusher takes leave of their servers on its own time."""
    from elara_remoting import _client

    deadline = time.monotonic() + seconds
    while (left := _client.sessions()) > count:
        assert time.monotonic() < deadline, f"{left} sessions are left; there should be {count}"
        time.sleep(0.01)


def test_an_ended_session_is_kept_for_what_points_at_it_and_no_longer(bench: Bench) -> None:
    from elara_remoting import _client

    bench.detach()
    gc.collect()  # what tests before this one left in circles
    wait_sessions(0)
    bench.attach(1)
    tensor, event, generator = torch.ones(3, device="cuda"), torch.cuda.Event(), torch.Generator("cuda")
    event.record()
    torch.rand(2, device="cuda", generator=generator)
    for _ in range(3):
        bench.attach(2)
        with torch.cuda.device(1):
            assert torch.rand(4, device="cuda").to("cuda:0").sum().item() > 0
    bench.detach()
    wait_sessions(1)
    with pytest.raises(RuntimeError, match="belongs to an earlier attachment"):
        tensor + 1
    del tensor
    assert _client.sessions() == 1
    with pytest.raises(RuntimeError, match="belongs to an earlier attachment"):
        event.synchronize()
    del event
    assert _client.sessions() == 0
