"""The training programs, natively on the GPU and remotely: how far their losses lie apart."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.remoting.harness import ON_CUDA, ROOT, DeviceServers, native_environment

MOST = 1e-3


def main() -> int:
    """Exit status 1 when a program fails, or its losses differ by more than `MOST` of the largest at any step."""
    command = [sys.executable, "-m", "tests.remoting.trajectories.run"]
    with tempfile.TemporaryDirectory() as folder, DeviceServers(Path(folder), torch_threads=1) as servers:
        sides = ((native_environment(), "cuda" if ON_CUDA else "cpu"), (servers.environment, "cuda"))
        running = [
            subprocess.Popen([*command, device], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
            for environment, device in sides
        ]
        native, remote = (
            {row["name"]: row for row in map(json.loads, process.communicate()[0].splitlines())} for process in running
        )
    apart: dict[str, float] = {}
    failed = []
    for name, theirs in native.items():
        ours = remote.get(name, {"error": "its process ended before"})
        if "error" in ours or "error" in theirs:
            failed.append(f"FAILED {name}: {ours.get('error', '')} natively: {theirs.get('error', 'fine')}"[:400])
            continue
        pairs = zip(map(float.fromhex, ours["losses"]), map(float.fromhex, theirs["losses"]), strict=True)
        # By the largest loss: one that has come close to zero has few digits left.
        largest = max(abs(float.fromhex(loss)) for loss in theirs["losses"])
        apart[name] = max(abs(one - other) for one, other in pairs) / largest
    for name, difference in sorted(apart.items(), key=lambda item: -item[1]):
        mark = "FAILED " if difference > MOST else ""
        seconds = remote[name]["seconds"] / max(native[name]["seconds"], 1e-9)
        print(f"{mark}{name}: {difference:.1e} (time {seconds:.2f} of native)")
    print(*failed, sep="\n")
    identical = sum(difference == 0 for difference in apart.values())
    print(f"{len(apart)} of {len(native)} programs agree in kind, {identical} to the last bit")
    return 1 if failed or any(difference > MOST for difference in apart.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
