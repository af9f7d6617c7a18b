"""Runs every program on a device: one JSON line each, the losses as they are, to the last bit.

python -m tests.remoting.trajectories.run cpu|cuda STEPS [PROGRAM ...]
"""

from __future__ import annotations

import json
import sys
import time

import torch

from tests.remoting.trajectories.models import PROGRAMS


def main(device: str, steps: int, names: list[str]) -> None:
    torch.set_num_threads(1)  # so that sums are added in the same order on both sides
    for name in names or PROGRAMS:
        started = time.monotonic()
        try:
            row = {"name": name, "losses": [loss.hex() for loss in PROGRAMS[name](device, steps)]}
        except Exception as error:
            row = {"name": name, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps({**row, "seconds": round(time.monotonic() - started, 3)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
