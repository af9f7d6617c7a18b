"""A workspace with nothing attached: torch is as it was, silent and as quick to import."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping

import pytest
import torch


def python(code: str, environment: Mapping[str, str] = os.environ) -> str:
    """What a fresh interpreter prints, on both its streams."""
    command = [sys.executable, "-W", "default", "-c", code]
    return subprocess.run(command, env=dict(environment), check=True, text=True, capture_output=True).stdout


def test_nothing_is_there_and_nothing_is_said() -> None:
    code = (
        "import torch\n"
        "print(torch.cuda.is_available(), torch.cuda.device_count(), torch.accelerator.is_available())\n"
        "x = torch.ones(3, requires_grad=True)\n(x * 2).sum().backward()\ntorch.manual_seed(0)\nprint(x.grad.tolist())"
    )
    command = [sys.executable, "-W", "default", "-c", code]
    finished = subprocess.run(command, check=True, text=True, capture_output=True)
    assert finished.stdout == "False 0 False\n[2.0, 2.0, 2.0]\n"
    without = subprocess.run(
        command, check=True, text=True, capture_output=True, env={**os.environ, "ELARA_DISABLE": "1"}
    )
    assert finished.stderr == without.stderr


def test_asking_for_a_device_all_the_same_is_an_error_with_the_next_step() -> None:
    uses: list[Callable[[], object]] = [lambda: torch.ones(1, device="cuda"), lambda: torch.ones(1).cuda()]
    for use in [*uses, torch.cuda.current_device]:
        with pytest.raises((RuntimeError, AssertionError), match=r"(?i)attach"):
            use()


def test_the_usual_choice_of_a_device_chooses_the_cpu() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert torch.ones(2, device=device).device.type == "cpu"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert not torch.amp.GradScaler("cpu", enabled=False).is_enabled()


def test_importing_torch_costs_hardly_more() -> None:
    """The takeover's own time, as the processor counts it, so that a busy machine does not matter."""
    code = (
        "import os, time\n"
        "directory = os.environ.pop('ELARA_RUNTIME_DIR')\n"
        "import torch\n"
        "from elara_remoting.client import autoload\n"
        "os.environ['ELARA_RUNTIME_DIR'] = directory\n"
        "started = time.process_time()\n"
        "autoload.autoload()\n"
        "print(time.process_time() - started)\n"
    )
    assert min(float(python(code)) for _ in range(3)) < 0.15


def test_outside_a_workspace_nothing_at_all_is_loaded() -> None:
    outside = {name: value for name, value in os.environ.items() if name != "ELARA_RUNTIME_DIR"}
    code = "import sys, torch; print([name for name in sys.modules if name.startswith('elara_remoting.client.')])"
    assert python(code, outside) == "['elara_remoting.client.autoload']\n"
