"""What one check found."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """`message` says what is; `next_step` what to do, and is empty only where all is well."""

    check: str
    state: str
    message: str
    next_step: str = ""


def ok(check: str, message: str) -> Finding:
    return Finding(check, OK, message)


def warning(check: str, message: str, next_step: str) -> Finding:
    return Finding(check, WARNING, message, next_step)


def problem(check: str, message: str, next_step: str) -> Finding:
    return Finding(check, PROBLEM, message, next_step)
