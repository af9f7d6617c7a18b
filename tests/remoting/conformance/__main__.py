"""Compare a remote device with native CPU over PyTorch's own operator database.

    python -m tests.remoting.conformance                       every entry in every dtype and variant, 8 samples
    python -m tests.remoting.conformance --brief               one dtype an entry, 4 samples, forward and gradient
    python -m tests.remoting.conformance add softmax_dtype     those entries
    python -m tests.remoting.conformance --sample 0.1          a seeded tenth
    python -m tests.remoting.conformance --shard 1/4           every fourth pair of entry and dtype
    python -m tests.remoting.conformance --resume              goes on where a run was broken off
    python -m tests.remoting.conformance --target native       the runner against itself

Exit status 0: everything agrees, apart from what exceptions.yaml names with a reason.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.remoting.conformance import target, verdict, workers

SAMPLE_SEED = 7
BRIEF_SAMPLES, FULL_SAMPLES = 4, 8


def choose(entries: workers.Entries, options: argparse.Namespace) -> list[workers.Pair]:
    """The pairs that the options ask for, in the database's order.

    Raises:
        SystemExit: a name that the database does not have.
    """
    unknown = sorted(set(options.entries) - set(entries))
    if unknown:
        raise SystemExit(f"No such entry in the operator database: {', '.join(unknown)}.")
    named = {name: entries[name] for name in entries if not options.entries or name in options.entries}
    if options.dtype:
        chosen = [(name, options.dtype) for name, dtypes in named.items() if options.dtype in dtypes]
    elif options.brief:
        chosen = [(name, dtypes[0]) for name, dtypes in named.items()]
    else:
        chosen = [(name, dtype) for name, dtypes in named.items() for dtype in dtypes]
    index, count = options.shard
    chosen = chosen[index - 1 :: count]
    if options.sample < 1:
        kept = set(random.Random(SAMPLE_SEED).sample(chosen, max(1, round(len(chosen) * options.sample))))
        chosen = [pair for pair in chosen if pair in kept]
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
    parser.add_argument("--brief", action="store_true", help="one dtype an entry, 4 samples, forward and gradient only")
    parser.add_argument("--dtype", default="", help="a dtype's name: only the entries that support it, in it")
    parser.add_argument("--samples", type=int, help="sample inputs a pair (default 8, 4 with --brief); 0 for all")
    parser.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N", help="the I-th of N parts")
    parser.add_argument("--sample", type=float, default=1.0, metavar="FRACTION", help="a seeded choice of the pairs")
    parser.add_argument("--workers", type=int, default=2, help="worker processes, each with a device of its own")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a pair may take")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the output folder has already")
    parser.add_argument("--output", type=Path, default=Path("build/conformance"), help="folder of the result tables")
    options = parser.parse_args(arguments)
    if options.samples is None:
        options.samples = BRIEF_SAMPLES if options.brief else FULL_SAMPLES
    return options


async def compare(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run it all, with a line of progress now and then; the rows, which rows.jsonl in the output folder has too."""
    kind = target.TARGETS[options.target]
    plan = workers.Plan(kind.device, options.samples, not options.brief, options.limit, options.workers)
    options.output.mkdir(parents=True, exist_ok=True)
    record = options.output / "rows.jsonl"
    rows: list[dict[str, Any]] = []
    if options.resume and record.exists():
        rows = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    done = {(row["name"], row["dtype"]) for row in rows}
    started, told = time.monotonic(), 0.0

    def left(entries: workers.Entries) -> list[workers.Pair]:
        return [pair for pair in choose(entries, options) if pair not in done]

    with record.open("w" if not rows else "a", encoding="utf-8", buffering=1) as recorded:
        async for picked, row in workers.run(plan, kind.environment, folder, left):
            rows.append(row)
            recorded.write(json.dumps(row) + "\n")
            if row["status"] != "agrees":
                print(f"  {row['name']} {row['dtype']} {row['status']}: {row['detail']}"[:400])
            elapsed = time.monotonic() - started
            if elapsed - told > 10 or len(rows) == picked + len(done):
                told = elapsed
                agreeing = sum(row["status"] == "agrees" for row in rows)
                print(f"{len(rows)}/{picked + len(done)} pairs, {agreeing} agree, {elapsed:.0f} s", flush=True)
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
    part = options.entries or options.shard[1] > 1 or options.sample < 1 or options.dtype
    whole = not part and options.target == "remote"
    thorough = not options.brief and options.samples == FULL_SAMPLES
    seconds = time.monotonic() - started
    result = verdict.judge(rows, exceptions, whole=whole, thorough=thorough)
    verdict.write(rows, result, exceptions, seconds, options.output)
    print(f"\n{verdict.summary(result, seconds)}. Tables in {options.output}/.")
    if options.target == "native":
        return 0
    for sentence in result.failures:
        print(f"FAILED {sentence}"[:500])
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
