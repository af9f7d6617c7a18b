"""torch.distributed with tensors of attached devices: refused in words, before a backend reads their addresses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from tests.remoting.client.conftest import Bench

Run = Callable[..., subprocess.CompletedProcess[str]]

START = """
import json, os, torch, torch.distributed as dist
from torch.distributed import _functional_collectives as functional
def refusal(call):
    try:
        call(); return "no error"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
def begin(backend):
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
"""

GLOO = (
    START
    + """
begin("gloo")
x, y = torch.ones(2, device="cuda"), torch.ones(2, device="cuda")
calls = [
    lambda: dist.all_reduce(x),
    lambda: dist.all_reduce(x, async_op=True).wait(),
    lambda: dist.broadcast(x, 0),
    lambda: dist.reduce(x, 0),
    lambda: dist.all_gather([y], x),
    lambda: dist.all_gather_into_tensor(y, x),
    lambda: dist.gather(x, [y], 0),
    lambda: dist.scatter(x, [y], 0),
    lambda: dist.reduce_scatter(x, [y]),
    lambda: dist.reduce_scatter_tensor(x, y),
    lambda: dist.all_to_all([x], [y]),
    lambda: dist.all_to_all_single(x, y),
    lambda: dist.group.WORLD.send([x], 0, 0),
    lambda: dist.group.WORLD.recv([x], 0, 0),
    lambda: dist.group.WORLD.recv_anysource([x], 0),
    lambda: dist.all_reduce_coalesced([x, y]),
    lambda: dist.all_reduce(torch.eye(2, device="cuda").to_sparse()),
    lambda: functional.all_reduce(x, "sum", dist.group.WORLD),
    lambda: torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2).cuda()),
]
said = [refusal(call) for call in calls]
z = torch.ones(2)
dist.all_reduce(z); dist.barrier()
kept = [None]
dist.all_gather_object(kept, "kept")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
model(torch.ones(1, 2)).sum().backward()
dist.destroy_process_group()
print(json.dumps([said, z.tolist(), kept, model.module.weight.grad.tolist(), (x + y).tolist()]))
"""
)


def test_every_collective_is_a_sentence_and_the_cpu_goes_on(bench: Bench, run_script: Run) -> None:
    done = run_script(GLOO, ELARA_RUNTIME_DIR=str(bench.servers.folder))
    assert done.returncode == 0, done.stderr
    said, *results = json.loads(done.stdout.splitlines()[-1])
    for sentence in said:
        assert sentence.startswith("NotImplementedError: c10d::"), sentence
        assert "attached GPUs" in sentence and "tensor.cpu()" in sentence
        assert "\n" not in sentence
    assert results == [[1.0, 1.0], ["kept"], [[1.0, 1.0], [1.0, 1.0]], [2.0, 2.0]]


@pytest.mark.parametrize("backend", ["'nccl'", "'cpu:gloo,cuda:nccl'", "None"])
def test_nccl_is_a_sentence_while_a_gpu_is_attached(bench: Bench, run_script: Run, backend: str) -> None:
    script = START + f"print(refusal(lambda: begin({backend})))"
    done = run_script(script, ELARA_RUNTIME_DIR=str(bench.servers.folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("RuntimeError: torch.distributed cannot use the nccl backend with attached GPUs")
    assert "init_process_group('gloo')" in done.stdout and done.stdout.count("\n") == 1


def test_the_backend_that_looks_at_no_memory_works(bench: Bench, run_script: Run) -> None:
    script = (
        START
        + """
import torch.testing._internal.distributed.fake_pg
begin("fake")
x = torch.ones(2, device="cuda")
dist.all_reduce(x)
print(x.tolist())
"""
    )
    done = run_script(script, ELARA_RUNTIME_DIR=str(bench.servers.folder))
    assert done.returncode == 0 and done.stdout == "[1.0, 1.0]\n", done.stderr
