"""Context flags (TF32, determinism, cuDNN, attention kernels): set here, in force on the device server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from elara_remoting import _client

# torch._C setter -> the flag's key in the protocol
_SETTERS = {
    "_set_cublas_allow_tf32": "allow_tf32_cublas",
    "_set_cudnn_allow_tf32": "allow_tf32_cudnn",
    "_set_cudnn_enabled": "cudnn_enabled",
    "_set_cudnn_benchmark": "benchmark_cudnn",
    "_set_cudnn_deterministic": "deterministic_cudnn",
    "_set_sdp_use_flash": "sdp_flash",
    "_set_sdp_use_mem_efficient": "sdp_mem_efficient",
    "_set_sdp_use_math": "sdp_math",
    "_set_sdp_use_cudnn": "sdp_cudnn",
    "_set_cublas_allow_fp16_reduced_precision_reduction": "allow_fp16_reduction_cublas",
    "_set_cublas_allow_bf16_reduced_precision_reduction": "allow_bf16_reduction_cublas",
}


def _forwarding(setter: Callable[..., Any], key: str) -> Callable[..., Any]:
    def set_and_forward(*args: Any, **kwargs: Any) -> Any:
        result = setter(*args, **kwargs)
        _client.set_context(key, int(bool(args[0])))
        return result

    return set_and_forward


def install() -> None:
    """Wrap the setters; a session that opens later is told the values that differ from PyTorch's defaults."""
    for name, key in _SETTERS.items():
        setter = getattr(torch._C, name, None)
        if setter is not None:
            setattr(torch._C, name, _forwarding(setter, key))
    setter = torch._C._set_deterministic_algorithms

    def set_deterministic(mode: bool, *, warn_only: bool = False) -> None:
        setter(mode, warn_only=warn_only)
        _client.set_context("deterministic_algorithms", int(mode))
        _client.set_context("deterministic_warn_only", int(warn_only))

    torch._C._set_deterministic_algorithms = set_deterministic
