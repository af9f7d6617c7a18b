"""Copies of a sample's arguments on a device, laid out in memory exactly as the originals are."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

# The database names the second where there is one, since some of its samples ask for a result on another device.
PLACES = ("cpu", "cuda")


def copy_to(tree: Any, device: str) -> Any:
    """Every tensor of `tree` copied to `device`; a device named among the arguments becomes `device` too.

    Sizes, strides, offset, the conjugate and the negative bit are those of the original, so that a difference in a
    result's metadata is the operator's and not the copy's. A tensor that requires a gradient arrives as such a leaf.
    """

    def one(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            with torch.no_grad():
                copied = _copy_tensor(value.detach(), device)
            return copied.requires_grad_() if value.requires_grad else copied
        if isinstance(value, torch.device):
            return torch.device(device)
        if isinstance(value, torch.Generator):
            return torch.Generator(device).manual_seed(value.initial_seed())
        if isinstance(value, str) and value in PLACES:
            return device
        return value

    return tree_map(one, tree)


def names_a_place(tree: Any) -> bool:
    """Whether an operator can tell from its arguments where its result belongs: arange(5) cannot."""
    return any(
        isinstance(leaf, torch.Tensor | torch.device) or (isinstance(leaf, str) and leaf in PLACES)
        for leaf in tree_flatten(tree)[0]
    )


def _copy_tensor(tensor: Any, device: str) -> Any:
    if (
        tensor.layout is not torch.strided
        or tensor.is_nested
        or tensor.is_quantized
        or type(tensor) is not torch.Tensor
    ):
        return tensor.to(device, copy=True)
    if tensor.is_conj():
        return _copy_tensor(tensor.conj(), device).conj()
    if tensor.is_neg():
        return _copy_tensor(tensor._neg_view(), device)._neg_view()
    storage = tensor.untyped_storage()
    whole = torch.empty(0, dtype=tensor.dtype).set_(storage, 0, (storage.nbytes() // tensor.element_size(),), (1,))
    return whole.to(device, copy=True).as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
