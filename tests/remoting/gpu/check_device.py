"""What only a real GPU shows: its allocator, its streams and clocks, its generators, errors that end its context.

Run by `make gpu-check`; each test is an ordinary PyTorch program in a process of its own. Where a comparison needs a
native run, that one has the GPU and not the client.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.remoting.harness import ON_CUDA, ROOT, DeviceServers, native_environment

Run = Callable[[str], Any]
CAP = 4 << 30 if ON_CUDA else 256 << 20
QUARTER = CAP // 16  # elements of float32 that take a quarter of it


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceServers]:
    """Two devices of a lease; with one GPU they are both on it."""
    with DeviceServers(tmp_path_factory.mktemp("gpu"), devices=2, memory=CAP) as running:
        yield running


def python(script: str, environment: dict[str, str]) -> Any:
    """Run a script; what its last line of output says, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture
def remote(servers: DeviceServers) -> Run:
    """Runs a script with the remote devices, and no GPU of its own."""
    return lambda script: python(script, servers.environment)


@pytest.fixture
def native() -> Run:
    """Runs a script without the client, on this machine's GPU (or, to try the check, with CPU tensors)."""
    return lambda script: python(script if ON_CUDA else script.replace('"cuda"', '"cpu"'), native_environment())


COMMON = """
import json, torch
from torch import nn
def out(value): print(json.dumps(value))
"""


def test_the_same_kernels_run_as_natively(remote: Run, native: Run) -> None:
    script = COMMON + (
        """
torch.manual_seed(1)
a, b = torch.randn(257, 129).to("cuda"), torch.randn(129, 300).to("cuda")
x = torch.randn(8, 16, 20, 20).to("cuda").requires_grad_()
conv = nn.Conv2d(16, 32, 3, padding=1).to("cuda")
y = conv(x); y.square().mean().backward()
out({
  "mm": (a @ b).double().sum().item(), "softmax": a.softmax(1).double().std().item(),
  "conv": y.double().sum().item(), "grad": x.grad.double().norm().item(), "sort": a.sort(0).indices.sum().item(),
  "cumsum": a.cumsum(1).double().norm().item(), "half": (a.half() @ b.half()).double().sum().item(),
})
"""
    )
    ours, theirs = remote(script), native(script)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-6), name


def test_random_numbers_are_those_of_a_native_device(remote: Run, native: Run) -> None:
    script = COMMON + (
        """
torch.manual_seed(5)
first = torch.rand(7, device="cuda")
state = torch.cuda.get_rng_state() if torch.cuda.is_available() else torch.get_rng_state()
drawn = torch.randn(5, device="cuda")
(torch.cuda.set_rng_state if torch.cuda.is_available() else torch.set_rng_state)(state)
again = torch.randn(5, device="cuda")
own = torch.Generator("cuda").manual_seed(9)
dropped = nn.functional.dropout(torch.ones(64, device="cuda"), 0.5)
out([first.tolist(), drawn.tolist(), torch.equal(drawn, again), torch.rand(3, device="cuda", generator=own).tolist(),
     torch.randperm(9, device="cuda").tolist(), dropped.tolist(), len(state)])
"""
    )
    assert remote(script) == native(script)


def test_two_generators_have_their_own_states(remote: Run) -> None:
    assert remote(
        COMMON
        + """
one, two = torch.Generator("cuda").manual_seed(1), torch.Generator("cuda").manual_seed(1)
a = torch.rand(4, device="cuda", generator=one)
torch.rand(4, device="cuda")
b = torch.rand(4, device="cuda", generator=two)
saved = one.get_state(); c = torch.rand(4, device="cuda", generator=one); one.set_state(saved)
out([torch.equal(a, b), torch.equal(c, torch.rand(4, device="cuda", generator=one)), torch.equal(a, c)])
"""
    ) == [True, True, False]


def test_past_the_cap_is_out_of_memory_and_work_goes_on(remote: Run) -> None:
    found = remote(
        COMMON
        + f"cap, quarter = {CAP}, {QUARTER}"
        + """
kept = torch.ones(quarter, device="cuda")
errors = []
for attempt in (lambda: torch.empty(cap + (1 << 20), dtype=torch.uint8, device="cuda"),
                lambda: [kept.sort() for _ in range(9)],
                lambda: [kept + i for i in range(9)]):
    try:
        results = attempt(); torch.cuda.synchronize(); errors.append(None)
    except torch.OutOfMemoryError as error:
        errors.append(str(error))
    results = None
torch.cuda.synchronize()
out({"errors": errors, "sum": kept.sum().item(), "free": torch.cuda.mem_get_info()})
"""
    )
    assert all(error and error.startswith("CUDA out of memory") for error in found["errors"]), found
    assert not any("Process " in error for error in found["errors"]), "another tenant's memory is none of his business"
    assert found["sum"] == float(QUARTER) and found["free"][1] == CAP


