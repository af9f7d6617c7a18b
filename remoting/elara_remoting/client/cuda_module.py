"""Fits `torch.cuda` to remote devices: classes, the device count, the runtime module, properties."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
import torch.autograd.profiler
import torch.backends.cudnn
import torch.cuda.graphs
import torch.cuda.memory
import torch.cuda.random
import torch.cuda.streams

from elara_remoting import _client
from elara_remoting.client import cuda_names, memory_stats, streams


class Runtime:
    """Stands for `torch.cuda.cudart()`."""

    class cudaError:
        """Codes as CUDA has them."""

        success = 0

    @staticmethod
    def cudaMemGetInfo(device: int) -> tuple[int, int]:
        return memory_stats.free_and_total(device)

    @staticmethod
    def cudaGetErrorString(code: int) -> str:
        return "no error" if code == 0 else f"CUDA error {code}"

    @staticmethod
    def cudaProfilerStart() -> int:
        return 0

    @staticmethod
    def cudaProfilerStop() -> int:
        return 0

    @staticmethod
    def cudaDeviceSynchronize() -> int:
        _client.synchronize(-1)
        return 0

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name} of the CUDA runtime is not available: the GPU is not in this machine")


class CUDAGraph:
    """Stands for `torch.cuda.CUDAGraph`, which there is not."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise RuntimeError(cuda_names.CUDA_GRAPHS)


class MemPool:
    """Stands for `torch.cuda.MemPool`: accepted, and without effect. A device server gives back what is freed."""

    _numbers = itertools.count(1)
    allocator = None

    def __init__(self, allocator: Any = None, use_on_oom: bool = False, no_split: bool = False) -> None:
        if allocator is not None:
            raise RuntimeError(cuda_names.CUSTOM_ALLOCATOR)
        self.id = (0, next(self._numbers))

    def use_count(self) -> int:
        return 1

    def snapshot(self, include_traces: bool = True) -> list[Any]:
        return []


class ExternalStream:
    """Stands for `torch.cuda.ExternalStream`, which there is not."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("streams of other libraries cannot be used: the GPU is not in this machine")


class Marks:
    """Stands for `torch.cuda.nvtx`'s library: marks are for a profiler of CUDA, and nobody listens here."""

    @staticmethod
    def _ignore(*_: Any) -> int:
        return 0

    rangePushA = rangePop = rangeStartA = rangeEnd = markA = deviceRangeStart = deviceRangeEnd = _ignore


def _is_acceptable(_: Any) -> bool:
    """Whether cuDNN's own interface could take a tensor: no, and that is worth no warning."""
    return False


_DRIVER = (
    "utilization, temperature, power and clock are not known of an attached GPU, whose driver is not in this machine; "
    "memory is: torch.cuda.mem_get_info(), torch.cuda.memory_allocated()"
)


def _driver_handle(_: Any = None) -> Any:
    """In place of what opens the driver's library for a reading."""
    raise RuntimeError(_DRIVER)


def _device_properties(ordinal: int) -> Any:
    """Return what is known of an attached device."""
    from elara_remoting.client import devices  # not wanted at `import torch`

    return devices.properties(ordinal)


def _device_count() -> int:
    """Return the number of GPUs attached at this moment."""
    return int(_client.device_count())


def _install_profiler() -> None:
    """Have torch's profilers time operators by events of the device, as they do where CUPTI cannot be had.

    A profile without a word about devices has those attached.
    """
    profiler: Any = torch.autograd.profiler
    cuda = profiler.ProfilerActivity.CUDA
    known = set(profiler._supported_activities()) - {cuda}
    profiler._supported_activities = lambda: set(known)
    torch.autograd._supported_activities = lambda: known | {cuda} if _device_count() else set(known)
    begin = profiler.profile.__init__

    @functools.wraps(begin)
    def begin_with_cpu(self: Any, *args: Any, **kwargs: Any) -> None:
        # The events are those of the operators that the CPU starts; torch refuses the one without the other.
        if kwargs.get("use_device") == "cuda" and not kwargs.get("use_cpu", True):
            kwargs["use_cpu"] = True
        begin(self, *args, **kwargs)

    profiler.profile.__init__ = begin_with_cpu


def install() -> None:
    """Change `torch.cuda` in place. Nothing is connected, and no device needs to be there."""
    cuda_names.install()
    cuda: Any = torch.cuda
    cuda._cudart = Runtime()
    cuda._is_in_bad_fork = _client.is_forked
    cuda._exchange_device = cuda_names.exchange_device
    cuda._maybe_exchange_device = cuda_names.maybe_exchange_device
    cuda._get_device_properties = _device_properties
    # The stock function remembers its first answer, and on a machine with a GPU of its own asks that one.
    for module in (cuda, torch.cuda.random):
        module.device_count = _device_count
    # Checks of the local driver and its compute capability.
    cuda._queued_calls[:] = []
    cuda.default_generators = tuple(_client.default_generator(i) for i in range(_client.guard_count()))
    torch.version.cuda = f"{cuda_names.CUDA_VERSION // 1000}.{cuda_names.CUDA_VERSION // 10 % 100}"
    for module in (cuda, torch.cuda.streams):
        module.Stream = streams.Stream
        module.Event = streams.Event
        module.ExternalStream = ExternalStream
    torch.cuda.nvtx._nvtx = Marks()
    for module in (cuda, torch.cuda.graphs):
        module.CUDAGraph = CUDAGraph
    for module in (cuda, torch.cuda.memory):
        module.MemPool = MemPool
        module.list_gpu_processes = memory_stats.list_processes
    cuda._get_pynvml_handler = _driver_handle
    cuda.device_memory_used = memory_stats.used
    torch.backends.cudnn.is_acceptable = _is_acceptable
    _install_profiler()
