"""Context flags (TF32, determinism, cuDNN, attention kernels): set here, in force on the device server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.backends.cudnn
from torch.backends import ContextProp

from elara_remoting import _client

# What changes a flag in PyTorch's C++ context. The core reads the flags itself; it only has to hear of the change.
_SETTERS = (
    "_set_cublas_allow_tf32",
    "_set_cudnn_allow_tf32",
    "_set_float32_matmul_precision",
    "_set_fp32_precision_setter",
    "_set_cudnn_enabled",
    "_set_cudnn_benchmark",
    "_set_cudnn_deterministic",
    "_set_deterministic_algorithms",
    "_set_sdp_use_flash",
    "_set_sdp_use_mem_efficient",
    "_set_sdp_use_math",
    "_set_sdp_use_cudnn",
    "_set_cublas_allow_fp16_reduced_precision_reduction",
    "_set_cublas_allow_bf16_reduced_precision_reduction",
    "_set_linalg_preferred_backend",
)


def _forwarding(setter: Callable[..., Any]) -> Callable[..., Any]:
    def set_and_forward(*args: Any, **kwargs: Any) -> Any:
        result = setter(*args, **kwargs)
        _client.forward_context()
        return result

    return set_and_forward


def install() -> None:
    """Wrap the setters; a session that opens later is told all flags by the core."""
    wrapped = {}
    for name in _SETTERS:
        setter = getattr(torch._C, name, None)
        if setter is not None:
            wrapped[setter] = _forwarding(setter)
            setattr(torch._C, name, wrapped[setter])
    # The attributes of torch.backends.cudnn took the setters by themselves when they were made.
    for attribute in vars(type(torch.backends.cudnn)).values():
        if isinstance(attribute, ContextProp) and attribute.setter in wrapped:
            attribute.setter = wrapped[attribute.setter]
