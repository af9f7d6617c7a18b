"""What hands device addresses to other libraries: refused in one sentence, because the memory is on another machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.utils.dlpack

_SENTENCE = "the memory of an attached GPU cannot be shared with other libraries: copy the tensor with .cpu() first"


def _refusing_cuda(export: Callable[..., Any]) -> Callable[..., Any]:
    def checked(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if tensor.is_cuda:
            raise BufferError(_SENTENCE)
        return export(tensor, *args, **kwargs)

    return checked


def install() -> None:
    """Guard the exports of DLPack, of the CUDA array interface and of storages between processes."""
    core: Any = torch._C
    for name in ("_to_dlpack", "_to_dlpack_versioned"):
        if hasattr(core, name):
            setattr(core, name, _refusing_cuda(getattr(core, name)))
    dlpack: Any = torch.utils.dlpack
    dlpack.to_dlpack = core._to_dlpack
    torch.to_dlpack = core._to_dlpack
    tensor: Any = torch.Tensor
    stock = tensor.__cuda_array_interface__

    def interface(self: Any) -> Any:
        if self.is_cuda:
            # AttributeError, so that a library that asks with hasattr() takes its way for other tensors.
            raise AttributeError(_SENTENCE)
        return stock.__get__(self)

    tensor.__cuda_array_interface__ = property(interface)

    def share(self: Any, *_: Any, **__: Any) -> Any:
        raise RuntimeError("a tensor on an attached GPU cannot be passed to another process: pass tensor.cpu() instead")

    storage: Any = torch.UntypedStorage
    storage._share_cuda_ = share
    storage._new_shared_cuda = classmethod(share)
