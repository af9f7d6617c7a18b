"""Memory figures in the shape that `torch.cuda.memory_stats` and `memory_summary` read."""

from __future__ import annotations

import os
from typing import Any

from elara_remoting import _client
from elara_remoting.client import streams

_COUNTED = ("allocation", "segment", "active", "inactive_split")
_MEASURED = ("allocated_bytes", "reserved_bytes", "active_bytes", "inactive_split_bytes", "requested_bytes")


def nested(ordinal: int) -> dict[str, Any]:
    """What `torch._C._cuda_memoryStats` returns: this process's own memory on the device, in bytes.

    There is no caching allocator on this side, so "reserved" is "allocated".
    """
    counters = _client.counters(ordinal)
    nothing = _pools(0, 0, 0, 0)
    storages, made = counters["storages"], counters["allocations"]
    counted = _pools(storages, storages, made, made - storages)
    live, total = counters["live"], counters["allocated_total"]
    measured = _pools(live, counters["peak"], total, total - live)
    stats: dict[str, Any] = {name: nothing if name == "inactive_split" else counted for name in _COUNTED}
    stats |= {name: nothing if name.startswith("inactive") else measured for name in _MEASURED}
    stats |= {
        "num_alloc_retries": 0,
        "num_ooms": counters["refused"],
        "num_sync_all_streams": 0,
        "num_device_alloc": made,
        "num_device_free": made - storages,
        "max_split_size": -1,
        "oversize_allocations": nothing["all"],
        "oversize_segments": nothing["all"],
    }
    return stats


def _pools(current: int, peak: int, allocated: int, freed: int) -> dict[str, dict[str, int]]:
    everything = {"current": current, "peak": peak, "allocated": allocated, "freed": freed}
    empty = {"current": 0, "peak": 0, "allocated": 0, "freed": 0}
    return {"all": everything, "small_pool": empty, "large_pool": everything}


def free_and_total(ordinal: int) -> tuple[int, int]:
    """Bytes free under the attachment's cap (all its sessions counted), and the cap."""
    stats = _client.server_stats(ordinal)
    cap = int(stats["cap"])
    return max(cap - max(int(stats["lease_used"]), int(stats["used"])), 0), cap


def used(device: Any = None) -> int:
    """`torch.cuda.device_memory_used`: bytes in use under the attachment's cap, by all its sessions."""
    free, total = free_and_total(streams.device_index(device))
    return total - free


def list_processes(device: Any = None) -> str:
    """`torch.cuda.list_gpu_processes`: this process, and the others of the attachment together, who are not named."""
    ordinal = streams.device_index(device)
    stats = _client.server_stats(ordinal)
    own = int(stats["used"])
    lines = [f"GPU:{ordinal}", _process(f"process {os.getpid():>10d}", own)]
    others = int(stats["lease_used"]) - own
    return "\n".join([*lines, _process("others of this attachment", others)] if others > 0 else lines)


def _process(name: str, taken: int) -> str:
    return f"{name} uses {taken / (1 << 20):>12.3f} MB GPU memory"
