"""Flags of PyTorch's context (precision, determinism, kernels' choice) reach the device server."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.remoting.client.conftest import Bench
from tests.remoting.proxy import FaultyProxy
from tests.remoting.server import protocol


@pytest.fixture
def recording(bench: Bench, tmp_path: Path) -> Iterator[FaultyProxy]:
    """A device whose messages are recorded, from the connection's first byte on."""
    with FaultyProxy(bench.servers.sockets[0], tmp_path / "proxy.sock") as proxy:
        proxy.recorded = bytearray()
        bench.epoch += 1
        bench.servers.attach(epoch=bench.epoch, devices=1, local=True, through={0: proxy.address})
        assert torch.cuda.device_count() == 1
        yield proxy


def told(proxy: FaultyProxy) -> list[tuple[str, int]]:
    """The flags that the device server was told, in order."""
    torch.cuda.synchronize()
    assert proxy.recorded is not None
    flags, at = [], 64
    while at + 8 <= len(proxy.recorded):
        kind, length = proxy.recorded[at], struct.unpack_from("<I", proxy.recorded, at + 4)[0]
        if kind == protocol.CONTEXT:
            payload = bytes(proxy.recorded[at + 8 : at + 8 + length])
            flags.append((payload[4:-8].decode(), struct.unpack("<q", payload[-8:])[0]))
        at += 8 + length
    return flags


def test_a_session_begins_with_every_flag_as_it_stands(recording: FaultyProxy) -> None:
    torch.ones(1, device="cuda").item()
    flags = dict(told(recording))
    assert len(flags) == 14
    assert flags["allow_tf32_cublas"] == int(torch.backends.cuda.matmul.allow_tf32)
    assert flags["allow_tf32_cudnn"] == int(torch.backends.cudnn.allow_tf32)
    assert flags["cudnn_enabled"] == 1 and flags["benchmark_cudnn"] == 0 and flags["linalg_backend"] == 0


Change = Callable[[bool], object]
CHANGES: dict[str, tuple[Change, str]] = {
    "TF32 of products": (lambda on: setattr(torch.backends.cuda.matmul, "allow_tf32", on), "allow_tf32_cublas"),
    "TF32 of convolutions": (lambda on: setattr(torch.backends.cudnn, "allow_tf32", not on), "allow_tf32_cudnn"),
    "cuDNN's benchmark": (lambda on: setattr(torch.backends.cudnn, "benchmark", on), "benchmark_cudnn"),
    "cuDNN's determinism": (lambda on: setattr(torch.backends.cudnn, "deterministic", on), "deterministic_cudnn"),
    "determinism": (torch.use_deterministic_algorithms, "deterministic_algorithms"),
    "flash attention": (lambda on: torch.backends.cuda.enable_flash_sdp(not on), "sdp_flash"),
    "the linear algebra library": (
        lambda on: torch.backends.cuda.preferred_linalg_library("cusolver" if on else "default"),
        "linalg_backend",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_flag_that_is_changed_is_told_before_the_next_operator(what: str, recording: FaultyProxy) -> None:
    change, key = CHANGES[what]
    torch.ones(1, device="cuda").item()
    before = len(told(recording))
    try:
        change(True)
        (torch.eye(3, device="cuda") @ torch.eye(3, device="cuda")).sum().item()
    finally:
        change(False)
    values = [value for name, value in told(recording)[before:] if name == key]
    assert len(values) == 2 and values[0] != values[1]
