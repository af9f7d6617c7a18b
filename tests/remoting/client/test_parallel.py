"""A model over two attached devices by PyTorch's own `DataParallel`."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.remoting.client.conftest import Bench


@pytest.mark.filterwarnings("ignore:PyTorch is not compiled with NCCL support")
def test_data_parallel_gives_the_gradients_of_one_device(bench: Bench) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    inputs, target = torch.randn(10, 6), torch.randn(10, 3)
    expected = copy.deepcopy(model)
    nn.functional.mse_loss(expected(inputs), target).backward()
    spread = nn.DataParallel(model.cuda(), device_ids=[0, 1])
    output = spread(inputs.cuda())
    assert output.device == torch.device("cuda:0") and output.shape == (10, 3)
    nn.functional.mse_loss(output, target.cuda()).backward()
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad.cpu(), theirs.grad)
