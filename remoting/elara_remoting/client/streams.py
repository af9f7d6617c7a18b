"""`torch.cuda.Stream` and `torch.cuda.Event` over PyTorch's device-independent ones.

The classes in a CPU build of PyTorch have empty stand-ins for bases, fixed when torch was imported; so they are
replaced.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from elara_remoting import _client


def device_index(device: Any) -> int:
    """The ordinal that `device` (None, int, str or torch.device) names; the current one when it names none."""
    if device is None:
        return int(_client.current_device())
    if isinstance(device, int):
        return device if device >= 0 else int(_client.current_device())
    index = torch.device(device).index
    return int(_client.current_device()) if index is None else int(index)


class Stream(torch.Stream):  # type: ignore[misc]
    """A CUDA stream. All work of one process on one device runs in order, so streams never race."""

    def __new__(cls, device: Any = None, priority: int = 0, **kwargs: Any) -> Stream:
        if "stream_id" in kwargs and "device_index" in kwargs:
            return super().__new__(  # type: ignore[no-any-return]
                cls,
                stream_id=kwargs["stream_id"],
                device_index=kwargs["device_index"],
                device_type=kwargs.get("device_type", 1),
            )
        torch.cuda._lazy_init()
        index = device_index(device)
        return super().__new__(cls, torch.device("cuda", index), priority=priority)  # type: ignore[no-any-return]

    @property
    def cuda_stream(self) -> int:
        return int(self.stream_id)

    @property
    def _as_parameter_(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.cuda_stream)

    @property
    def priority(self) -> int:
        return 0

    @staticmethod
    def priority_range() -> tuple[int, int]:
        return (0, 0)

    def wait_event(self, event: Any) -> None:
        event.wait(self)

    def wait_stream(self, stream: Any) -> None:
        self.wait_event(stream.record_event())

    def record_event(self, event: Any = None) -> Any:
        event = Event() if event is None else event
        event.record(self)
        return event

    def __eq__(self, other: object) -> bool:
        return isinstance(other, torch.Stream) and (self.stream_id, self.device_index) == (
            other.stream_id,
            other.device_index,
        )

    def __hash__(self) -> int:
        return hash((self.stream_id, self.device_index))

    def __repr__(self) -> str:
        return f"<torch.cuda.Stream device={self.device} cuda_stream={self.cuda_stream:#x}>"


class _EventType(type):
    # torch.Event.elapsed_time takes nothing but its own exact type, so that is what is handed out.
    def __call__(
        cls, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False, external: bool = False
    ) -> Any:
        if interprocess:
            raise RuntimeError("CUDA events of an attached GPU cannot be shared between processes")
        return torch.Event(device="cuda", enable_timing=enable_timing, blocking=blocking)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch.Event)


class Event(metaclass=_EventType):
    """A CUDA event: `torch.cuda.Event(enable_timing=True)`."""

    @classmethod
    def from_ipc_handle(cls, device: Any, handle: Any) -> Any:
        raise RuntimeError("CUDA events of an attached GPU cannot be shared between processes")
