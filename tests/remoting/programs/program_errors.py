"""A mistake gets the error that PyTorch's users know, with the operator's name in it, and the program goes on."""

from __future__ import annotations

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def the_device_works_afterwards():  # type: ignore[no-untyped-def]
    yield
    assert torch.ones(3, device="cuda").sum().item() == 3.0


@pytest.mark.parametrize(
    "use",
    [
        lambda: torch.ones(1, device="cuda:7"),
        lambda: torch.ones(1).to("cuda:7"),
        lambda: torch.cuda.set_device(7),
        lambda: torch.cuda.get_device_name(7),
        lambda: torch.ones(1, device="cuda").to("cuda:2"),
    ],
)
def test_a_device_that_is_not_there_is_an_error_and_not_device_0(use) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((RuntimeError, AssertionError), match=r"(?i)invalid device|device"):
        use()


def test_shapes_that_do_not_fit_name_the_operator() -> None:
    with pytest.raises(RuntimeError, match=r"(?i)mat1 and mat2 shapes cannot be multiplied \(2x3 and 4x5\)"):
        (torch.ones(2, 3, device="cuda") @ torch.ones(4, 5, device="cuda")).cpu()
    with pytest.raises(RuntimeError, match=r"The size of tensor a"):
        (torch.ones(2, device="cuda") + torch.ones(3, device="cuda")).cpu()
    with pytest.raises(RuntimeError, match=r"(?i)conv"):
        nn.Conv2d(3, 4, 3).cuda()(torch.ones(1, 2, 8, 8, device="cuda")).cpu()
    with pytest.raises(RuntimeError, match=r"view size is not compatible|shape"):
        torch.ones(6, device="cuda").view(4)


def test_tensors_of_different_devices_do_not_mix() -> None:
    with pytest.raises(RuntimeError, match=r"Expected all tensors to be on the same device"):
        (torch.ones(2, device="cuda") + torch.ones(2)).cpu()
    with pytest.raises(RuntimeError, match=r"Expected all tensors to be on the same device"):
        (torch.ones(2, device="cuda:0") + torch.ones(2, device="cuda:1")).cpu()
    with pytest.raises(RuntimeError, match=r"(?i)same device|is on cpu|cpu"):
        nn.Linear(2, 2).cuda()(torch.ones(1, 2))
    assert (torch.ones(2, device="cuda") + torch.tensor(1.0)).tolist() == [2.0, 2.0]


def test_an_index_out_of_range_is_an_index_error() -> None:
    table = torch.ones(3, 2, device="cuda")
    with pytest.raises(IndexError):
        table[5]
    with pytest.raises((IndexError, RuntimeError), match=r"(?i)index|range"):
        table[torch.tensor([0, 9], device="cuda")].cpu()
    with pytest.raises((IndexError, RuntimeError), match=r"(?i)index|range"):
        nn.Embedding(3, 2).cuda()(torch.tensor([7], device="cuda")).cpu()
    with pytest.raises((IndexError, RuntimeError), match=r"(?i)target|range|bounds"):
        nn.functional.cross_entropy(torch.ones(1, 3, device="cuda"), torch.tensor([5], device="cuda")).item()


def test_a_late_error_says_which_operator_failed() -> None:
    with pytest.raises(torch.linalg.LinAlgError, match=r"linalg"):
        torch.linalg.inv(torch.zeros(2, 2, device="cuda")).cpu()
    with pytest.raises(torch.linalg.LinAlgError, match=r"cholesky"):
        torch.linalg.cholesky(-torch.eye(2, device="cuda")).cpu()
    with pytest.raises(RuntimeError, match=r"multinomial|probability"):
        torch.multinomial(torch.tensor([-1.0, 2.0], device="cuda"), 1).cpu()


def test_an_error_is_raised_once_and_not_again() -> None:
    with pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.inv(torch.zeros(2, 2, device="cuda")).cpu()
    assert torch.linalg.inv(torch.eye(2, device="cuda")).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_what_needs_a_host_tensor_says_so() -> None:
    tensor = torch.ones(2, device="cuda")
    with pytest.raises(TypeError, match=r"can't convert cuda:0 device type tensor to numpy"):
        tensor.numpy()
    with pytest.raises(RuntimeError, match=r"a Tensor with 2 elements cannot be converted to Scalar"):
        tensor.item()
    with pytest.raises((RuntimeError, BufferError, TypeError, ValueError)):
        torch.utils.dlpack.to_dlpack(tensor)
    with pytest.raises((RuntimeError, AttributeError, TypeError)):
        _ = tensor.__cuda_array_interface__


def test_autograds_own_errors_are_as_ever() -> None:
    weight = torch.ones(2, device="cuda", requires_grad=True)
    loss = (weight * 2).sum().exp()
    loss.backward()
    with pytest.raises(RuntimeError, match=r"backward through the graph a second time"):
        loss.backward()
    with pytest.raises(RuntimeError, match=r"a leaf Variable that requires grad"):
        weight.add_(1)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation"):
        hidden = weight.exp()
        hidden_sum = (hidden * hidden).sum()
        hidden.add_(1)
        hidden_sum.backward()


def test_a_float_where_an_index_belongs_is_refused() -> None:
    with pytest.raises((IndexError, RuntimeError, TypeError)):
        torch.ones(3, device="cuda")[torch.tensor([0.5], device="cuda")].cpu()
    with pytest.raises(RuntimeError, match=r"Expected tensor for argument #1 'indices'|indices|Long"):
        nn.Embedding(3, 2).cuda()(torch.tensor([0.5], device="cuda")).cpu()
