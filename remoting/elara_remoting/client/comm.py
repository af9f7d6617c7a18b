"""What `nn.DataParallel` calls in `torch._C`: scatter, gather and broadcast over the attached devices.

And NCCL, which `torch.distributed` takes for tensors on "cuda": refused. The core refuses the collectives themselves.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.cuda.nccl

from elara_remoting import _client


def _place(ordinal: int) -> torch.device:
    return torch.device("cpu") if ordinal < 0 else torch.device("cuda", ordinal)


def scatter(
    tensor: Any, devices: Sequence[int], chunk_sizes: Sequence[int] | None = None, dim: int = 0, streams: Any = None
) -> list[Any]:
    """Cut `tensor` along `dim`, one piece a device."""
    pieces = tensor.chunk(len(devices), dim) if chunk_sizes is None else tensor.split(list(chunk_sizes), dim)
    return [piece.to(_place(ordinal)) for piece, ordinal in zip(pieces, devices, strict=False)]


def gather(tensors: Sequence[Any], dim: int, destination: int | None = None) -> Any:
    """Join `tensors` along `dim` on one device (-1: the CPU; None: the current one)."""
    ordinal = torch.cuda.current_device() if destination is None else destination
    return torch.cat([tensor.to(_place(ordinal)) for tensor in tensors], dim)


def broadcast(tensor: Any, devices: Sequence[int]) -> list[Any]:
    """`tensor` on every device; on its own it is the same one."""
    return [tensor.to(_place(ordinal)) for ordinal in devices]


def broadcast_coalesced(tensors: Sequence[Any], devices: Sequence[int], buffer_size: int = 0) -> list[list[Any]]:
    """Lists of `tensors`, one list a device. Nothing is gained by packing them, as every copy is sent by itself."""
    return [[tensor.to(_place(ordinal)) for tensor in tensors] for ordinal in devices]


def _has_nccl(_: Any) -> bool:
    """Whether NCCL could add tensors of several devices up: no, as they are not in this machine."""
    return False


_NCCL = (
    "torch.distributed cannot use the nccl backend with attached GPUs, which are not in this machine: exchange "
    "tensor.cpu() after init_process_group('gloo'), or train in one process without DistributedDataParallel "
    "(nn.DataParallel uses all attached GPUs)"
)


def _refuse_nccl() -> None:
    """Have `torch.distributed` say so while a GPU is attached, be it built with NCCL or not."""
    distributed: Any = sys.modules.get("torch.distributed.distributed_c10d")
    if distributed is None:  # a PyTorch without it
        return
    make_group = distributed._new_process_group_helper

    @functools.wraps(make_group)
    def checked(size: int, rank: int, ranks: Any, backend: Any, *args: Any, **kwargs: Any) -> Any:
        backends = distributed.BackendConfig(backend).get_device_backend_map().values()
        if distributed.Backend.NCCL in backends and _client.device_count() > 0:
            raise RuntimeError(_NCCL)
        return make_group(size, rank, ranks, backend, *args, **kwargs)

    distributed._new_process_group_helper = checked


def install() -> None:
    """Provide the names that a CPU build lacks, and that in a CUDA build are for devices of this machine."""
    core: Any = torch._C
    nccl: Any = torch.cuda.nccl
    nccl.is_available = _has_nccl
    core._scatter, core._gather = scatter, gather
    core._broadcast, core._broadcast_coalesced = broadcast, broadcast_coalesced
    _refuse_nccl()
