"""Compare a remote device with native CPU over PyTorch's own operator database.

    python -m tests.remoting.conformance                       every entry on an emulated device
    python -m tests.remoting.conformance add softmax_dtype     those entries
    python -m tests.remoting.conformance --sample 0.1          a seeded tenth
    python -m tests.remoting.conformance --shard 1/4           every fourth entry
    python -m tests.remoting.conformance --target native       the runner against itself

Exit status 0: everything agrees, apart from what exceptions.yaml names with a reason.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.remoting.conformance import target, verdict, workers

SAMPLE_SEED = 7


def choose(names: list[str], options: argparse.Namespace) -> list[str]:
    """The entries that the options ask for, in the database's order.

    Raises:
        SystemExit: a name that the database does not have.
    """
    unknown = sorted(set(options.entries) - set(names))
    if unknown:
        raise SystemExit(f"No such entry in the operator database: {', '.join(unknown)}.")
    chosen = [name for name in names if name in options.entries] if options.entries else list(names)
    index, count = options.shard
    chosen = chosen[index - 1 :: count]
    if options.sample < 1:
        kept = set(random.Random(SAMPLE_SEED).sample(chosen, max(1, round(len(chosen) * options.sample))))
        chosen = [name for name in chosen if name in kept]
    return chosen


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command's options."""

    def shard(text: str) -> tuple[int, int]:
        index, _, count = text.partition("/")
        if not 1 <= int(index) <= int(count):
            raise ValueError(text)
        return int(index), int(count)

    purpose = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.remoting.conformance", description=purpose)
    parser.add_argument("entries", nargs="*", help="names of entries, as the tables spell them; default all")
    parser.add_argument(
        "--target",
        choices=sorted(target.TARGETS),
        default=next(iter(target.TARGETS)),
        help="what to compare",
    )
    parser.add_argument("--dtype", default="", help="a dtype's name: taken by the entries that support it")
    parser.add_argument("--samples", type=int, default=4, help="sample inputs an entry; 0 for all")
    parser.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N", help="the I-th of N parts")
    parser.add_argument("--sample", type=float, default=1.0, metavar="FRACTION", help="a seeded choice of the entries")
    parser.add_argument("--workers", type=int, default=2, help="worker processes, each with a device of its own")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds an entry may take")
    parser.add_argument("--output", type=Path, default=Path("build/conformance"), help="folder of the result tables")
    return parser.parse_args(arguments)


async def compare(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run it all, with a line of progress now and then; the rows."""
    kind = target.TARGETS[options.target]
    plan = workers.Plan(kind.device, options.samples, options.dtype, options.limit, options.workers)
    rows: list[dict[str, Any]] = []
    started, told = time.monotonic(), 0.0
    async for picked, row in workers.run(plan, kind.environment, folder, lambda names: choose(names, options)):
        rows.append(row)
        if row["status"] != "agrees":
            print(f"  {row['name']} {row['status']}: {row['detail']}"[:400])
        elapsed = time.monotonic() - started
        if elapsed - told > 10 or len(rows) == picked:
            told = elapsed
            agreeing = sum(done["status"] == "agrees" for done in rows)
            print(f"{len(rows)}/{picked} entries, {agreeing} agree, {elapsed:.0f} s", flush=True)
    return rows


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    exceptions = verdict.load_exceptions()
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="elara-conformance-"))
    try:
        rows = asyncio.run(compare(options, folder))
    except workers.WorkerFailed as failure:
        print(failure, file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    whole = not options.entries and options.shard[1] == 1 and options.sample >= 1 and not options.dtype
    seconds = time.monotonic() - started
    result = verdict.judge(rows, exceptions, whole=whole and options.target == "remote")
    verdict.write(rows, result, exceptions, seconds, options.output)
    print(f"\n{verdict.summary(result, seconds)}. Tables in {options.output}/.")
    if options.target == "native":
        return 0
    for sentence in result.failures:
        print(f"FAILED {sentence}"[:500])
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
