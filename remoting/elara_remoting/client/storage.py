"""Storages on "cuda": `Storage.cpp` of a CPU build knows no other device than the CPU, so three methods step in."""

from __future__ import annotations

from typing import Any

import torch

from elara_remoting import _client


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _bytes_over(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def install() -> None:
    """Patch `torch.UntypedStorage`. CPU storages take the same way as before."""
    base: Any = torch._C.StorageBase
    target: Any = torch.UntypedStorage
    make, resize, write_file = base.__new__, base.resize_, base._write_file

    def new(cls: Any, *args: Any, device: Any = None, **kwargs: Any) -> Any:
        if not _is_cuda(device):
            return make(cls, *args, **({} if device is None else {"device": device}), **kwargs)
        content = args[0] if args else kwargs.get("size", 0)
        if isinstance(content, int):
            return torch.empty(content, dtype=torch.uint8, device=device).untyped_storage()
        return torch.tensor(list(content), dtype=torch.uint8, device=device).untyped_storage()

    def resize_storage(self: Any, size: int) -> Any:
        if self.device.type != "cuda":
            return resize(self, size)
        _client.resize_storage_of(_bytes_over(self), int(size))
        return self

    def write(self: Any, file: Any, is_real_file: bool, save_size: bool, element_size: int) -> Any:
        storage = self.cpu() if self.device.type == "cuda" else self
        return write_file(storage, file, is_real_file, save_size, element_size)

    target.__new__ = staticmethod(new)
    target.resize_ = resize_storage
    target._write_file = write
