"""Whether kernels can use a device is found out without importing torch, and said in words."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from jupyterlab_elara.environment import why_no_devices


@pytest.fixture
def core(tmp_path: Path) -> Path:
    (tmp_path / "torch_2_13").mkdir()
    (tmp_path / "torch_2_13" / "libelara_core.so").touch()
    return tmp_path


def test_the_right_torch_is_fine(core: Path) -> None:
    assert why_no_devices(core, lambda name: "2.13.0+cpu") is None


def test_no_torch_is_said(core: Path) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    assert "PyTorch is not installed" in str(why_no_devices(core, missing))


def test_another_torch_is_said_with_the_one_to_install(core: Path) -> None:
    text = str(why_no_devices(core, lambda name: "2.14.1"))
    assert "PyTorch 2.14.1" in text
    assert "torch==2.13.*" in text


def test_no_core_is_said(tmp_path: Path) -> None:
    assert "core is not built" in str(why_no_devices(tmp_path, lambda name: "2.13.0"))


def test_an_image_in_which_nothing_can_be_attached_says_so_itself(core: Path) -> None:
    assert why_no_devices(core, lambda name: "2.13.0", image_note="Not yet in JAX.") == "Not yet in JAX."


def test_torch_is_not_imported_in_the_server() -> None:
    code = (
        "import sys; from jupyterlab_elara import _jupyter_server_extension_points as points; points();"
        "from jupyterlab_elara.environment import why_no_devices; why_no_devices(); print('torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    paths = f"{root / 'extensions' / 'jupyterlab-elara'}:{root / 'remoting'}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": paths}
    )
    assert done.stdout.strip() == "False"