def test_memory_comes_back_when_a_session_ends(servers: DeviceServers, remote: Run) -> None:
    before = len(servers.ended())
    remote(COMMON + f'x = torch.ones({3 * QUARTER}, device="cuda"); out(x.sum().item())')
    servers.wait_ended(before + 1)
    assert servers.ledger_words()[2] == 0
    remote(COMMON + f'x = torch.ones({3 * QUARTER}, device="cuda"); out(x.sum().item())')


def test_events_tell_the_devices_own_time(remote: Run) -> None:
    found = remote(
        COMMON
        + """
a = torch.randn(2048, 2048, device="cuda"); a @ a; torch.cuda.synchronize()
start, middle, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
start.record(); middle.record()
for _ in range(10): b = a @ a
end.record(); end.synchronize()
side = torch.cuda.Stream()
with torch.cuda.stream(side):
    side.wait_event(end); c = b + 1
torch.cuda.current_stream().wait_stream(side)
out([start.elapsed_time(middle), middle.elapsed_time(end), end.query(), bool((c == b + 1).all().item())])
"""
    )
    assert 0 <= found[0] < found[1] and found[2] is True and found[3] is True


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_trains_as_natively(remote: Run, native: Run, dtype: str) -> None:
    script = COMMON + (
        f"""
torch.manual_seed(2)
model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 8)).to("cuda")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
scaler = torch.amp.GradScaler("cuda", enabled={dtype == "float16"})
x, y, losses = torch.randn(128, 64).to("cuda"), torch.randint(8, (128,)).to("cuda"), []
for _ in range(20):
    optimizer.zero_grad()
    with torch.autocast("cuda", torch.{dtype}):
        loss = nn.functional.cross_entropy(model(x), y)
    scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update(); losses.append(loss.item())
out(losses)
"""
    )
    ours, theirs = remote(script), native(script)
    assert ours == pytest.approx(theirs, rel=2e-2) and ours[-1] < ours[0] / 2


def test_attention_with_dropout_has_a_gradient(remote: Run) -> None:
    assert remote(
        COMMON
        + """
q, k, v = (torch.randn(4, 8, 128, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
total = 0.0
for dropout in (0.0, 0.3):
    o = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    o.float().square().mean().backward(); total += q.grad.float().norm().item()
out(total > 0)
"""
    )


def test_pinned_uploads_and_large_downloads_are_whole(remote: Run) -> None:
    assert remote(
        COMMON
        + """
x = torch.arange(9_000_003, dtype=torch.int32)
there = [x.pin_memory().to("cuda", non_blocking=True), x.to("cuda")]
back = [t.cpu() for t in there] + [there[0][1:-1].cpu()]
out([torch.equal(back[0], x), torch.equal(back[1], x), torch.equal(back[2], x[1:-1])])
"""
    ) == [True, True, True]


def test_an_upload_may_be_followed_by_changing_the_tensor(remote: Run) -> None:
    assert remote(
        COMMON
        + """
host = torch.zeros(8_000_000).pin_memory(); sums = []
for i in range(20):
    host.fill_(i); sums.append(host.to("cuda", non_blocking=True).double().mean())
out([s.item() for s in sums])
"""
    ) == [float(i) for i in range(20)]


def test_precision_flags_reach_the_device(remote: Run) -> None:
    exact, loose, back = remote(
        COMMON
        + """
a = torch.randn(1024, 1024, device="cuda"); reference = (a.double() @ a.double())
def error(): return ((a @ a).double() - reference).norm().item() / reference.norm().item()
found = [error()]
torch.backends.cuda.matmul.allow_tf32 = True; found.append(error())
torch.backends.cuda.matmul.allow_tf32 = False; found.append(error())
out(found)
"""
    )
    assert exact < 1e-5 and back == pytest.approx(exact, rel=0.5)
    assert not ON_CUDA or loose > 10 * exact


def test_an_assert_on_the_device_ends_that_session_alone(servers: DeviceServers, remote: Run) -> None:
    before = len(servers.ended())
    found = remote(
        COMMON
        + """
other = torch.ones(3, device="cuda:1")
torch.ones(2, device="cuda:0")
messages = []
for _ in range(3):
    try:
        table = torch.zeros(4, 4, device="cuda:0"); table[torch.tensor([9], device="cuda:0")].sum().item()
        messages.append(None)
    except Exception as error:
        messages.append(f"{type(error).__name__}: {error}")
out([messages, other.sum().item()])
"""
    )
    messages, other = found
    assert other == 3.0 and all(messages), found
    if ON_CUDA:
        reasons = [ended.reason for ended in servers.wait_ended(before + 1)[before:]]
        assert "device-side assert" in messages[0] and "attach a GPU again" in messages[-1], (messages, reasons)
        assert any(reason.startswith("device lost") for reason in reasons), reasons


def test_copies_between_two_devices(remote: Run) -> None:
    assert remote(
        COMMON
        + """
a = torch.randn(3_000_000, device="cuda:0"); b = a.to("cuda:1"); c = b.to("cuda:0", non_blocking=True)
out([torch.equal(a.cpu(), b.cpu()), torch.equal(a, c), str(b.device)])
"""
    ) == [True, True, "cuda:1"]
