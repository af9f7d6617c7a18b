"""A worker process: announces the entries, then checks those that it is told to, one JSON line each.

The protocol keeps standard output to itself; whatever else writes there ends in the worker's log (standard error).
"""

from __future__ import annotations

import json
import os
import sys
import traceback


def main() -> None:
    """`worker.py DEVICE SAMPLES plain|every`: reads "entry dtype" lines from standard input, until it closes."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    device, count, every = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "every"

    import torch

    torch.set_num_threads(1)  # so that sums are added in the same order on both sides
    from tests.remoting.conformance.check_entry import Result, check
    from tests.remoting.conformance.entries import by_name, dtypes_of

    entries = by_name()
    if device != "cpu":
        torch.zeros(1, device=device).cpu()
    known = {name: [str(dtype).removeprefix("torch.") for dtype in dtypes_of(entry)] for name, entry in entries.items()}
    print(json.dumps({"entries": known}), file=answers)
    for line in sys.stdin:
        name, dtype = line.split()
        try:
            result = check(entries[name], device, count, getattr(torch, dtype), every_variant=every)
        except BaseException as error:
            traceback.print_exc()
            result = Result(name, dtype, status="error", detail=f"{type(error).__name__}: {error}"[:300])
        alive = device == "cpu" or answers_still(device)
        print(json.dumps({**result.as_dict(), "device_alive": alive}), file=answers)
        if not alive:
            return


def answers_still(device: str) -> bool:
    """Whether the device computes; an entry that took the device server down ends this worker."""
    import torch

    try:
        return bool(torch.ones(1, device=device).add(1).item() == 2.0)
    except RuntimeError:
        try:  # an error that the entry left behind is reported once, a lost device again and again
            return bool(torch.ones(1, device=device).add(1).item() == 2.0)
        except RuntimeError:
            traceback.print_exc()
            return False


if __name__ == "__main__":
    main()
