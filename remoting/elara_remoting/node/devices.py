"""Which devices a machine has, and how they are: NVIDIA devices through NVML, or emulated ones that compute on the CPU.

The NVML half has read the facts and the health of an NVIDIA H200; its faults (XID, ECC, heat) are tested against a
stand-in only.
"""

from __future__ import annotations

import logging
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from elara_remoting.types import Device

EMULATED_MODEL = "Elara emulated device (CPU)"
DEFAULT_EMULATED = 2
DEFAULT_EMULATED_MEMORY = 2 * 2**30
MAX_EMULATED = 64
_NAMESPACE = uuid.UUID("5f0f2d1c-6f0e-4f52-9f0b-9d6a3c1f7e21")

log = logging.getLogger(__name__)


class DeviceError(RuntimeError):
    """The devices cannot be offered as asked; the text says why and what to do."""


@dataclass(frozen=True)
class Health:
    """How a device does. Temperature in degrees Celsius, utilisation in percent; None where it is not known."""

    temperature: int | None = None
    utilisation: int | None = None
    fault: str | None = None


class DeviceSource(Protocol):
    """Where a node's devices come from."""

    def devices(self) -> list[Device]:
        """All devices with their present health; called every few seconds, so it must be quick and not raise."""
        ...

    def close(self) -> None: ...


class EmulatedDevices:
    """`count` devices that compute on this machine's CPU. Their identities are the same after a restart of the node."""

    def __init__(self, count: int, memory_bytes: int, *, seed: str = "") -> None:
        """`seed` tells nodes apart that share a machine, for example the state folder.

        Raises:
            DeviceError: the count or the memory is out of range.
        """
        if not 1 <= count <= MAX_EMULATED:
            raise DeviceError(f"The number of emulated devices must be 1 to {MAX_EMULATED}, not {count}.")
        if memory_bytes < 2**20:
            raise DeviceError("An emulated device needs at least 1 MiB of memory: write it like --device-memory 2GiB.")
        machine = _machine_id()
        self._devices = [
            Device(
                uuid=f"EMU-{uuid.uuid5(_NAMESPACE, f'{machine}/{seed}/{index}')}",
                index=index,
                model=EMULATED_MODEL,
                memory_bytes=memory_bytes,
                emulated=True,
            )
            for index in range(count)
        ]

    def devices(self) -> list[Device]:
        return list(self._devices)

    def close(self) -> None:
        pass


def _machine_id() -> str:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError):
            text = Path(path).read_text(encoding="ascii").strip()
            if text:
                return text
    return os.uname().nodename


class NvidiaDevices:
    """The NVIDIA devices of this machine, by NVML."""

    HOT = 95
    """Degrees Celsius from which a device counts as faulty where the driver names no shutdown threshold."""

    def __init__(self) -> None:
        """Open NVML.

        Raises:
            DeviceError: there is no driver, or no device.
        """
        try:
            import pynvml
        except ImportError as error:
            raise DeviceError("The package nvidia-ml-py is missing: pip install nvidia-ml-py.") from error
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            count = int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError as error:
            raise DeviceError(f"NVML found no NVIDIA driver on this machine ({error}).") from error
        if count == 0:
            raise DeviceError("NVML found no NVIDIA device on this machine.")
        self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        self._facts = [self._read_facts(index, handle) for index, handle in enumerate(self._handles)]
        self._xid = self._subscribe()
        self._faults: dict[str, str] = {}

    def devices(self) -> list[Device]:
        self._collect_xid()
        result = []
        for facts, handle in zip(self._facts, self._handles, strict=True):
            fault = self.health(handle, facts.uuid).fault
            result.append(replace(facts, healthy=fault is None, fault=fault))
        return result

    def health(self, handle: Any, device_uuid: str) -> Health:
        """Temperature, utilisation and, where there is one, the fault in words."""
        nvml = self._nvml
        fault = self._faults.get(device_uuid)
        temperature = utilisation = None
        with suppress(nvml.NVMLError):
            utilisation = int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        try:
            temperature = int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        except nvml.NVMLError_NotSupported:
            pass
        except nvml.NVMLError as error:
            # A device that fell off the bus still has its handle, and fails here.
            return Health(fault=f"the device does not answer ({error})")
        limit = self.HOT
        with suppress(nvml.NVMLError):
            limit = int(nvml.nvmlDeviceGetTemperatureThreshold(handle, nvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN)) - 2
        if temperature is not None and temperature >= limit:
            fault = fault or f"too hot: {temperature} °C"
        with suppress(nvml.NVMLError):
            uncorrected = int(
                nvml.nvmlDeviceGetTotalEccErrors(
                    handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
                )
            )
            if uncorrected:
                fault = fault or f"{uncorrected} uncorrectable memory errors since the last reset"
        with suppress(nvml.NVMLError):
            if nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle):
                fault = fault or "memory pages wait for retirement: the device needs a reset"
        return Health(temperature, utilisation, fault)

    def close(self) -> None:
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _read_facts(self, index: int, handle: Any) -> Device:
        nvml = self._nvml
        return Device(
            uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
            index=index,
            model=_text(nvml.nvmlDeviceGetName(handle)),
            memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            emulated=False,
        )

    def _subscribe(self) -> Any:
        """Ask for critical XID events; None where the driver has none to give."""
        nvml = self._nvml
        try:
            events = nvml.nvmlEventSetCreate()
            for handle in self._handles:
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
        except nvml.NVMLError as error:
            log.warning("no XID events from this driver: %s", error)
            return None
        return events

    def _collect_xid(self) -> None:
        nvml = self._nvml
        while self._xid is not None:
            try:
                event = nvml.nvmlEventSetWait_v2(self._xid, 0)
            except nvml.NVMLError:
                return  # nothing waits there
            code = int(event.eventData)
            if code in _APPLICATION_XIDS:
                continue
            with suppress(nvml.NVMLError):
                self._faults[_text(nvml.nvmlDeviceGetUUID(event.device))] = f"the driver reported XID {code}"


_APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""XIDs that a faulty program causes on a sound device."""


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def find_devices(emulate: int | None, memory_bytes: int | None, *, seed: str = "") -> DeviceSource:
    """The NVIDIA devices of this machine, or emulated ones when there are none or `emulate` asks for them.

    Raises:
        DeviceError: the numbers are out of range.
    """
    if emulate is None and _torch_has_cuda():
        try:
            return NvidiaDevices()
        except DeviceError as error:
            log.info("%s Emulated devices take their place.", error)
    return EmulatedDevices(
        DEFAULT_EMULATED if emulate is None else emulate,
        DEFAULT_EMULATED_MEMORY if memory_bytes is None else memory_bytes,
        seed=seed,
    )


def _torch_has_cuda() -> bool:
    """Whether the device servers' PyTorch could use an NVIDIA device at all; found out without importing it."""
    try:
        return not metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return False
