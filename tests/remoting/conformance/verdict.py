"""Holds the rows against the committed table of exceptions, and writes them down."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]
TABLE = Path(__file__).with_name("exceptions.yaml")
REQUIRED = 690  # of op_db's 702 entries of PyTorch 2.13


class BadTable(ValueError):
    """The table of exceptions is not one; the text names the entry."""


def load_exceptions(path: Path = TABLE) -> dict[str, str]:
    """Entry name -> why it may disagree.

    Raises:
        BadTable: an entry without a reason.
    """
    table = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for name, reason in table.items():
        if not isinstance(reason, str) or len(reason) < 10:
            raise BadTable(f"{path.name}: {name} needs a reason in words")
    return dict(table)


@dataclass
class Verdict:
    """What a run means. `failures` are sentences; none of them means that the run passed."""

    entries: int
    agree: int
    identical: int
    metadata_mismatches: int
    failures: list[str] = field(default_factory=list)


def judge(rows: Sequence[Row], exceptions: dict[str, str], *, whole: bool) -> Verdict:
    """Compare a run with the table; `whole` also asks for enough agreement and for exceptions that still exist."""
    agreeing = [row for row in rows if row["status"] == "agrees"]
    verdict = Verdict(
        entries=len(rows),
        agree=len(agreeing),
        identical=sum(row["tensors"] == row["identical"] for row in agreeing),
        metadata_mismatches=sum(row.get("metadata_mismatches", 0) for row in rows),
    )
    for row in sorted(rows, key=lambda row: row["name"]):
        excepted = row["name"] in exceptions
        if row["status"] != "agrees" and not excepted:
            verdict.failures.append(f"{row['name']} {row['status']}: {row['detail']}")
        elif row["status"] == "agrees" and excepted:
            verdict.failures.append(f"{row['name']} agrees now: take it out of {TABLE.name}")
    if whole:
        gone = sorted(set(exceptions) - {row["name"] for row in rows})
        verdict.failures += [f"{name} is no entry of the database: take it out of {TABLE.name}" for name in gone]
        if verdict.agree < REQUIRED:
            verdict.failures.append(f"only {verdict.agree} entries agree, and at least {REQUIRED} must")
    return verdict


def summary(verdict: Verdict, seconds: float) -> str:
    """The run in one line."""
    return (
        f"{verdict.agree} of {verdict.entries} entries agree ({verdict.identical} to the last bit), "
        f"{verdict.metadata_mismatches} metadata mismatches, {seconds:.0f} s"
    )


def write(rows: Sequence[Row], verdict: Verdict, exceptions: dict[str, str], seconds: float, folder: Path) -> None:
    """Write conformance.json (every row) and conformance.md (the counts, and every row that does not agree)."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(rows, key=lambda row: row["name"])
    (folder / "conformance.json").write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    dtypes = Counter(row.get("dtype") or "-" for row in rows)
    lines = ["# Conformance with native CPU", "", summary(verdict, seconds), ""]
    lines += [
        "| dtype | entries |",
        "| --- | --- |",
        *(f"| {name} | {count} |" for name, count in dtypes.most_common()),
    ]
    lines += ["", "| entry | dtype | status | detail | exception |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row['name']} | {row.get('dtype', '')} | {row['status']} | {_cell(row['detail'])} "
        f"| {_cell(exceptions.get(row['name'], ''))} |"
        for row in ordered
        if row["status"] != "agrees"
    ]
    (folder / "conformance.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
