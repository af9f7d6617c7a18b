"""What `torch.cuda` says of the memory's pools and of the driver's readings, which there are not."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from tests.remoting.client.conftest import MEMORY, Bench


def test_a_memory_pool_is_accepted_and_changes_nothing(bench: Bench) -> None:
    pool, other = torch.cuda.MemPool(), torch.cuda.MemPool(use_on_oom=True)
    before = torch.cuda.memory_allocated()
    with torch.cuda.use_mem_pool(pool):
        tensor = torch.ones(1024, device="cuda")
    assert torch.cuda.memory_allocated() == before + 4096
    assert tensor.sum().item() == 1024.0
    assert pool.id != other.id and pool.snapshot() == []
    with pytest.raises(RuntimeError, match="a custom CUDA allocator cannot be used"):
        torch.cuda.MemPool(object())


READINGS: list[Callable[[], object]] = [
    torch.cuda.utilization,
    torch.cuda.memory_usage,
    torch.cuda.temperature,
    torch.cuda.power_draw,
    torch.cuda.clock_rate,
]


@pytest.mark.parametrize("read", READINGS, ids=lambda read: str(read.__name__))
def test_a_reading_of_the_driver_is_a_sentence(bench: Bench, read: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match=r"not known of an attached GPU.*torch\.cuda\.mem_get_info\(\)"):
        read()


def test_memory_in_use_is_that_under_the_cap_of_the_attachment(bench: Bench) -> None:
    tensor = torch.ones(1 << 20, device="cuda:1")
    assert torch.cuda.device_memory_used(1) == MEMORY - torch.cuda.mem_get_info(1)[0] >= 4 << 20
    told = torch.cuda.list_gpu_processes("cuda:1").splitlines()
    assert told[0] == "GPU:1" and len(told) == 2
    assert told[1].split()[:2] == ["process", str(os.getpid())] and float(told[1].split()[3]) >= 4.0
    del tensor
