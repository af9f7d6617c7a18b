"""`pytest tests/remoting --device cuda`: the remoting suites with device servers on a GPU of this machine."""

from __future__ import annotations

import os

import pytest


def _device(config: pytest.Config) -> str:
    # A run of more than these suites does not have the option.
    return str(config.getoption("--device", default=os.environ.get("ELARA_TEST_DEVICE", "cpu")))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=("cpu", "cuda"),
        default=os.environ.get("ELARA_TEST_DEVICE", "cpu"),
        help="where the remoting suites' device servers compute: cpu (emulated devices) or cuda (a GPU)",
    )


def pytest_configure(config: pytest.Config) -> None:
    # The suites start processes of their own, which have to know as well.
    os.environ["ELARA_TEST_DEVICE"] = _device(config)
    if _device(config) == "cuda":
        # This process is a client's: the GPU is the device servers'.
        os.environ.setdefault("ELARA_TEST_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES") or "0")
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
