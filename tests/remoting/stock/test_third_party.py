"""torchvision on a remote device: its models, and its own operators, which have kernels of their own for each device.
And PyTorch's own kernels for CUDA, which only a stock build has: none of them is reached.

Run by `make conformance TORCH=...`, in an environment with a stock build of PyTorch and torchvision.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.remoting.harness import ON_CUDA, ROOT, DeviceServers, native_environment

Run = Callable[..., Any]
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceServers]:
    """A device with one thread, so that sums are added in the same order as natively."""
    with DeviceServers(tmp_path_factory.mktemp("stock"), memory=4 << 30, torch_threads=1) as running:
        yield running


def python(script: str, environment: dict[str, str], *arguments: str) -> Any:
    """Run a script; what its last line of output says, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env=environment | THREADS,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture
def both(servers: DeviceServers) -> Run:
    """Runs a script with "cpu" natively and with "cuda" remotely; both results."""
    here = (native_environment(), "cuda" if ON_CUDA else "cpu")
    return lambda script: (python(script, *here), python(script, servers.environment, "cuda"))


START = """
import sys, json, torch
torch.set_num_threads(1)
device = sys.argv[1]
"""

BOXES = """
torch.manual_seed(0)
corners = torch.rand(200, 2) * 80
boxes = torch.cat([corners, corners + torch.rand(200, 2) * 40 + 1], 1).to(device)
scores = torch.rand(200).to(device)
"""


def test_operators_of_torchvision_give_what_they_give_natively(both: Run) -> None:
    native, remote = both(
        START
        + BOXES
        + """
from torchvision import ops
image = torch.randn(2, 3, 32, 32).to(device).requires_grad_()
regions = torch.cat([torch.zeros(5, 1), torch.rand(5, 2) * 10, torch.rand(5, 2) * 10 + 12], 1).to(device)
pooled = ops.roi_align(image, regions, (4, 4), 1.0, 2)
pooled.square().sum().backward()
first = image.grad.clone(); image.grad = None
ops.roi_pool(image, regions, (3, 3)).sum().backward()
weight, offset = torch.randn(4, 3, 3, 3).to(device), torch.randn(2, 18, 30, 30).to(device)
bent = ops.deform_conv2d(image, offset, weight)
kept = [ops.nms(boxes, scores, threshold).tolist() for threshold in (0.2, 0.5, 0.8)]
print(json.dumps([kept, ops.batched_nms(boxes, scores, (scores * 4).long(), 0.5).tolist(), pooled.tolist(),
                  first.tolist(), image.grad.tolist(), bent.tolist(), ops.box_iou(boxes[:9], boxes[9:20]).tolist()]))
"""
    )
    for ours, theirs in zip(remote, native, strict=True):
        assert ours == theirs


def test_a_library_that_is_imported_after_tensors_were_made_works_too(both: Run) -> None:
    native, remote = both(
        START
        + BOXES
        + """
total = (boxes.sum() + scores.sum()).item()
from torchvision import ops
boxes = boxes + 0  # the library is noticed at the next operation on the device
print(json.dumps(ops.nms(boxes, scores, 0.3).tolist()))
"""
    )
    assert remote == native


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_models_of_torchvision_train_to_the_native_losses(both: Run, name: str) -> None:
    native, remote = both(
        START
        + f"""
import torchvision
torch.manual_seed(0)
options = dict(aux_logits=False, init_weights=False) if {name!r} == "googlenet" else dict()
model = torchvision.models.{name}(num_classes=10, **options).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
batches = [(torch.randn(2, 3, 64, 64), torch.randint(10, (2,))) for _ in range(3)]
torch.manual_seed(1)
losses = []
for step in range(8):
    x, y = (tensor.to(device) for tensor in batches[step % 3])
    loss = torch.nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad(); loss.backward(); optimizer.step(); losses.append(loss.item().hex())
print(json.dumps(losses))
"""
    )
    assert remote == native


