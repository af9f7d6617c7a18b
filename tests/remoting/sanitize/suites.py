"""Runs test files in a Python whose Elara core was built with sanitizers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.remoting.native import ROOT
from tests.remoting.sanitize.build import environment, threads_environment


@dataclass
class Outcome:
    """What pytest came to, and what the sanitizers reported of any of its processes."""

    returncode: int
    output: str
    reports: list[str]

    @property
    def clean(self) -> bool:
        return self.returncode == 0 and not self.reports

    def __str__(self) -> str:
        parts = [*(report[:6000] for report in self.reports[:3]), self.output[-6000:]]
        return f"{len(self.reports)} reports of sanitizers\n" + "\n".join(parts)


def run(core: Path, arguments: Sequence[str], seconds: float, *, show: bool = False, threads: bool = False) -> Outcome:
    """Run pytest with these arguments, its client and its device servers on the core in the folder `core`.

    `threads`: the core was built for ThreadSanitizer, and only the client uses it.
    """
    with tempfile.TemporaryDirectory(prefix="elara-sanitize-") as folder:
        reports = Path(folder) / "report"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "600", *arguments]
        variables = environment(core, reports)
        if threads:
            # The sanitizer has its memory at fixed addresses, which a randomised layout may take.
            variables = threads_environment(core, reports)
            command = ["setarch", "-R", "env", *(f"{name}={value}" for name, value in variables.items()), *command]
            variables = {}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **variables},
            stdout=None if show else subprocess.PIPE,
            stderr=None if show else subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
        )
        found = [path.read_text(errors="replace") for path in sorted(Path(folder).glob("report*"))]
    return Outcome(done.returncode, done.stdout or "", [report for report in found if report.strip()])
