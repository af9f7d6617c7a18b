"""The entries of PyTorch's operator database, and for each the dtypes and the sample inputs that are compared."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy
import torch
from torch.testing._internal.common_methods_invocations import op_db

SEED = 20261123
# Where one dtype an entry is compared, it is the first of these that PyTorch's CPU kernels support.
DTYPES = (
    torch.float32,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.bool,
    torch.float64,
    torch.complex128,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
)
# The database lists no CPU dtypes for some entries, although native CPU may compute them: they are tried with this one.
FALLBACK = torch.float32


def by_name() -> dict[str, Any]:
    """Every entry of op_db by its unique name, in the database's order."""
    return {entry.formatted_name: entry for entry in op_db}


def dtypes_of(entry: Any) -> list[Any]:
    """Every dtype that the native CPU build supports for `entry`, the preferred one first."""
    supported = entry.supported_dtypes("cpu")
    preferred = [dtype for dtype in DTYPES if dtype in supported]
    return preferred + sorted(set(supported) - set(preferred), key=str) or [FALLBACK]


def differentiable(entry: Any, dtype: Any) -> bool:
    """Whether the gradient of `entry` is compared in `dtype`."""
    if not entry.supports_autograd or not (dtype.is_floating_point or dtype.is_complex):
        return False
    return dtype in entry.supported_backward_dtypes("cpu") or not entry.supported_dtypes("cpu")


def seed_everything() -> None:
    """The same numbers for every entry, whichever process comes to it and in whichever order."""
    random.seed(SEED)
    numpy.random.seed(SEED % 2**32)
    torch.manual_seed(SEED)


def samples(entry: Any, dtype: Any, count: int) -> Iterator[Any]:
    """The first `count` sample inputs of `entry`, made on the CPU; 0 means all of them."""
    seed_everything()
    generated = entry.sample_inputs("cpu", dtype, requires_grad=differentiable(entry, dtype))
    return itertools.islice(generated, count or None)
