"""The training programs, natively on the GPU and remotely: how far their losses lie apart."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.remoting.harness import ON_CUDA, ROOT, DeviceServers, native_environment

MOST = 1e-3


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of two runs' losses, by the largest loss: one close to zero has few digits left."""
    first, second = ([float.fromhex(loss) for loss in row["losses"]] for row in (one, other))
    return max(abs(a - b) for a, b in zip(first, second, strict=True)) / max(map(abs, second))


def main() -> int:
    """Exit status 1 when a program fails, or its losses are further from native ones than `MOST` and their noise."""
    command = [sys.executable, "-m", "tests.remoting.trajectories.run"]
    with tempfile.TemporaryDirectory() as folder, DeviceServers(Path(folder), torch_threads=1) as servers:
        here = (native_environment(), "cuda" if ON_CUDA else "cpu")
        sides = (here, (servers.environment, "cuda"), here)  # natively twice: some of CUDA's kernels differ by the run
        running = [
            subprocess.Popen([*command, device], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
            for environment, device in sides
        ]
        native, remote, again = (
            {row["name"]: row for row in map(json.loads, process.communicate()[0].splitlines())} for process in running
        )
    apart: dict[str, float] = {}
    noise: dict[str, float] = {}
    failed = []
    for name, theirs in native.items():
        ours = remote.get(name, {"error": "its process ended before"})
        if "error" in ours or "error" in theirs:
            failed.append(f"FAILED {name}: {ours.get('error', '')} natively: {theirs.get('error', 'fine')}"[:400])
            continue
        apart[name] = distance(ours, theirs)
        noise[name] = distance(again[name], theirs)
    for name, difference in sorted(apart.items(), key=lambda item: -item[1]):
        mark = "FAILED " if difference > MOST + 3 * noise[name] else ""
        seconds = remote[name]["seconds"] / max(native[name]["seconds"], 1e-9)
        print(f"{mark}{name}: {difference:.1e}, natively again {noise[name]:.1e} (time {seconds:.2f} of native)")
    print(*failed, sep="\n")
    identical = sum(difference == 0 for difference in apart.values())
    print(f"{len(apart)} of {len(native)} programs agree in kind, {identical} to the last bit")
    return 1 if failed or any(apart[name] > MOST + 3 * noise[name] for name in apart) else 0


if __name__ == "__main__":
    sys.exit(main())
