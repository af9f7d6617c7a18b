"""`make gpu-check`: is this machine fit to be a GPU node? Builds the core for its PyTorch, runs the suites on a GPU.

    python3 -m tests.remoting.gpu                everything, on the first GPU
    python3 -m tests.remoting.gpu server figures those sections
    python3 -m tests.remoting.gpu --device cpu   the same on emulated devices, to try the check itself

Needs a CUDA build of PyTorch, a C++ compiler, OpenSSL's headers, cmake, ninja, and the Python packages pytest,
pytest-timeout, psutil and nvidia-ml-py; nothing is downloaded. Each section is a process with a time limit of its own,
and one that fails does not keep the others from running. Logs and `summary.json` go to the folder `--output`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PYTEST = (
    "-m",
    "pytest",
    "-q",
    "-p",
    "no:cacheprovider",
    "--confcutdir",
    "tests/remoting",
    "--timeout",
    "100",
    "--timeout-method",
    "thread",
)


@dataclass
class Section:
    """One part of the check: its command after `python`, its limit in seconds, and whether it must run alone."""

    name: str
    command: tuple[str, ...]
    limit: int
    alone: bool = False


@dataclass
class Outcome:
    """How a section ended: its exit status (None: it was stopped at its limit) and its last lines."""

    name: str
    status: int | None
    seconds: float
    last: list[str]


def sections(device: str) -> list[Section]:
    """What there is to run, in order; neighbours that need not be alone run at the same time."""

    def suite(name: str, *paths: str, limit: int = 150) -> Section:
        return Section(name, (*PYTEST, "--device", device, *(f"tests/remoting/{path}" for path in paths)), limit)

    return [
        Section("build", ("-m", "tests.remoting.gpu.build"), 300, alone=True),
        Section("facts", ("-m", "tests.remoting.gpu.facts"), 60, alone=True),
        Section("figures", ("-m", "tests.remoting.gpu.figures"), 120, alone=True),
        suite("server", "server"),
        suite("device", "gpu/check_device.py"),
        suite("client", "client"),
        suite("programs", "programs", limit=200),
        suite("stock", "stock"),
        Section("losses", ("-m", "tests.remoting.gpu.losses"), 200),
        Section("conformance", ("-m", "tests.remoting.conformance", "--sample", "0.12", "--limit", "30"), 200),
    ]


def run(section: Section, folder: Path, environment: dict[str, str]) -> Outcome:
    """Run a section to its end or its limit; what it wrote is in the folder."""
    log = folder / f"{section.name}.log"
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *section.command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(section.limit)
        except subprocess.TimeoutExpired:
            status = None
        # What a section left running would disturb the next one.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    lines = log.read_text(errors="replace").strip().splitlines()
    return Outcome(section.name, status, round(time.monotonic() - began, 1), lines[-40:])


def waves(chosen: list[Section]) -> list[list[Section]]:
    """The sections in groups that run at the same time."""
    groups: list[list[Section]] = []
    for section in chosen:
        if section.alone or not groups or groups[-1][0].alone:
            groups.append([section])
        else:
            groups[-1].append(section)
    return groups


def telling(outcome: Outcome) -> list[str]:
    """The lines of a section that say how it went: failures, counts, figures."""
    if outcome.name in ("figures", "facts", "losses"):
        return outcome.last
    marks = ("FAILED", "ERROR", " passed", " failed", "agree", "error:")
    return [line[:300] for line in outcome.last if any(mark in line for mark in marks)] or outcome.last[-3:]


def main(arguments: list[str]) -> int:
    """Run the check; exit status 0 when every section passed."""
    purpose = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python3 -m tests.remoting.gpu", description=purpose)
    parser.add_argument("sections", nargs="*", help="which sections; default all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where device servers compute")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu-check", help="folder of logs and summary")
    parser.add_argument("--parallel", type=int, default=min(6, os.cpu_count() or 2), help="sections at a time")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    chosen = [s for s in sections(options.device) if not options.sections or s.name in options.sections]
    path = os.pathsep.join(filter(None, (str(ROOT), str(ROOT / "remoting"), os.environ.get("PYTHONPATH", ""))))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "ELARA_TEST_DEVICE": options.device,
        "ELARA_TEST_GPUS": os.environ.get("CUDA_VISIBLE_DEVICES") or "0",
    }
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(options.parallel) as pool:
        for wave in waves(chosen):
            for outcome in pool.map(lambda section: run(section, options.output, environment), wave):
                outcomes.append(outcome)
                ended = "stopped at its limit" if outcome.status is None else f"exit status {outcome.status}"
                print(f"{outcome.name}: {ended}, {outcome.seconds} s", flush=True)
                rows = [asdict(done) for done in outcomes]
                (options.output / "summary.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for outcome in outcomes:
        print(f"\n== {outcome.name}: {'ok' if outcome.status == 0 else 'FAILED'} ({outcome.seconds} s)")
        print("\n".join(telling(outcome)[-26:]))
    return 0 if all(outcome.status == 0 for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
