"""Device properties as `torch.cuda` shows them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from elara_remoting import _client


@dataclass(frozen=True, repr=False)
class DeviceProperties:
    """What `torch.cuda.get_device_properties` returns. `total_memory` in bytes: what the attachment allows."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    uuid: uuid.UUID
    warp_size: int = 32
    max_threads_per_multi_processor: int = 2048
    max_threads_per_block: int = 1024
    regs_per_multiprocessor: int = 65536
    shared_memory_per_block: int = 49152
    shared_memory_per_block_optin: int = 166912
    shared_memory_per_multiprocessor: int = 167936
    L2_cache_size: int = 40 << 20
    clock_rate: int = 0
    memory_clock_rate: int = 0
    memory_bus_width: int = 0
    pci_bus_id: int = 0
    pci_device_id: int = 0
    pci_domain_id: int = 0
    is_integrated: bool = False
    is_multi_gpu_board: bool = False
    gcnArchName: str = ""

    def __repr__(self) -> str:
        return (
            f"_CudaDeviceProperties(name='{self.name}', major={self.major}, minor={self.minor}, "
            f"total_memory={self.total_memory >> 20}MB, multi_processor_count={self.multi_processor_count}, "
            f"uuid={self.uuid}, L2_cache_size={self.L2_cache_size >> 20}MB)"
        )


# Compute capability and processor count by model name; a model that is not here counts as an 8.0.
_MODELS: tuple[tuple[str, int, int, int], ...] = (
    ("B200", 10, 0, 148),
    ("H200", 9, 0, 132),
    ("H100", 9, 0, 132),
    ("GH200", 9, 0, 132),
    ("L40", 8, 9, 142),
    ("L4", 8, 9, 58),
    ("RTX 4090", 8, 9, 128),
    ("A100", 8, 0, 108),
    ("A40", 8, 6, 84),
    ("A30", 8, 0, 56),
    ("A10", 8, 6, 72),
    ("T4", 7, 5, 40),
    ("V100", 7, 0, 80),
)


def properties(ordinal: int) -> DeviceProperties:
    """The properties of an attached device.

    Raises:
        RuntimeError: no such device is attached.
    """
    facts = _client.device_facts(ordinal)
    model = str(facts["model"])
    major, minor, processors = next((m[1:] for m in _MODELS if m[0] in model), (8, 0, 1 if facts["emulated"] else 108))
    return DeviceProperties(
        name=model,
        major=major,
        minor=minor,
        total_memory=int(facts["memory"]),
        multi_processor_count=processors,
        uuid=_uuid(str(facts["uuid"])),
    )


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text.removeprefix("GPU-"))
    except ValueError:
        # Emulated devices have names, not UUIDs.
        return uuid.uuid5(uuid.NAMESPACE_OID, text)
