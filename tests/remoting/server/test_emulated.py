"""Operators that only CUDA has kernels for, on an emulated device, against what torch computes by other ways."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.remoting.server.protocol import (
    NEW,
    NONE_ARGUMENT,
    UNDEFINED,
    Connection,
    at,
    boolean,
    dtype_argument,
    int_list,
    integer,
    real,
    tensor,
)

F32 = torch.float32


class Device:
    """Runs operators by teaching them, with tensors in and tensors out."""

    def __init__(self, session: Connection) -> None:
        self.session = session

    def run(self, name: str, *arguments: Any, overload: str = "") -> list[Any]:
        """Each argument is a tensor, None, or an encoded constant; each result a tensor, None or a value."""
        encoded, variables = [], b""
        for argument in arguments:
            if isinstance(argument, Tensor):
                encoded.append(tensor(argument.dtype, argument.shape))
                variables += at(self.session.upload(argument))
            else:
                encoded.append(NONE_ARGUMENT if argument is None else argument)
        storage, outputs = self.session.teach(f"aten::{name}", overload, encoded, variables)
        results: list[Any] = []
        for output in outputs:
            if output.kind == NEW:
                assert output.dtype is not None
                flat = self.session.download(storage, output.dtype, [output.nbytes // output.dtype.itemsize])
                results.append(flat.as_strided(output.sizes, output.strides))
                storage += 1
            else:
                results.append(None if output.kind == UNDEFINED else output.value)
        return results


@pytest.fixture
def device(session: Connection) -> Device:
    torch.manual_seed(0)
    return Device(session)


def test_lstm_cell_and_its_gradient(device: Device) -> None:
    cell = nn.LSTMCell(5, 4)
    x, hx, cx = torch.randn(3, 5), torch.randn(3, 4), torch.randn(3, 4, requires_grad=True)
    gates_in, gates_hidden = x @ cell.weight_ih.t(), hx @ cell.weight_hh.t()
    bias_in, bias_hidden = cell.bias_ih.detach(), cell.bias_hh.detach()
    want_hy, want_cy = cell(x, (hx, cx))
    hy, cy, workspace = device.run(
        "_thnn_fused_lstm_cell", gates_in.detach(), gates_hidden.detach(), cx.detach(), bias_in, bias_hidden
    )
    torch.testing.assert_close(hy, want_hy.detach())
    torch.testing.assert_close(cy, want_cy.detach())

    grad_hy, grad_cy = torch.randn(3, 4), torch.randn(3, 4)
    want = torch.autograd.grad((want_hy, want_cy), (cx, cell.bias_ih), (grad_hy, grad_cy))
    grad_gates, grad_cx, grad_bias = device.run(
        "_thnn_fused_lstm_cell_backward_impl", grad_hy, grad_cy, cx.detach(), cy, workspace, boolean(True)
    )
    torch.testing.assert_close(grad_cx, want[0])
    torch.testing.assert_close(grad_bias, want[1])
    torch.testing.assert_close(grad_gates.sum(0), want[1])
    only_cy = device.run(
        "_thnn_fused_lstm_cell_backward_impl", None, grad_cy, cx.detach(), cy, workspace, boolean(False)
    )
    assert only_cy[2] is None and only_cy[0].shape == (3, 16)


def test_gru_cell_and_its_gradient(device: Device) -> None:
    cell = nn.GRUCell(5, 4)
    x, hx = torch.randn(3, 5), torch.randn(3, 4, requires_grad=True)
    gates_in = (x @ cell.weight_ih.t()).detach()
    gates_hidden = (hx @ cell.weight_hh.t()).detach().requires_grad_()
    want = cell(x, hx)
    hy, workspace = device.run(
        "_thnn_fused_gru_cell",
        gates_in,
        gates_hidden.detach(),
        hx.detach(),
        cell.bias_ih.detach(),
        cell.bias_hh.detach(),
    )
    torch.testing.assert_close(hy, want.detach())
    grad = torch.randn(3, 4)
    want_hx, want_in, want_hidden = torch.autograd.grad(want, (hx, cell.bias_ih, cell.bias_hh), grad)
    _, grad_gates_hidden, grad_hx, grad_in, grad_hidden = device.run(
        "_thnn_fused_gru_cell_backward", grad, workspace, boolean(True)
    )
    # The gradient of hx that autograd gives also runs through the hidden gates.
    torch.testing.assert_close(grad_hx + grad_gates_hidden @ cell.weight_hh.detach(), want_hx)
    torch.testing.assert_close(grad_in, want_in)
    torch.testing.assert_close(grad_hidden, want_hidden)


@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm_and_its_gradient(device: Device, weighted: bool) -> None:
    x = torch.randn(4, 3, 6, requires_grad=True)
    weight = torch.randn(3, 6, requires_grad=True)
    given = weight if weighted else None
    want = torch.rms_norm(x, [3, 6], given, 1e-5)
    detached = given.detach() if given is not None else None
    out, rstd = device.run("_fused_rms_norm", x.detach(), int_list(3, 6), detached, real(1e-5))
    torch.testing.assert_close(out, want.detach())
    grad = torch.randn_like(x)
    want_grads = torch.autograd.grad(want, (x, weight) if weighted else (x,), grad)
    mask = b"\x0c" + struct.pack("<IBB", 2, 1, int(weighted))
    grads = device.run("_fused_rms_norm_backward", grad, x.detach(), int_list(3, 6), rstd, detached, mask)
    torch.testing.assert_close(grads[0], want_grads[0])
    if weighted:
        torch.testing.assert_close(grads[1], want_grads[1])
    else:
        assert grads[1] is None


def reference_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Output, gradients and the gradient of the output, by plain arithmetic."""
    inputs = [value.clone().requires_grad_() for value in (q, k, v, *([bias] if bias is not None else []))]
    scores = inputs[0] @ inputs[1].transpose(-2, -1) / q.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + inputs[3]
    if causal:
        scores = scores.masked_fill(torch.ones(q.shape[-2], k.shape[-2]).triu(1).bool(), float("-inf"))
    out = scores.softmax(-1) @ inputs[2]
    grad = torch.randn_like(out)
    return out.detach(), torch.autograd.grad(out, inputs, grad), grad


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_efficient_attention_and_its_gradient(device: Device, causal: bool, biased: bool) -> None:
    q, k, v = (torch.randn(2, 3, 5, 8) for _ in range(3))
    bias = torch.randn(2, 3, 5, 5) if biased else None
    want, want_grads, grad = reference_attention(q, k, v, bias, causal)
    flags = [boolean(True), real(0), boolean(causal), NONE_ARGUMENT]
    out, logsumexp, seed, offset = device.run("_scaled_dot_product_efficient_attention", q, k, v, bias, *flags)
    torch.testing.assert_close(out, want)
    mask = b"\x0c" + struct.pack("<IBBBB", 4, 1, 1, 1, int(biased))
    last = [real(0), mask, boolean(causal), NONE_ARGUMENT]
    no_bias = b"\x01"
    grads = device.run(
        "_scaled_dot_product_efficient_attention_backward",
        *(grad, q, k, v, bias if bias is not None else no_bias, out, logsumexp, seed, offset),
        *last,
    )
    for got, wanted in zip(grads, want_grads, strict=False):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_attention_with_dropout_drops_the_same_in_both_directions(device: Device) -> None:
    q, k = (torch.randn(1, 2, 6, 8) for _ in range(2))
    eye = torch.eye(6).expand(1, 2, 6, 6).contiguous()
    # With the identity for values the output is the weights after dropout themselves.
    flags = [boolean(True), real(0.5), boolean(False), NONE_ARGUMENT]
    q8, k8 = q[..., :6].contiguous(), k[..., :6].contiguous()
    weights, lse, seed, offset = device.run("_scaled_dot_product_efficient_attention", q8, k8, eye, None, *flags)
    dropped = weights == 0
    assert dropped.any() and not dropped.all()
    plain = (q8 @ k8.transpose(-2, -1) / 6**0.5).softmax(-1)
    torch.testing.assert_close(weights, torch.where(dropped, 0.0, plain * 2))
    mask = b"\x0c" + struct.pack("<IBBBB", 4, 1, 1, 1, 0)
    grad = torch.randn(1, 2, 6, 6)
    _, _, grad_v, _ = device.run(
        "_scaled_dot_product_efficient_attention_backward",
        *(grad, q8, k8, eye, b"\x01", weights, lse, seed, offset, real(0.5), mask, boolean(False), NONE_ARGUMENT),
    )
    torch.testing.assert_close(grad_v, weights.transpose(-2, -1) @ grad)


