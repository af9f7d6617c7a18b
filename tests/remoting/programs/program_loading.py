"""DataLoader: pinned memory, worker processes made by fork and by spawn, copies that do not wait."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset


class Squares(Dataset):  # type: ignore[misc]
    """i -> (i, i squared), as a user's dataset computes in its workers."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        value = torch.tensor(float(index), requires_grad=True)
        return value.detach(), value.detach() ** 2


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("pinned", [False, True])
def test_batches_reach_the_device(workers: int, pinned: bool) -> None:
    torch.ones(1, device="cuda").add(1).cpu()  # the session is open before the workers are forked
    loader = DataLoader(Squares(), batch_size=8, num_workers=workers, pin_memory=pinned)
    total = torch.zeros((), device="cuda")
    for values, squares in loader:
        assert values.is_pinned() == pinned
        on_device = values.to("cuda", non_blocking=True)
        assert torch.equal(on_device * on_device, squares.cuda(non_blocking=True))
        total += on_device.sum()
    assert total.item() == sum(range(50))


def test_batches_of_workers_made_by_spawn_reach_the_device() -> None:
    torch.ones(1, device="cuda").add(1).cpu()
    loader = DataLoader(Squares(), batch_size=10, num_workers=2, multiprocessing_context="spawn", pin_memory=True)
    total = torch.zeros((), device="cuda")
    for values, squares in loader:
        assert torch.equal(values.cuda(non_blocking=True).square().cpu(), squares)
        total += values.cuda().sum()
    assert total.item() == sum(range(50))


def test_workers_that_persist_serve_several_epochs() -> None:
    loader = DataLoader(Squares(), batch_size=10, num_workers=2, persistent_workers=True, pin_memory=True)
    for _ in range(3):
        assert sum(values.cuda().sum().item() for values, _ in loader) == sum(range(50))


def test_a_pinned_tensor_can_be_filled_again_as_soon_as_the_copy_was_asked_for_and_waited_for() -> None:
    buffer = torch.empty(1 << 20).pin_memory()
    assert buffer.is_pinned() and not torch.empty(4).is_pinned()
    copies = []
    for value in range(8):
        buffer.fill_(value)
        copies.append(buffer.to("cuda", non_blocking=True))
        torch.cuda.synchronize()
    assert [copied[-1].item() for copied in copies] == list(range(8))


def test_results_come_back_into_pinned_memory() -> None:
    target = torch.empty(1000, pin_memory=True)
    target.copy_(torch.arange(1000.0, device="cuda"), non_blocking=True)
    torch.cuda.synchronize()
    assert torch.equal(target, torch.arange(1000.0))


def test_shuffling_with_a_generator_of_its_own_is_the_same_every_time() -> None:
    data = TensorDataset(torch.arange(20))
    orders = []
    for _ in range(2):
        loader = DataLoader(data, batch_size=20, shuffle=True, generator=torch.Generator().manual_seed(3))
        orders.append(next(iter(loader))[0].cuda().tolist())
    assert orders[0] == orders[1] and sorted(orders[0]) == list(range(20))


def test_a_forked_child_that_touches_the_device_gets_torchs_own_sentence_and_the_parent_goes_on() -> None:
    tensor = torch.ones(2, device="cuda")
    tensor.add_(1).cpu()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.ones(1, device="cuda").cpu()
            sentence = "no error"
        except RuntimeError as error:
            sentence = str(error)
        os.write(write, sentence.encode())
        sys.stdout.flush()
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        sentence = stream.read()
    os.waitpid(child, 0)
    assert "Cannot re-initialize CUDA in forked subprocess" in sentence
    assert tensor.tolist() == [2.0, 2.0]
