"""The ways in which a sample is tried: as it is, with its arguments laid out otherwise, in place, and with `out=`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_map


@dataclass(frozen=True)
class Variant:
    """One way to call an entry: the operator, the sample's arguments, and whether a gradient is asked for.

    `out` is what `out=` gets, made on the CPU; it is copied to the device like the arguments.
    """

    name: str
    call: Callable[..., Any]
    input: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    gradient: bool
    out: Any = None


def plain(entry: Any, sample: Any, gradient: bool) -> Variant:
    """The sample as the database has it."""
    return Variant("plain", entry.get_op(), sample.input, tuple(sample.args), dict(sample.kwargs), gradient)


def others(entry: Any, sample: Any, gradient: bool, native: Any, index: int) -> Iterator[Variant]:
    """Every other variant of the `index`-th sample; `native` is what the CPU made of the plain one."""
    base = plain(entry, sample, gradient)
    yield from _views(base)
    in_place = entry.get_inplace()
    if in_place is not None:
        yield Variant("in place", in_place, _detached(base.input), _detached(base.args), _detached(base.kwargs), False)
    if entry.supports_out and (out := _out_like(native, resized=index % 2 == 1)) is not None:
        arguments = (_detached(base.input), _detached(base.args), _detached(base.kwargs))
        yield Variant("out=", entry.get_op(), *arguments, False, out)


def _views(base: Variant) -> Iterator[Variant]:
    """The arguments with gaps between their elements, and as lazy conjugates and negatives of others."""
    for name, change in (("non-contiguous", _spread), ("conjugate view", _conjugate), ("negative view", _negative)):
        changed = False

        def one(value: Any, change: Callable[[Any], Any] = change) -> Any:
            nonlocal changed
            if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.is_nested:
                return value
            try:
                view = change(value.detach())
            except NotImplementedError:  # of some dtypes native CPU computes no conjugate
                view = None
            changed = changed or view is not None
            return value if view is None else view.requires_grad_(value.requires_grad)

        arguments = tree_map(one, (base.input, base.args, base.kwargs))
        if changed:
            yield Variant(name, base.call, *arguments, base.gradient)


def _spread(tensor: Any) -> Any:
    if tensor.numel() < 2 or not tensor.is_contiguous():
        return None
    wide = tensor.new_zeros((*tensor.shape, 2))
    wide[..., 0] = tensor
    return wide[..., 0]


def _conjugate(tensor: Any) -> Any:
    return tensor.conj_physical().conj() if tensor.is_complex() and not tensor.is_conj() else None


def _negative(tensor: Any) -> Any:
    if tensor.dtype.itemsize == 1 or not (tensor.is_complex() or tensor.is_floating_point()) or tensor.is_neg():
        return None
    return (-tensor)._neg_view()


def _detached(tree: Any) -> Any:
    return tree_map(lambda value: value.detach() if isinstance(value, torch.Tensor) else value, tree)


def _out_like(native: Any, *, resized: bool) -> Any:
    """Tensors for `out=` like the native result: of its sizes, or empty ones that the operator resizes."""
    tensors = native if isinstance(native, tuple | list) else (native,)
    if not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        return None
    if any(tensor.layout is not torch.strided or tensor.is_nested for tensor in tensors):
        return None
    made = [tensor.new_zeros(0 if resized else tensor.shape) for tensor in (item.detach() for item in tensors)]
    return made[0] if isinstance(native, torch.Tensor) else tuple(made)
