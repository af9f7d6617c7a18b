"""`torch.cuda.FloatTensor` and its like, which C++ refuses in a CPU build."""

from __future__ import annotations

from typing import Any

import torch

_NAMES = {
    "FloatTensor": torch.float32,
    "DoubleTensor": torch.float64,
    "HalfTensor": torch.float16,
    "BFloat16Tensor": torch.bfloat16,
    "ByteTensor": torch.uint8,
    "CharTensor": torch.int8,
    "ShortTensor": torch.int16,
    "IntTensor": torch.int32,
    "LongTensor": torch.int64,
    "BoolTensor": torch.bool,
}


class _LegacyType(type):
    """The type of the tensor types: calling one makes a tensor, `isinstance` asks for dtype and device."""

    dtype: torch.dtype
    is_cuda = True
    is_sparse = False
    layout = torch.strided

    def __call__(cls, *args: Any, device: Any = None) -> Any:
        device = "cuda" if device is None else device
        if not args or all(isinstance(size, int) for size in args):
            return torch.empty(args or (0,), dtype=cls.dtype, device=device)
        (content,) = args
        if isinstance(content, torch.Size):
            return torch.empty(content, dtype=cls.dtype, device=device)
        if isinstance(content, torch.UntypedStorage):
            return torch.empty(0, dtype=cls.dtype, device=device).set_(content)
        if isinstance(content, torch.Tensor):
            return content.to(device=device, dtype=cls.dtype)
        return torch.tensor(content, dtype=cls.dtype, device=device)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch.Tensor) and instance.is_cuda and instance.dtype is cls.dtype


def install() -> None:
    """Replace the tensor types of `torch.cuda`."""
    for name, dtype in _NAMES.items():
        made = _LegacyType(name, (), {"__module__": "torch.cuda", "dtype": dtype})
        setattr(torch.cuda, name, made)
