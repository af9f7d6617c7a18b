"""The whole operator database on an emulated device, and the rules by which a run fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.remoting.conformance import verdict
from tests.remoting.harness import ROOT

EXCEPTIONS = {("odd", "all"): "for a reason in words", ("half", "float16"): "for another reason in words"}


def row(name: str, status: str = "agrees", dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "status": status, "detail": "a detail", "tensors": 1, "identical": 1}


def judge(*rows: dict[str, Any], whole: bool = False, thorough: bool = True) -> verdict.Verdict:
    return verdict.judge(rows, EXCEPTIONS, whole=whole, thorough=thorough)


def conformance(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.remoting.conformance", "--output", str(folder), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=880)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "options", [("--brief",), ("--sample", "0.1")], ids=["one dtype an entry", "a tenth of all pairs"]
)
def test_the_operator_database_agrees_on_an_emulated_device(options: tuple[str, ...], tmp_path: Path) -> None:
    finished = conformance(tmp_path, *options)
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-2000:]
    assert "0 metadata mismatches" in (tmp_path / "conformance.md").read_text(encoding="utf-8")


def test_a_run_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    options = ("add", "--target", "native", "--workers", "1", "--samples", "1")
    assert conformance(tmp_path, *options).returncode == 0
    record = tmp_path / "rows.jsonl"
    lines = record.read_text(encoding="utf-8").splitlines()
    record.write_text("\n".join(lines[:-2]) + "\n", encoding="utf-8")
    resumed = conformance(tmp_path, *options, "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    again = record.read_text(encoding="utf-8").splitlines()
    assert len(again) == len(lines) and again[: len(lines) - 2] == lines[:-2]


def test_a_name_that_the_database_does_not_have_is_refused(tmp_path: Path) -> None:
    finished = conformance(tmp_path, "no_such_entry", "--target", "native", "--workers", "1")
    assert finished.returncode != 0
    assert "No such entry in the operator database: no_such_entry." in finished.stderr


def test_a_run_passes_when_only_the_exceptions_disagree() -> None:
    judged = judge(row("add"), row("odd", "disagrees"), row("half", "disagrees", "float16"))
    assert judged.failures == [] and judged.agree == 1 and judged.identical == 1


@pytest.mark.parametrize("status", ["disagrees", "error", "timeout", "crash", "no native result"])
def test_a_pair_that_is_no_exception_must_agree(status: str) -> None:
    assert judge(row("add", status)).failures == [f"add float32 {status}: a detail"]
    assert judge(row("half", status)).failures == [f"half float32 {status}: a detail"]


def test_an_exception_that_agrees_must_leave_the_table() -> None:
    (failure,) = judge(row("odd")).failures
    assert failure.startswith("odd float32 agrees now: take it out of")
    assert judge(row("odd"), thorough=False).failures == [], "a short run may miss what the exception is for"


def test_metadata_must_agree_even_where_values_may_not() -> None:
    (failure,) = judge(row("odd", "disagrees") | {"metadata_mismatches": 2}).failures
    assert failure == "2 metadata mismatches, and there must be none"


def test_a_whole_run_needs_enough_agreement_and_a_table_without_strangers() -> None:
    failures = judge(row("add"), row("odd", "disagrees"), whole=True).failures
    assert any("half float16 is no pair of the database" in failure for failure in failures)
    assert any("only 1 of 2 agree, and at least 2 must" in failure for failure in failures)
    brief = judge(row("add"), whole=True, thorough=False).failures
    assert any(f"at least {verdict.REQUIRED_ENTRIES} must" in failure for failure in brief)


def test_every_exception_has_a_reason(tmp_path: Path) -> None:
    assert verdict.load_exceptions(*verdict.TABLE.parent.glob(f"{verdict.TABLE.stem}*.yaml"))
    table = tmp_path / "table.yaml"
    for text, sentence in (
        ("- {reason: '', entries: {add: all}}", "add needs a reason"),
        ("- {reason: for no reason, entries: {add: [bool, bool]}}", "add bool stands there twice"),
    ):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(verdict.BadTable, match=sentence):
            verdict.load_exceptions(table)


def test_a_version_of_pytorch_may_have_exceptions_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "TABLE", tmp_path / "exceptions.yaml")
    (tmp_path / "exceptions.yaml").write_text("- {reason: everywhere so, entries: {add: all}}", encoding="utf-8")
    (tmp_path / "exceptions-torch-9.1.yaml").write_text(
        "- {reason: new in that one, entries: {sub: [bool]}}", encoding="utf-8"
    )
    monkeypatch.setattr(verdict, "version", lambda name: "9.1.3+cpu")
    assert verdict.load_exceptions() == {("add", "all"): "everywhere so", ("sub", "bool"): "new in that one"}
    monkeypatch.setattr(verdict, "version", lambda name: "9.2.0")
    assert verdict.load_exceptions() == {("add", "all"): "everywhere so"}
