"""Nested tensors on a device: each operation gives what it gives on the CPU, and a transformer nests by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

LENGTHS = (2, 5, 3)
OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "add": lambda x: x + x,
    "multiply": lambda x: x * x * 3,
    "subtract": lambda x: x - x * 2,
    "divide": lambda x: x / 2,
    "negate": lambda x: -x,
    "relu": torch.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softmax": lambda x: functional.softmax(x, -1),
    "linear": lambda x: functional.linear(x, torch.ones(4, 8, device=x.device), torch.ones(4, device=x.device)),
    "layer_norm": lambda x: functional.layer_norm(x, (8,), *(torch.full((8,), 2.0, device=x.device),) * 2),
    "matmul": lambda x: torch.matmul(x, x.transpose(1, 2)),
    "bmm": lambda x: torch.bmm(x, x.transpose(1, 2).contiguous()),
    "sum": lambda x: x.sum(-1, keepdim=True),
    "select": lambda x: x.select(0, 1),
    "unbind": lambda x: x.unbind()[2],
    "padded": lambda x: torch.nested.to_padded_tensor(x, -1.0),
    "padded further": lambda x: torch.nested.to_padded_tensor(x, -1.0, (3, 9, 8)),
}
WITHOUT_GRADIENT: dict[str, Callable[[Any], Any]] = {
    "compare": lambda x: x >= 0.0,
    "masked_fill": lambda x: x.masked_fill(x > 0.0, 0.0),
    "concatenate": lambda x: torch.cat([x, x]),
    "heads": lambda x: x.view(3, -1, 2, 4).transpose(1, 2).contiguous(),
    "attention": lambda x: functional.scaled_dot_product_attention(
        *(x.view(3, -1, 2, 4).transpose(1, 2).contiguous(),) * 3
    ),
    "half": lambda x: x.half().float(),
    "values": lambda x: x.values(),
    "zeros": torch.zeros_like,
    "fill": lambda x: x.clone().fill_(2.0),
}


def pieces(device: str) -> Any:
    torch.manual_seed(0)
    return torch.nested.nested_tensor([torch.randn(length, 8) for length in LENGTHS]).to(device)


def plain(tensor: Any) -> Any:
    """Comparable: on the CPU, and padded where it is nested."""
    there = tensor.detach().cpu()
    return there.to_padded_tensor(0.0) if there.is_nested else there


@pytest.mark.parametrize("name", OPERATIONS | WITHOUT_GRADIENT)
def test_an_operation_gives_what_it_gives_on_the_cpu(name: str) -> None:
    operation = (OPERATIONS | WITHOUT_GRADIENT)[name]
    torch.testing.assert_close(plain(operation(pieces("cuda"))), plain(operation(pieces("cpu"))))


@pytest.mark.parametrize("name", OPERATIONS)
def test_and_so_does_its_gradient(name: str) -> None:
    def gradient(device: str) -> Any:
        leaf = pieces(device).requires_grad_()
        result = OPERATIONS[name](leaf)
        dense = result.to_padded_tensor(0.0) if result.is_nested else result
        dense.square().sum().backward()
        return plain(leaf.grad)

    torch.testing.assert_close(gradient("cuda"), gradient("cpu"))


@pytest.mark.parametrize("options", [{}, {"activation": "gelu"}, {"norm_first": True}], ids=str)
@pytest.mark.parametrize("checked", [True, False])
def test_a_transformer_with_a_padding_mask_nests_by_itself(options: Any, checked: bool) -> None:
    """And its padding is 0 then."""

    def encode(device: str) -> Any:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, **options)
        encoder = nn.TransformerEncoder(layer, 2, mask_check=checked).to(device).eval()
        padding = torch.arange(5) >= torch.tensor(LENGTHS)[:, None]
        with torch.inference_mode():
            return encoder(torch.randn(3, 5, 16).to(device), src_key_padding_mask=padding.to(device)).cpu()

    torch.testing.assert_close(encode("cuda"), encode("cpu"))


def test_attention_over_pieces_of_different_lengths() -> None:
    def attend(device: str) -> Any:
        torch.manual_seed(0)
        attention = nn.MultiheadAttention(8, 2, batch_first=True).to(device).eval()
        nested = pieces(device)
        with torch.inference_mode():
            return plain(attention(nested, nested, nested, need_weights=False)[0])

    torch.testing.assert_close(attend("cuda"), attend("cpu"))


def test_what_cannot_be_says_what_can() -> None:
    with pytest.raises(NotImplementedError, match=r"aten::cosh is not supported .*torch.strided .*layout=torch.jagged"):
        pieces("cuda").cosh()
