import types

import pytest

from elara_remoting.node import devices
from elara_remoting.node.devices import DeviceError, EmulatedDevices, NvidiaDevices, find_devices

GIB = 2**30


def test_emulated_devices_say_that_they_are_and_keep_their_names():
    first, second = EmulatedDevices(2, GIB, seed="here").devices()
    assert first.emulated and second.emulated and "emulated" in first.model.lower()
    assert first.uuid != second.uuid and first.uuid.startswith("EMU-")
    assert EmulatedDevices(2, GIB, seed="here").devices() == [first, second]
    assert EmulatedDevices(1, GIB, seed="there").devices()[0].uuid != first.uuid


@pytest.mark.parametrize(("count", "memory", "expected"), [(0, GIB, "1 to 64"), (65, GIB, "1 to 64"), (1, 5, "1 MiB")])
def test_impossible_emulated_devices_are_refused(count, memory, expected):
    with pytest.raises(DeviceError, match=expected):
        EmulatedDevices(count, memory)


def test_a_machine_without_a_driver_gets_two_emulated_devices_of_2_gib():
    found = find_devices(None, None).devices()
    assert [(device.emulated, device.memory_bytes) for device in found] == [(True, 2 * GIB)] * 2


class Nvml(types.ModuleType):
    """The part of NVML that we use, for a machine with two devices: the library itself needs the hardware."""

    NVML_TEMPERATURE_GPU = NVML_TEMPERATURE_THRESHOLD_SHUTDOWN = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = NVML_VOLATILE_ECC = nvmlEventTypeXidCriticalError = 0

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    def __init__(self):
        super().__init__("pynvml")
        self.temperature, self.errors, self.gone, self.xid, self.pending = 40, 0, False, [], 0

    def nvmlInit(self):
        pass

    nvmlShutdown = nvmlInit

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetUUID(self, handle):
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle):
        return b"NVIDIA H100 80GB HBM3"

    def nvmlDeviceGetMemoryInfo(self, handle):
        return types.SimpleNamespace(total=80 * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle):
        return types.SimpleNamespace(gpu=7)

    def nvmlDeviceGetTemperature(self, handle, sensor):
        if self.gone and handle == 1:
            raise self.NVMLError("GPU is lost")
        return self.temperature if handle == 1 else 40

    def nvmlDeviceGetTemperatureThreshold(self, handle, kind):
        raise self.NVMLError_NotSupported

    def nvmlDeviceGetTotalEccErrors(self, handle, kind, counter):
        return self.errors if handle == 1 else 0

    def nvmlDeviceGetRetiredPagesPendingStatus(self, handle):
        return self.pending if handle == 1 else 0

    def nvmlEventSetCreate(self):
        return object()

    def nvmlDeviceRegisterEvents(self, handle, kinds, events):
        pass

    def nvmlEventSetWait_v2(self, events, milliseconds):
        if not self.xid:
            raise self.NVMLError("timeout")
        return types.SimpleNamespace(device=1, eventData=self.xid.pop())


@pytest.fixture
def nvml(monkeypatch):
    library = Nvml()
    monkeypatch.setitem(__import__("sys").modules, "pynvml", library)
    return library


def test_nvidia_devices_are_read(nvml):
    source = NvidiaDevices()
    first, second = source.devices()
    assert (first.uuid, first.model, first.memory_bytes) == ("GPU-0", "NVIDIA H100 80GB HBM3", 80 * GIB)
    assert not first.emulated and first.healthy and second.healthy
    assert source.health(0, "GPU-0").utilisation == 7 and source.health(0, "GPU-0").temperature == 40


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        ({"temperature": 97}, "too hot: 97"),
        ({"errors": 3}, "3 uncorrectable memory errors"),
        ({"gone": True}, "does not answer"),
        ({"pending": 1}, "wait for retirement"),
        ({"xid": [79]}, "XID 79"),
    ],
)
def test_a_faulty_device_is_named_and_the_other_stays_sound(nvml, trouble, expected):
    source = NvidiaDevices()
    for name, value in trouble.items():
        setattr(nvml, name, value)
    first, second = source.devices()
    assert first.healthy and not second.healthy
    assert expected in second.fault


def test_a_user_s_own_fault_does_not_condemn_the_device(nvml):
    source = NvidiaDevices()
    nvml.xid = [13, 31]
    assert all(device.healthy for device in source.devices())


def test_nvidia_devices_are_offered_only_when_torch_can_use_them(nvml, monkeypatch):
    monkeypatch.setattr(devices.metadata, "version", lambda name: "2.13.0+cu130")
    assert not find_devices(None, None).devices()[0].emulated
    assert find_devices(1, None).devices()[0].emulated, "asked for emulated ones"
    monkeypatch.setattr(devices.metadata, "version", lambda name: "2.13.0+cpu")
    assert find_devices(None, None).devices()[0].emulated
