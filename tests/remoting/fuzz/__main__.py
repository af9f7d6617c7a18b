"""`make fuzz`: fuzzes each target in turn, then keeps what is worth keeping of the inputs that it found.

python -m tests.remoting.fuzz [--minutes 10] [--keep]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.remoting.fuzz.build import ENVIRONMENT, TARGETS, build
from tests.remoting.fuzz.seeds import seeds

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
# The session has by far the most behind it.
SHARES = {"attachment": 0.1, "hello": 0.1, "replies": 0.2, "session": 0.6}
LIMITS = ("-timeout=20", "-rss_limit_mb=2048", "-max_len=4096", "-close_fd_mask=1")


def fuzz(program: Path, target: str, seconds: int, findings: Path) -> bool:
    """Whether it ran without a finding."""
    corpus = CORPUS / target
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as new, tempfile.TemporaryDirectory() as seeded:
        for number, data in enumerate(seeds(target)):
            (Path(seeded) / f"seed-{number}").write_bytes(data)
        command = [
            str(program),
            new,
            str(corpus),
            seeded,
            f"-max_total_time={seconds}",
            f"-artifact_prefix={findings}/",
        ]
        done = subprocess.run(
            [*command, *LIMITS, "-print_final_stats=1"], env={**os.environ, **ENVIRONMENT}, check=False, cwd=findings
        )
        if done.returncode == 0:
            merge(program, corpus, [Path(new), Path(seeded)])
    return done.returncode == 0


def merge(program: Path, corpus: Path, more: list[Path]) -> None:
    """Make the corpus the smallest set of inputs that reaches what all of them reach."""
    with tempfile.TemporaryDirectory() as fresh:
        subprocess.run(
            [str(program), "-merge=1", fresh, str(corpus), *map(str, more), *LIMITS],
            env={**os.environ, **ENVIRONMENT},
            check=True,
            stderr=subprocess.DEVNULL,
        )
        shutil.rmtree(corpus)
        shutil.copytree(fresh, corpus)


def main() -> int:
    """Exit status 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.remoting.fuzz", description="Fuzz what reads the wire.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--target", choices=TARGETS, help="only this one, for all of the time")
    options = parser.parse_args()
    folder = build()
    findings = folder / "findings"
    findings.mkdir(exist_ok=True)
    failed = []
    for target in [options.target] if options.target else TARGETS:
        share = 1.0 if options.target else SHARES[target]
        seconds = max(1, round(options.minutes * 60 * share))
        print(f"fuzzing {target} for {seconds} s", flush=True)
        if not fuzz(folder / f"fuzz_{target}", target, seconds, findings):
            failed.append(target)
    if failed:
        print(
            f"Found something in: {', '.join(failed)}. The inputs are in {findings}; run fuzz_<target> on one of them."
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
