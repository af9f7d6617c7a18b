"""The example notebook's own cells: an epoch on the CPU, an attachment, the rest of the training on the device."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.remoting.harness import ROOT, DeviceServers

NOTEBOOK = ROOT / "examples" / "digits.ipynb"


def cells(tag: str) -> str:
    """The source of the cells that carry `tag`, in order."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    marked = [cell for cell in notebook["cells"] if tag in cell["metadata"].get("tags", [])]
    assert marked, f"the notebook has no cell marked {tag!r}"
    return "\n\n".join("".join(cell["source"]) for cell in marked)


def test_the_notebook_from_its_first_cell_to_its_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    variables: dict[str, Any] = {}

    def execute(tag: str) -> None:
        exec(compile(cells(tag), f"{NOTEBOOK.name}:{tag}", "exec"), variables)

    execute("setup")
    assert variables["device"] == "cpu"
    execute("cpu")
    with DeviceServers(Path(os.environ["ELARA_RUNTIME_DIR"]), memory=1 << 30) as servers:
        deadline = time.monotonic() + 10
        while not variables["torch"].cuda.is_available():
            assert time.monotonic() < deadline, "the attachment was not noticed"
            time.sleep(0.01)
        execute("attached")
        assert variables["device"] == "cuda"
        assert next(variables["model"].parameters()).is_cuda
        execute("train")
        assert variables["test_accuracy"] >= 0.98
        execute("detach")
        servers.detach()
    assert "emulated (CPU)" in capsys.readouterr().out
