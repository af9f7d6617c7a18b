"""A few figures, native and remote in one run: a training step, transfers, what one operator costs.

Native is this machine's own device in another process, without the client; with emulated devices it is the CPU.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.remoting.harness import ON_CUDA, ROOT, DeviceServers, native_environment


def measure(device: str) -> dict[str, float]:
    """Every figure of one side, taken in this process."""
    import torch
    from torch import nn

    def synchronize() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def seconds(work: Callable[[], Any], runs: int, repeat: int = 5) -> float:
        work()
        synchronize()
        times = []
        for _ in range(repeat):
            began = time.perf_counter()
            for _ in range(runs):
                work()
            synchronize()
            times.append((time.perf_counter() - began) / runs)
        return statistics.median(times)

    def step(model: Any, shape: tuple[int, ...], amp: bool = False) -> float:
        model = model.to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        inputs, targets = torch.randn(*shape, device=device), torch.randint(10, (shape[0],), device=device)

        def once() -> None:
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=amp):
                loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()

        for _ in range(5):
            once()
        return seconds(once, 20) * 1e3

    def convolutions() -> Any:
        blocks = []
        for inputs, outputs in ((3, 64), (64, 128), (128, 256)):
            blocks += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))

    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
    found: dict[str, float] = {
        "mlp step, ms": step(wide, (256, 784)),
        "cnn step, ms": step(convolutions(), (32, 3, 64, 64)),
    }
    layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True, dropout=0.0)
    encoder = nn.Sequential(
        nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), nn.Flatten(), nn.Linear(64 * 256, 10)
    )
    found["transformer step, ms"] = step(encoder, (32, 64, 256))
    if device == "cuda":
        found["transformer step, bf16, ms"] = step(encoder, (32, 64, 256), amp=True)
    small = torch.randn(64, 64, device=device)
    chain = small
    runs = 2000

    def adds() -> None:
        nonlocal chain
        for _ in range(runs):
            chain = chain + small

    adds()
    synchronize()
    began = time.perf_counter()
    adds()
    enqueued = time.perf_counter() - began
    synchronize()
    found["add 64x64, enqueue, us"] = enqueued / runs * 1e6
    found["add 64x64, with sync, us"] = (time.perf_counter() - began) / runs * 1e6
    one = torch.ones((), device=device)
    found[".item(), us"] = seconds(lambda: one.item(), 200) * 1e6
    if device == "cuda":
        size = 256 << 20
        for name, host in (
            ("", torch.ones(size, dtype=torch.uint8)),
            (" pinned", torch.ones(size, dtype=torch.uint8).pin_memory()),
        ):
            there = torch.empty(size, dtype=torch.uint8, device=device)
            found[f"upload{name}, GB/s"] = size / seconds(lambda h=host, t=there: t.copy_(h), 1) / 1e9
            found[f"download{name}, GB/s"] = size / seconds(lambda h=host, t=there: h.copy_(t), 1) / 1e9
    large = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    if ON_CUDA:
        found["matmul 4096 bf16, TFLOP/s"] = 2 * 4096**3 / seconds(lambda: large @ large, 20) / 1e12
    return found


def main() -> None:
    """Measure both sides, each in a process of its own, and print them side by side."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    command = [sys.executable, "-m", "tests.remoting.gpu.figures"]
    native_device = "cuda" if ON_CUDA else "cpu"
    native = native_environment()
    rows = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        DeviceServers(Path(folder), memory=8 << 30, torch_threads=0) as servers,
    ):
        for name, environment, device in (("native", native, native_device), ("remote", servers.environment, "cuda")):
            done = subprocess.run([*command, device], cwd=ROOT, env=environment, capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{name}: {done.stderr[-3000:]}")
            rows[name] = json.loads(done.stdout.splitlines()[-1])
        # Again natively: what changed between the two is the noise of this machine.
        done = subprocess.run([*command, native_device], cwd=ROOT, env=native, capture_output=True, text=True)
        rows["native again"] = json.loads(done.stdout.splitlines()[-1])
    print(f"{'':30} {'native':>10} {'again':>10} {'remote':>10} {'remote/native':>14}")
    for what, remote in rows["remote"].items():
        here, again = rows["native"].get(what), rows["native again"].get(what)
        if here is None:
            print(f"{what:30} {'':>10} {'':>10} {remote:10.3f}")
        else:
            print(f"{what:30} {here:10.3f} {again:10.3f} {remote:10.3f} {remote / here:14.2f}")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
