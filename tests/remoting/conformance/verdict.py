"""Holds the rows against the committed tables of exceptions, and writes them down."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]
Exceptions = dict[tuple[str, str], str]
TABLE = Path(__file__).with_name("exceptions.yaml")
EVERY = "all"
REQUIRED_ENTRIES = 690  # of op_db's 702 entries of PyTorch 2.13, or 703 of 2.14, one dtype each
REQUIRED_SHARE = 0.99  # of the pairs of entry and dtype that native CPU runs


class BadTable(ValueError):
    """A table of exceptions is not one; the text names the entry."""


def tables() -> list[Path]:
    """The table that holds for every version of PyTorch, and that of the installed minor version where it has one."""
    minor = ".".join(version("torch").split(".")[:2])
    own = TABLE.with_name(f"{TABLE.stem}-torch-{minor}.yaml")
    return [TABLE, own] if own.exists() else [TABLE]


def load_exceptions(*paths: Path) -> Exceptions:
    """(entry, dtype or "all") -> why it may disagree; without paths, of the committed tables.

    Raises:
        BadTable: a group without a reason, or a pair that stands in two groups.
    """
    found: Exceptions = {}
    for path in paths or tables():
        for group in yaml.safe_load(path.read_text(encoding="utf-8")) or []:
            reason, entries = group.get("reason"), group.get("entries") or {}
            if not isinstance(reason, str) or len(reason) < 10:
                raise BadTable(f"{path.name}: {', '.join(entries)} needs a reason in words")
            for name, dtypes in entries.items():
                for dtype in [EVERY] if dtypes == EVERY else dtypes:
                    if (name, dtype) in found:
                        raise BadTable(f"{path.name}: {name} {dtype} stands there twice")
                    found[name, dtype] = reason.strip()
    return found


def reason_for(row: Row, exceptions: Exceptions) -> str:
    """Why this row may disagree; empty where it may not."""
    return exceptions.get((row["name"], EVERY)) or exceptions.get((row["name"], row["dtype"]), "")


@dataclass
class Verdict:
    """What a run means. `failures` are sentences; none of them means that the run passed."""

    pairs: int
    agree: int
    identical: int
    calls: int
    metadata_mismatches: int
    failures: list[str] = field(default_factory=list)


def judge(rows: Sequence[Row], exceptions: Exceptions, *, whole: bool, thorough: bool) -> Verdict:
    """Compare a run with the exceptions. Metadata must agree where values may not.

    `thorough` (every variant, all the samples) also asks that no exception agrees: a shorter run may well miss what the
    exception is for. `whole` also asks for enough agreement and, if thorough, for exceptions that still exist.
    """
    agreeing = [row for row in rows if row["status"] == "agrees"]
    verdict = Verdict(
        pairs=len(rows),
        agree=len(agreeing),
        identical=sum(row["tensors"] == row["identical"] for row in agreeing),
        calls=sum(row.get("calls", 0) for row in rows),
        metadata_mismatches=sum(row.get("metadata_mismatches", 0) for row in rows),
    )
    for row in sorted(rows, key=lambda row: (row["name"], row["dtype"])):
        excepted = reason_for(row, exceptions)
        if row["status"] != "agrees" and not excepted:
            verdict.failures.append(f"{row['name']} {row['dtype']} {row['status']}: {row['detail']}")
        elif row["status"] == "agrees" and excepted and thorough:
            verdict.failures.append(f"{row['name']} {row['dtype']} agrees now: take it out of the exceptions")
    if verdict.metadata_mismatches:
        verdict.failures.append(f"{verdict.metadata_mismatches} metadata mismatches, and there must be none")
    if whole and thorough:
        known = {(row["name"], dtype) for row in rows for dtype in (row["dtype"], EVERY)}
        verdict.failures += [
            f"{name} {dtype} is no pair of the database: take it out of the exceptions"
            for name, dtype in sorted(set(exceptions) - known)
        ]
    if whole:
        comparable = sum(row["status"] != "no native result" for row in rows)
        required = math.ceil(comparable * REQUIRED_SHARE) if thorough else REQUIRED_ENTRIES
        if verdict.agree < required:
            verdict.failures.append(f"only {verdict.agree} of {comparable} agree, and at least {required} must")
    return verdict


def summary(verdict: Verdict, seconds: float) -> str:
    """The run in one line."""
    return (
        f"{verdict.agree} of {verdict.pairs} pairs of entry and dtype agree ({verdict.identical} to the last bit), "
        f"{verdict.calls} calls, {verdict.metadata_mismatches} metadata mismatches, {seconds:.0f} s"
    )


def write(rows: Sequence[Row], verdict: Verdict, exceptions: Exceptions, seconds: float, folder: Path) -> None:
    """Write conformance.json (every row) and conformance.md (the counts, and every row that does not agree)."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(rows, key=lambda row: (row["name"], row["dtype"]))
    (folder / "conformance.json").write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    dtypes = Counter(row.get("dtype") or "-" for row in rows)
    lines = ["# Conformance with native CPU", "", summary(verdict, seconds), ""]
    lines += [
        "| dtype | pairs |",
        "| --- | --- |",
        *(f"| {name} | {count} |" for name, count in dtypes.most_common()),
    ]
    lines += ["", "| entry | dtype | status | detail | exception |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row['name']} | {row.get('dtype', '')} | {row['status']} | {_cell(row['detail'])} "
        f"| {_cell(reason_for(row, exceptions))} |"
        for row in ordered
        if row["status"] != "agrees"
    ]
    (folder / "conformance.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