def test_flash_attention_and_its_gradient(device: Device) -> None:
    q, k, v = (torch.randn(2, 3, 5, 8) for _ in range(3))
    want, want_grads, grad = reference_attention(q, k, v, None, True)
    flags = [real(0), boolean(True), boolean(False), NONE_ARGUMENT]
    out, logsumexp, _, _, _, _, seed, offset, _ = device.run("_scaled_dot_product_flash_attention", q, k, v, *flags)
    torch.testing.assert_close(out, want)
    undefined = b"\x01"
    last = [integer(5), integer(5), real(0), boolean(True), seed, offset, NONE_ARGUMENT]
    tensors = (grad, q, k, v, out, logsumexp, undefined, undefined)
    grads = device.run("_scaled_dot_product_flash_attention_backward", *tensors, *last)
    for got, wanted in zip(grads, want_grads, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_histograms_of_integers(device: Device) -> None:
    x = torch.tensor([0, 1, 1, 3, 3, 3])
    (counts,) = device.run("histc", x, integer(4), integer(0), integer(3))
    assert counts.dtype == torch.int64 and counts.tolist() == [1, 2, 0, 3]
    (as_before,) = device.run("histc", x.float(), integer(4), integer(0), integer(3))
    assert torch.equal(as_before, torch.histc(x.float(), 4, 0, 3))


def test_products_with_an_output_type(device: Device) -> None:
    a, b = torch.randn(3, 4).bfloat16(), torch.randn(4, 2).bfloat16()
    (product,) = device.run("mm", a, b, dtype_argument(F32), overload="dtype")
    torch.testing.assert_close(product, a.float() @ b.float())


def test_synchronised_batch_norm_equals_batch_norm(device: Device) -> None:
    x, norm = torch.randn(6, 3, 4, requires_grad=True), nn.BatchNorm1d(3)
    nn.init.normal_(norm.weight)
    want = norm(x)
    grad = torch.randn_like(want)
    want_x, want_weight, want_bias = torch.autograd.grad(want, (x, norm.weight, norm.bias), grad)
    # Two processes' halves, gathered.
    halves = [half.contiguous() for half in x.detach().chunk(2)]
    stats = [device.run("batch_norm_stats", half, real(norm.eps)) for half in halves]
    means, invstds = (torch.stack([entry[i] for entry in stats]) for i in (0, 1))
    counts = torch.tensor([12.0, 12.0])
    last = [None, None, real(0.1), real(norm.eps), counts]
    mean, invstd = device.run("batch_norm_gather_stats_with_counts", halves[0], means, invstds, *last)
    weight, bias = norm.weight.detach(), norm.bias.detach()
    (out,) = device.run("batch_norm_elemt", x.detach(), weight, bias, mean, invstd, real(norm.eps))
    torch.testing.assert_close(out, want.detach())
    flags = [boolean(True)] * 3
    sum_dy, sum_dy_xmu, grad_weight, grad_bias = device.run(
        "batch_norm_backward_reduce", grad, x.detach(), mean, invstd, weight, *flags
    )
    torch.testing.assert_close(grad_weight, want_weight)
    torch.testing.assert_close(grad_bias, want_bias)
    total = torch.tensor([24], dtype=torch.int32)
    (grad_x,) = device.run(
        "batch_norm_backward_elemt", grad, x.detach(), mean, invstd, weight, sum_dy, sum_dy_xmu, total
    )
    torch.testing.assert_close(grad_x, want_x, rtol=1e-4, atol=1e-5)