def test_a_node_without_the_library_refuses_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELARA_OPERATOR_PACKAGES", "")
    with DeviceServers(tmp_path) as bare:
        messages = python(
            START
            + "from torchvision import ops\n"
            + BOXES
            + """
try:
    ops.nms(boxes, scores, 0.3); message = "no error"
except Exception as error:
    message = str(error)
print(json.dumps([message, boxes.sum().isfinite().item()]))
""",
            bare.environment,
            "cuda",
        )
    assert "torchvision::nms" in messages[0] and "does not have this operator" in messages[0]
    assert ".cpu()" in messages[0] and "\n" not in messages[0].strip() and messages[1] is True


@pytest.mark.skipif(ON_CUDA, reason="says what an emulated device refuses")
def test_what_only_the_cuda_build_has_a_kernel_for_never_asks_the_cuda_runtime(servers: DeviceServers) -> None:
    results = python(
        START
        + """
dense = torch.tensor([[1., 0., 2.], [0., 0., 3.]], device=device)
parts = [torch.zeros(2, 1, device=device), torch.zeros(2, 2, device=device)]
torch.split_with_sizes_copy(dense, [1, 2], 1, out=parts)
sparse = [dense.to_sparse(), dense.to_sparse_csr()]
def refusal(call):
    try:
        call(); return "no error"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
print(json.dumps([
    [part.tolist() for part in parts],
    [(one @ dense.t()).tolist() for one in sparse],
    (sparse[0] + sparse[0]).to_dense().tolist(),
    refusal(lambda: torch.sparse.softmax(sparse[0], 0)),
    refusal(lambda: torch.sparse.sum(sparse[1], dim=0)),
    refusal(lambda: torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8)),
    refusal(lambda: torch.quantize_per_tensor(dense.cpu(), 0.1, 0, torch.qint8).to(device)),
    refusal(lambda: torch._empty_affine_quantized([2], scale=0.1, zero_point=0, dtype=torch.qint8, device=device)),
]))
""",
        servers.environment,
        "cuda",
    )
    assert results[0] == [[[1.0], [0.0]], [[0.0, 2.0], [0.0, 3.0]]]
    assert results[1] == [[[5.0, 6.0], [6.0, 9.0]]] * 2
    assert results[2] == [[2.0, 0.0, 4.0], [0.0, 0.0, 6.0]]
    for refused in results[3:]:
        assert (
            refused.startswith("NotImplementedError: aten::")
            and "attached GPU" in refused
            and "(tensor.cpu())" in refused
        )


def test_profilers_and_collectives_leave_the_machines_own_cuda_alone(servers: DeviceServers, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START + LOCAL_CUDA, "cuda"],
        cwd=tmp_path,
        env=servers.environment | THREADS,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    timed, traced, refused, total = json.loads(done.stdout.splitlines()[-1])
    assert timed > 0 and traced and total == 64.0
    # Kineto tells of every profile, on the CPU too, and once that this machine has no driver.
    own = ("USDT:", "ERROR:")
    assert [line for line in done.stderr.splitlines() if not line.startswith(own)] == []
    assert done.stderr.count("ERROR:") == done.stderr.count("gpuGetDeviceCount failed") <= 1
    for sentence in refused:
        assert "attached GPU" in sentence and "\n" not in sentence, sentence


LOCAL_CUDA = """
import torch.distributed as dist, torch.profiler
x = torch.ones(8, 8).to(device)
def work():
    return (x @ x.relu()).sum().item()
activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
for options in [{}, {"activities": activities}, {"activities": activities[1:]}]:
    with torch.profiler.profile(**options) as seen:
        work()
    seen.export_chrome_trace("trace.json")
timed = {event.key: event.device_time_total for event in seen.key_averages()}["aten::mm"]
traced = "aten::mm" in open("trace.json").read()
with torch.autograd.profiler.emit_nvtx():
    work()
def refusal(call):
    try:
        call(); return "no error"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
def begin(backend):
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
refused = [refusal(lambda: begin("nccl")), refusal(lambda: begin(None))]
begin("gloo")
refused += [refusal(lambda: dist.all_reduce(x)), refusal(lambda: dist.broadcast(x, 0))]
refused += [refusal(lambda: torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2).to(device)))]
dist.destroy_process_group()
refused += [refusal(call) for call in (torch.cuda.utilization, torch.cuda.temperature)]
with torch.cuda.use_mem_pool(torch.cuda.MemPool()):
    total = torch.ones(64, device=device).sum().item()
print(json.dumps([timed, traced, refused, total]))
"""
