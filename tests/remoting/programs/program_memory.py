"""What a program asks a device about itself: its name, its memory, what is used of it."""

from __future__ import annotations

import gc
import re

import pytest
import torch

MIB = 1 << 20


def test_devices_tell_what_they_are() -> None:
    assert torch.cuda.is_available() and torch.cuda.is_initialized() in (True, False)
    assert torch.cuda.device_count() == 2
    assert re.search(r"emulated.*\(CPU\)", torch.cuda.get_device_name(0))
    properties = torch.cuda.get_device_properties(0)
    assert properties.total_memory == 2048 * MIB and properties.name == torch.cuda.get_device_name()
    assert torch.cuda.get_device_capability() == (properties.major, properties.minor)
    assert torch.cuda.can_device_access_peer(0, 1) in (True, False)
    assert torch.cuda.is_bf16_supported()
    assert torch.accelerator.is_available() and torch.accelerator.current_accelerator() == torch.device("cuda")
    assert torch.accelerator.device_count() == 2


def test_memory_is_counted_and_given_back() -> None:
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    tensor = torch.zeros(64 * MIB, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before >= 64 * MIB
    free, total = torch.cuda.mem_get_info()
    assert total == 2048 * MIB and free <= total - 64 * MIB
    del tensor
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < MIB
    assert torch.cuda.max_memory_allocated() - before >= 64 * MIB
    torch.cuda.empty_cache()
    assert torch.cuda.mem_get_info()[0] > free
    summary = torch.cuda.memory_summary()
    assert "Allocated memory" in summary and "Peak Usage" in summary
    # The peak of 64 MiB, whose unit is torch's choice.
    (peak,) = re.findall(r"Allocated memory *\|[^|]*\| *(\d+) (?:KiB|MiB) *\|", summary)
    assert int(peak) in range(64, 200) or int(peak) >= 64 << 10
    assert torch.cuda.memory_stats()["allocated_bytes.all.peak"] >= 64 * MIB


def test_torch_accelerator_knows_the_same_of_memory() -> None:
    tensor = torch.zeros(8 * MIB, dtype=torch.uint8, device="cuda")
    torch.accelerator.empty_cache()
    assert torch.accelerator.memory_allocated() == torch.cuda.memory_allocated() >= tensor.nbytes
    assert torch.accelerator.memory_reserved() >= torch.accelerator.memory_allocated()
    torch.accelerator.reset_accumulated_memory_stats()
    del tensor
    torch.accelerator.reset_peak_memory_stats()
    assert torch.accelerator.max_memory_allocated() == torch.accelerator.memory_allocated()
    assert torch.accelerator.get_memory_info()[1] == 2048 * MIB


def test_out_of_memory_is_torchs_error_names_the_numbers_and_work_goes_on() -> None:
    kept = torch.ones(4, device="cuda")
    with pytest.raises(torch.OutOfMemoryError, match=r"(?i)out of memory.*GiB"):
        torch.zeros(3 * 1024 * MIB, dtype=torch.uint8, device="cuda").cpu()
    assert kept.sum().item() == 4.0
    smaller = torch.zeros(512 * MIB, dtype=torch.uint8, device="cuda")
    smaller += 1
    assert smaller[-1].item() == 1


def test_memory_of_an_operators_result_counts_too() -> None:
    half = torch.empty(1200 * MIB, dtype=torch.uint8, device="cuda")
    with pytest.raises(torch.OutOfMemoryError):
        (half + half).cpu()
    del half
    assert torch.ones(2, device="cuda").sum().item() == 2.0


def test_a_loop_that_allocates_and_frees_does_not_grow() -> None:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(200):
        torch.randn(MIB // 4, device="cuda").relu().sum()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < MIB
