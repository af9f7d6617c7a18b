"""Two devices in one program: copies, a model over both, threads, and the everyday surface of torch.cuda."""

from __future__ import annotations

import threading
from typing import Any

import numpy
import torch
from torch import nn


class Split(nn.Module):  # type: ignore[misc]
    """A model whose halves live on two devices."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.back = nn.Linear(8, 16).to("cuda:0"), nn.Linear(16, 1).to("cuda:1")

    def forward(self, inputs: Any) -> Any:
        return self.back(self.front(inputs.to("cuda:0")).relu().to("cuda:1"))


def test_copies_between_devices_carry_the_values() -> None:
    first = torch.arange(1000.0, device="cuda:0")
    second = (first * 2).to("cuda:1")
    assert second.device.index == 1 and second[-1].item() == 1998.0
    back = torch.empty(1000, device="cuda:0")
    back.copy_(second, non_blocking=True)
    assert torch.equal(back.cpu(), second.cpu())
    strided = torch.arange(24.0, device="cuda:0").reshape(4, 6).t()[::2]
    assert torch.equal(strided.to("cuda:1").cpu(), strided.cpu())


def test_a_model_over_two_devices_trains_as_on_one() -> None:
    def losses(split: bool) -> list[float]:
        torch.manual_seed(0)
        model: Any = Split() if split else nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
        device = "cuda:1" if split else "cpu"
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        inputs = torch.linspace(-1, 1, 64).reshape(8, 8)
        seen = []
        for _ in range(10):
            loss = (model(inputs).squeeze(1) - inputs.sum(1).to(device)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        return seen

    torch.testing.assert_close(losses(split=True), losses(split=False), rtol=1e-6, atol=0.0)


def test_threads_share_a_device() -> None:
    results: dict[int, float] = {}

    def work(number: int) -> None:
        tensor = torch.full((100,), float(number), device="cuda", requires_grad=True)
        for _ in range(50):
            loss = (tensor * tensor).sum()
            loss.backward()
            with torch.no_grad():
                tensor.grad = None
        results[number] = loss.item()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {number: 100.0 * number * number for number in range(4)}


def test_numbers_go_up_and_come_back_in_every_common_form() -> None:
    array = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
    tensor = torch.from_numpy(array).to("cuda")
    assert tensor.tolist() == array.tolist()
    assert numpy.array_equal(tensor.cpu().numpy(), array)
    assert torch.tensor([1, 2], device="cuda").dtype == torch.int64
    assert torch.as_tensor([True, False], device="cuda").tolist() == [True, False]
    assert float(torch.tensor(2.5, device="cuda")) == 2.5 and int(torch.tensor(3, device="cuda")) == 3
    assert bool(torch.tensor(True, device="cuda"))
    assert "device='cuda:0'" in repr(torch.zeros(2, device="cuda"))
    assert torch.cuda.FloatTensor([1.0, 2.0]).is_cuda
    assert torch.zeros(2).type("torch.cuda.FloatTensor").is_cuda
    assert f"{torch.tensor(1.5, device='cuda'):.2f}" == "1.50"


def test_the_default_device_can_be_the_remote_one() -> None:
    with torch.device("cuda"):
        assert torch.zeros(3).is_cuda and nn.Linear(2, 2).weight.is_cuda
    torch.set_default_device("cuda:1")
    try:
        assert torch.arange(3).device.index == 1
    finally:
        torch.set_default_device(None)
    assert not torch.zeros(1).is_cuda


def test_results_whose_size_depends_on_the_data() -> None:
    tensor = torch.tensor([3, 0, 5, 0, 3], device="cuda")
    assert tensor.nonzero().flatten().tolist() == [0, 2, 4]
    assert tensor[tensor > 0].tolist() == [3, 5, 3]
    assert tensor.unique().tolist() == [0, 3, 5]
    assert torch.masked_select(tensor, tensor == 3).tolist() == [3, 3]
    assert [part.tolist() for part in torch.where(tensor == 0)] == [[1, 3]]
    tensor[tensor == 0] = 9
    assert tensor.tolist() == [3, 9, 5, 9, 3]
    assert torch.bincount(tensor).tolist() == [0, 0, 0, 2, 0, 1, 0, 0, 0, 2]
    assert tensor[[0, 2]].tolist() == [3, 5] and tensor[torch.tensor([1])].tolist() == [9]


def test_function_transforms_and_compile_work_on_the_device() -> None:
    weight = torch.randn(3, device="cuda")
    per_sample = torch.func.vmap(torch.func.grad(lambda row: (row * weight).sum().sin()))(
        torch.randn(4, 3, device="cuda")
    )
    assert per_sample.shape == (4, 3) and per_sample.is_cuda
    compiled = torch.compile(lambda value: torch.nn.functional.gelu(value) * 2)
    value = torch.randn(8, device="cuda")
    torch.testing.assert_close(compiled(value), torch.nn.functional.gelu(value) * 2)


def test_flags_can_be_set_and_read() -> None:
    previous = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    assert torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = previous
    torch.backends.cudnn.benchmark = True
    assert torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        query = torch.randn(1, 2, 4, 8, device="cuda")
        assert nn.functional.scaled_dot_product_attention(query, query, query).shape == query.shape
    assert nn.Linear(2, 2).cuda()(torch.ones(1, 2, device="cuda")).is_cuda
