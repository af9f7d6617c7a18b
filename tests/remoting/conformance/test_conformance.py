"""The whole operator database on an emulated device, and the rules by which a run fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.remoting.conformance import verdict
from tests.remoting.harness import ROOT

EXCEPTIONS = {"odd": "for a reason in words"}


def row(name: str, status: str = "agrees") -> dict[str, Any]:
    return {"name": name, "status": status, "detail": "a detail", "tensors": 1, "identical": 1}


@pytest.mark.timeout(900)
def test_the_operator_database_agrees_on_an_emulated_device(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.remoting.conformance", "--output", str(tmp_path)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=880)
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-2000:]
    assert "0 metadata mismatches" in (tmp_path / "conformance.md").read_text(encoding="utf-8")


def test_a_name_that_the_database_does_not_have_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.remoting.conformance", "no_such_entry", "--target", "native"]
    finished = subprocess.run(
        [*command, "--workers", "1", "--output", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert finished.returncode != 0
    assert "No such entry in the operator database: no_such_entry." in finished.stderr


def test_a_run_passes_when_only_the_exceptions_disagree() -> None:
    judged = verdict.judge([row("add"), row("odd", "disagrees")], EXCEPTIONS, whole=False)
    assert judged.failures == [] and judged.agree == 1 and judged.identical == 1


@pytest.mark.parametrize("status", ["disagrees", "error", "timeout", "crash", "no native result"])
def test_an_entry_that_is_no_exception_must_agree(status: str) -> None:
    judged = verdict.judge([row("add", status)], EXCEPTIONS, whole=False)
    assert judged.failures == [f"add {status}: a detail"]


def test_an_exception_that_agrees_must_leave_the_table() -> None:
    (failure,) = verdict.judge([row("odd")], EXCEPTIONS, whole=False).failures
    assert failure.startswith("odd agrees now: take it out of")


def test_a_whole_run_needs_enough_entries_and_a_table_without_strangers() -> None:
    failures = verdict.judge([row("add")], EXCEPTIONS, whole=True).failures
    assert any("odd is no entry of the database" in failure for failure in failures)
    assert any(f"only 1 entries agree, and at least {verdict.REQUIRED} must" in failure for failure in failures)


def test_every_exception_has_a_reason(tmp_path: Path) -> None:
    assert len(verdict.load_exceptions()) <= 702 - verdict.REQUIRED
    (tmp_path / "table.yaml").write_text("add: ''\n", encoding="utf-8")
    with pytest.raises(verdict.BadTable, match="add needs a reason"):
        verdict.load_exceptions(tmp_path / "table.yaml")
