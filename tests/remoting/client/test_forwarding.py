"""What is sent, when a call waits, and what becomes of memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.remoting.client.conftest import MEMORY, Bench
from tests.remoting.harness import ON_CUDA


def counters(ordinal: int = 0) -> dict[str, int]:
    from elara_remoting import _client

    return _client.counters(ordinal)


def test_a_training_step_waits_for_nothing(bench: Bench) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    images, labels = torch.randn(8, 1, 8, 8).cuda(), torch.randint(0, 5, (8,)).cuda()

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    for _ in range(3):
        step()
    before = counters()
    for _ in range(5):
        step()
    after = counters()
    assert after["executed"] > before["executed"]
    assert after["requests"] == before["requests"]
    assert after["templates"] == before["templates"]


def test_values_are_no_part_of_a_template(bench: Bench) -> None:
    tensor = torch.ones(7, device="cuda")
    (tensor * 0.5).add_(1.5)
    before = counters()["templates"]
    results = [(tensor * factor).add_(1.5) for factor in (0.25, 3.0, -1.0)]
    assert counters()["templates"] == before
    assert [result[0].item() for result in results] == [1.75, 4.5, 0.5]


def test_templates_are_bounded_and_forgotten_ones_are_learned_again(bench: Bench) -> None:
    from elara_remoting import _client

    _client.set_template_bound(16)
    try:
        for length in [*range(1, 60), 3, 30]:
            assert (torch.ones(length, device="cuda") + 1).sum().item() == 2.0 * length
        # Adds, fills and sums each have their own cache.
        assert _client.server_stats(0)["templates"] < 59
    finally:
        _client.set_template_bound(4096)


def test_memory_is_given_back_when_a_tensor_goes(bench: Bench) -> None:
    from elara_remoting import _client

    torch.cuda.synchronize()
    base = torch.cuda.memory_allocated()
    tensor = torch.ones(1 << 20, device="cuda")
    assert torch.cuda.memory_allocated() - base == 4 << 20
    assert torch.cuda.max_memory_allocated() >= 4 << 20
    del tensor
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == base
    assert _client.server_stats(0)["used"] == base


def test_too_much_memory_is_torchs_own_error_at_the_call_itself(bench: Bench) -> None:
    kept = torch.ones(MEMORY // 8, device="cuda")  # half of the cap
    uses: list[Callable[[], object]] = [
        lambda: torch.empty(MEMORY // 2, device="cuda"),
        lambda: torch.cat([kept, kept, kept]),
    ]
    for use in uses:
        with pytest.raises(torch.OutOfMemoryError, match=r"CUDA out of memory\. Tried to allocate"):
            use()
    assert kept.sum().item() == MEMORY // 8
    free, total = torch.cuda.mem_get_info()
    # A GPU's libraries keep workspaces, which count.
    assert total == MEMORY and 0 <= MEMORY // 2 - free <= (64 << 20 if ON_CUDA else 0)


def test_eight_threads_share_a_device(bench: Bench) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for turn in range(20):
                tensor = torch.full((16, 16), float(seed), device="cuda")
                assert (tensor @ torch.eye(16, device="cuda") + turn).mean().item() == seed + turn
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int16, torch.bool, torch.complex64])
def test_copies_keep_every_bit_whatever_the_layout(bench: Bench, dtype: torch.dtype) -> None:
    host = (torch.randn(6, 4, 5) * 3).to(dtype)
    views: list[Any] = [
        host,
        host.t() if host.dim() == 2 else host.transpose(0, 2),
        host[1:, ::2],
        host.expand(6, 4, 5),
    ]
    for view in views:
        there = view.cuda()
        assert torch.equal(there.cpu(), view)
        assert torch.equal(there.transpose(0, 1).cpu(), view.transpose(0, 1))
        assert there.to("cuda:1").device.index == 1 and torch.equal(there.to("cuda:1").cpu(), view)
    target = torch.zeros(6, 4, 5, device="cuda")
    if not dtype.is_complex:
        target.copy_(host)
        assert torch.equal(target.cpu(), host.float())


def test_lazy_conjugates_and_negatives_arrive_as_values(bench: Bench) -> None:
    host = torch.randn(5, dtype=torch.complex64)
    there = host.cuda()
    assert torch.equal(there.conj().cpu(), host.conj().resolve_conj())
    assert torch.equal(there.conj().imag.cpu(), host.conj().imag.resolve_neg())
    torch.testing.assert_close(torch.fft.ifft(torch.fft.fft(there)).cpu(), host)


def test_adding_nothing_to_chosen_rows_changes_nothing(bench: Bench) -> None:
    # What an expert of a mixture does that got no token in a step.
    rows = torch.ones(4, 3, device="cuda", requires_grad=True)
    nothing = torch.empty(0, 3, device="cuda", requires_grad=True)
    total = rows.index_add(0, torch.empty(0, dtype=torch.long, device="cuda"), nothing).sum()
    total.backward()
    assert total.item() == 12
    assert torch.equal(rows.grad.cpu(), torch.ones(4, 3)) and nothing.grad.shape == (0, 3)
    with pytest.raises(IndexError):
        rows.sum(2)


@pytest.mark.skipif(ON_CUDA, reason="a GPU takes other kernels than the CPU")
@pytest.mark.parametrize(
    ("heads", "of_keys", "size", "dtype"),
    [(4, 4, 8, torch.float64), (4, 4, 5, torch.float32), (4, 4, 8, torch.float32), (4, 2, 8, torch.float32)],
    ids=["double precision", "odd heads", "groups of one", "groups of two"],
)
def test_gradients_of_attention_lie_in_memory_as_natively(
    bench: Bench, heads: int, of_keys: int, size: int, dtype: torch.dtype
) -> None:
    shapes = ((2, heads, 3, size), (2, of_keys, 6, size), (2, of_keys, 6, size))
    here = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    there = [tensor.detach().cuda().requires_grad_() for tensor in here]

    def gradients(tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        result = nn.functional.scaled_dot_product_attention(*tensors, enable_gqa=True)
        return torch.autograd.grad(result.square().sum(), tensors)

    for ours, theirs in zip(gradients(here), gradients(there), strict=True):
        assert theirs.stride() == ours.stride()
        torch.testing.assert_close(theirs.cpu(), ours)


def test_what_is_not_there_is_refused_in_one_sentence(bench: Bench) -> None:
    tensor = torch.ones(2, device="cuda")
    with pytest.raises(RuntimeError, match="CUDA graphs are not supported on an attached GPU"):
        torch.cuda.CUDAGraph()
    with pytest.raises(BufferError, match=r"copy the tensor with \.cpu\(\) first"):
        torch.utils.dlpack.to_dlpack(tensor)
    assert not hasattr(tensor, "__cuda_array_interface__")
    with pytest.raises(NotImplementedError, match="not supported for sparse tensors on an attached GPU; use a dense"):
        torch.sparse.softmax(tensor.to_sparse(), 0)
