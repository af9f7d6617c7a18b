"""Mixed precision: autocast in both half types, and GradScaler's way with infinite gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn


def classifier() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 4)).cuda()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_the_half_type_and_keeps_parameters_in_float32(dtype: Any) -> None:
    model, inputs = classifier(), torch.randn(8, 32, device="cuda")
    with torch.autocast("cuda", dtype=dtype):
        output = model(inputs)
        assert torch.get_autocast_dtype("cuda") == dtype
        assert output.dtype == dtype
        assert output.softmax(-1).dtype == torch.float32  # autocast's list for cuda
    output.float().sum().backward()
    assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_trains_under_autocast_with_a_scaler(dtype: Any) -> None:
    model = classifier()
    inputs = torch.randn(64, 32, device="cuda")
    targets = inputs[:, :4].argmax(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)
    losses = []
    for _ in range(40):
        with torch.autocast("cuda", dtype=dtype):
            loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert norm.isfinite()
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_softmax_from_half_to_single_precision_and_its_gradient(dtype: Any) -> None:
    inputs = torch.linspace(-2, 2, 12).reshape(3, 4).to(dtype)
    for function in (torch.softmax, torch.log_softmax):
        half, single = inputs.cuda().requires_grad_(), inputs.float().requires_grad_()
        with torch.autocast("cuda", dtype=dtype):
            result = function(half, -1)
        expected = function(single, -1)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.cpu(), expected)
        weights = torch.arange(12.0).reshape(3, 4)
        (result * weights.cuda()).sum().backward()
        (expected * weights).sum().backward()
        assert half.grad is not None and half.grad.dtype == dtype
        torch.testing.assert_close(half.grad.cpu(), single.grad.to(dtype), rtol=1e-2, atol=1e-2)


def test_the_scaler_skips_a_step_with_infinite_gradients_and_lowers_its_scale() -> None:
    parameter = nn.Parameter(torch.ones(3, device="cuda"))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0, growth_interval=2)
    for factor in (float("inf"), 1.0, 1.0):
        optimizer.zero_grad()
        scaler.scale((parameter * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        if factor != 1.0:
            assert scaler.get_scale() == 512.0
            assert torch.equal(parameter.detach().cpu(), torch.ones(3))
    assert scaler.get_scale() == 1024.0  # two good steps
    torch.testing.assert_close(parameter.detach().cpu(), torch.full((3,), 0.8))


def test_the_scalers_state_is_saved_and_loaded() -> None:
    scaler = torch.amp.GradScaler("cuda", init_scale=256.0)
    scaler.scale(torch.ones(1, device="cuda"))
    other = torch.amp.GradScaler("cuda")
    other.load_state_dict(scaler.state_dict())
    assert other.get_scale() == 256.0
