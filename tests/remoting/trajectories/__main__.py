"""Holds the losses of 50 steps of every program on an emulated device against native ones.

python -m tests.remoting.trajectories [PROGRAM ...]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.remoting.trajectories import comparison


def main(programs: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="elara-trajectories-") as folder:
        native, remote = comparison.run(Path(folder), comparison.STEPS, programs, 3600)
    failed = 0
    identical = 0
    for name in programs or comparison.names():
        sentence = comparison.failures(name, native, remote)
        failed += bool(sentence)
        if sentence:
            print(f"FAILED {sentence}")
            continue
        apart = comparison.difference(name, native, remote)
        identical += apart == 0
        if apart == 0 and name in comparison.TOLERANCES and not comparison.ON_CUDA:
            failed += 1
            print(f"FAILED {name} is equal to the last bit now: take its tolerance away")
        print(f"{name}: {'identical' if apart == 0 else f'{apart:.1e} apart'}")
    print(f"{comparison.STEPS} steps: {identical} identical, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
