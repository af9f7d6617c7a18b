"""What a CPU build of PyTorch lacks in `torch._C`, so that `torch.cuda`'s own Python runs as it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from elara_remoting import _client
from elara_remoting.client import memory_stats

CUDA_VERSION = 13000
_KCUDA = 1  # c10::DeviceType::CUDA

_state: dict[str, Any] = {"memory_fraction": {}, "sync_debug": 0, "metadata": "", "benchmark_limit": 10}


def _init() -> None:
    _client.checked_ordinal(-1)


def _get_current_stream(ordinal: int) -> tuple[int, int, int]:
    index = _client.current_device() if ordinal < 0 else ordinal
    return (_client.current_stream(index), index, _KCUDA)


def _get_default_stream(ordinal: int) -> tuple[int, int, int]:
    return (0, _client.current_device() if ordinal < 0 else ordinal, _KCUDA)


def _set_stream(stream_id: int, device_index: int, device_type: int) -> None:
    _client.set_device(device_index)
    _client.set_stream(device_index, stream_id)


def _set_memory_fraction(fraction: float, ordinal: int) -> None:
    _state["memory_fraction"][ordinal] = fraction


def exchange_device(ordinal: int | None) -> int:
    """Make `ordinal` current (nothing for -1 or None) and return what was."""
    return int(_client.exchange_device(-1 if ordinal is None else ordinal))


def maybe_exchange_device(ordinal: int | None) -> int:
    """As `exchange_device`. Dynamo tells the two apart by identity."""
    return int(_client.exchange_device(-1 if ordinal is None else ordinal))


def _sleep(cycles: int) -> None:
    time.sleep(cycles / 1e9)


def _nothing(*_: Any, **__: Any) -> None:
    return None


PROVIDED: dict[str, Callable[..., Any]] = {
    "_cuda_init": _init,
    "_cuda_getDeviceCount": _client.device_count,
    "_cuda_getDevice": _client.current_device,
    "_cuda_setDevice": _client.set_device,
    "_cuda_exchangeDevice": exchange_device,
    "_cuda_maybeExchangeDevice": maybe_exchange_device,
    "_cuda_isInBadFork": _client.is_forked,
    "_cuda_synchronize": lambda: _client.synchronize(-1),
    "_cuda_sleep": _sleep,
    "_cuda_hasPrimaryContext": lambda ordinal: ordinal < _client.device_count(),
    "_cuda_getArchFlags": lambda: "sm_75 sm_80 sm_86 sm_90",
    "_cuda_getCompiledVersion": lambda: CUDA_VERSION,
    "_cuda_getDriverVersion": lambda: CUDA_VERSION,
    "_cuda_canDeviceAccessPeer": lambda one, other: one != other,
    "_cuda_getCurrentStream": _get_current_stream,
    "_cuda_getDefaultStream": _get_default_stream,
    "_cuda_setStream": _set_stream,
    "_cuda_getCurrentRawStream": lambda ordinal: _client.current_stream(ordinal),
    "_cuda_isCurrentStreamCapturing": lambda: False,
    "_cuda_emptyCache": _nothing,
    "_cuda_ipc_collect": _nothing,
    "_cuda_memoryStats": memory_stats.nested,
    "_cuda_resetAccumulatedMemoryStats": _nothing,
    "_cuda_resetPeakMemoryStats": _client.reset_peak,
    "_cuda_hostMemoryStats": dict,
    "_cuda_resetAccumulatedHostMemoryStats": _nothing,
    "_cuda_resetPeakHostMemoryStats": _nothing,
    "_host_emptyCache": _nothing,
    "_cuda_setMemoryFraction": _set_memory_fraction,
    "_cuda_getMemoryFraction": lambda ordinal: _state["memory_fraction"].get(ordinal, 1.0),
    "_cuda_memorySnapshot": lambda *_: {"segments": [], "device_traces": [], "allocator_settings": {}},
    "_cuda_record_memory_history": _nothing,
    "_cuda_record_memory_history_legacy": _nothing,
    # `torch.cuda.use_mem_pool`: there are no pools, and where a tensor lies makes no difference to it.
    "_cuda_beginAllocateCurrentThreadToPool": _nothing,
    "_cuda_endAllocateToPool": _nothing,
    "_cuda_releasePool": _nothing,
    "_cuda_isHistoryEnabled": lambda: False,
    "_cuda_setMemoryMetadata": lambda text: _state.update(metadata=text),
    "_cuda_getMemoryMetadata": lambda: _state["metadata"],
    "_cuda_getAllocatorBackend": lambda: "native",
    "_cuda_cudaCachingAllocator_is_enabled": lambda: True,
    "_cuda_cudaCachingAllocator_enable": _nothing,
    "_cuda_set_sync_debug_mode": lambda level: _state.update(sync_debug=level),
    "_cuda_get_sync_debug_mode": lambda: _state["sync_debug"],
    "_cuda_get_cudnn_benchmark_limit": lambda: _state["benchmark_limit"],
    "_cuda_set_cudnn_benchmark_limit": lambda limit: _state.update(benchmark_limit=limit),
    "_cuda_get_conv_benchmark_empty_cache": lambda: True,
    "_cuda_clearCublasWorkspaces": _nothing,
    "_cuda_getCurrentBlasHandle": lambda: 0,
    "_cuda_getCurrentSolverHandle": lambda: 0,
    "_cuda_lock_mutex": _nothing,
    "_cuda_unlock_mutex": _nothing,
    "_cuda_tunableop_is_enabled": lambda: False,
    # torch.accelerator asks the allocator's C++ object, of which a CPU build knows only what every device's can.
    "_accelerator_isAllocatorInitialized": lambda: True,
    "_accelerator_emptyCache": _nothing,
    "_accelerator_getDeviceStats": memory_stats.nested,
    "_accelerator_resetAccumulatedStats": _nothing,
    "_accelerator_resetPeakStats": _client.reset_peak,
    "_accelerator_getMemoryInfo": memory_stats.free_and_total,
}

# Dynamo and inductor import these even when CUDA graphs are not used.
_CUDA_GRAPH_NAMES = (
    "_cuda_CUDAAllocator_AllocatorState",
    "_set_cached_tensors_enabled",
    "_cuda_checkPoolLiveAllocations",
    "_cuda_setCheckpointPoolState",
    "_cuda_getCheckpointState",
    "_cuda_beginAllocateToPool",
    "_cuda_beginAllocateCurrentStreamToPool",
    "_cuda_endAllocateCurrentStreamToPool",
    "_graph_pool_handle",
    "_free_And_Remove_DeleterFn",
    "_map_Storage_Refs",
    "_storage_Use_Count",
    "_construct_storage_from_data_pointer",
    "_construct_CUDA_Tensor_From_Storage_And_Metadata",
    "_has_Standard_Deleter",
    "_unsafe_set_version_counter_x",
    "_add_cached_tensor",
    "_remove_cached_tensor",
    "_is_cached_tensor",
    "_tensors_data_ptrs_at_indices_equal",
    "_is_alias_of",
    "_get_storage_access",
    "_set_storage_access_error_msg",
    "_set_storage_data_ptr_access_error_msg",
)

CUSTOM_ALLOCATOR = "a custom CUDA allocator cannot be used: the memory is on another machine"
_REFUSED = {
    "_cuda_getStreamFromExternal": "streams of other libraries cannot be used: the GPU is not in this machine",
    "_cuda_cudaCachingAllocator_raw_alloc": "raw device memory cannot be handed out: the GPU is not in this machine",
    "_cuda_cudaCachingAllocator_raw_delete": "raw device memory cannot be handed out: the GPU is not in this machine",
    "_cuda_cudaHostAllocator": "CUDA's host allocator is not available: the GPU is not in this machine",
    "_cuda_customAllocator": CUSTOM_ALLOCATOR,
    "_cuda_changeCurrentAllocator": CUSTOM_ALLOCATOR,
    "_cuda_getAllocator": CUSTOM_ALLOCATOR,
    "_cuda_allocationTraceback": "allocation tracebacks are not recorded for an attached GPU",
    "_cuda_jiterator_compile_and_launch_kernel": "kernels in CUDA C++ cannot be compiled for an attached GPU yet",
}
CUDA_GRAPHS = "CUDA graphs are not supported on an attached GPU; run the same code without them"


def refusing(sentence: str) -> Callable[..., Any]:
    """A function that raises `sentence` when it is called."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError(sentence)

    return refuse


def install() -> None:
    """Put every name into `torch._C` that is not there yet, or that a CUDA build has for local devices."""
    replaced = {name for name in (*PROVIDED, *_REFUSED) if hasattr(torch._C, name)}
    for name, provider in PROVIDED.items():
        setattr(torch._C, name, provider)
    for name, sentence in _REFUSED.items():
        setattr(torch._C, name, refusing(sentence))
    for name in _CUDA_GRAPH_NAMES:
        if not hasattr(torch._C, name):
            setattr(torch._C, name, refusing(CUDA_GRAPHS))
    torch._C._has_cuda = True
    # A CPU build has one of these names, for torch.cuda; to look into every module takes milliseconds.
    _rebind(replaced, "torch." if "_cuda_getDeviceCount" in replaced else "torch.cuda")


def _rebind(names: set[str], prefix: str) -> None:
    """Replace what modules of PyTorch took by name out of `torch._C` when they were imported."""
    for key, module in list(sys.modules.items()):
        if key.startswith(prefix) and module is not torch._C:
            for name in vars(module).keys() & names:
                setattr(module, name, getattr(torch._C, name))
