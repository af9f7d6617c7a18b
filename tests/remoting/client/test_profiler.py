"""torch's profilers on attached devices: operators with the time they took on the device, and nothing printed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from tests.remoting.client.conftest import Bench

Run = Callable[..., subprocess.CompletedProcess[str]]

PRINTS_NOTHING = """
import json, torch, torch.autograd.profiler, torch.profiler
from torch.profiler import ProfilerActivity as Activity
x = torch.randn(64, 64)
def work(x):
    return (x @ x).relu().sum().item()
def names(seen):
    seen.export_chrome_trace("trace.json")
    traced = {event.get("name") for event in json.load(open("trace.json"))["traceEvents"]}
    timed = {event.key: event.device_time_total for event in seen.key_averages()}
    assert "aten::mm" in seen.key_averages().table(sort_by="cuda_time_total")
    return ["aten::mm" in traced, timed["aten::mm"] > 0]
results = []
with torch.profiler.profile(activities=[Activity.CPU, Activity.CUDA]) as seen:
    work(x); work(x.cuda())  # the device is first used in the midst of it
results.append(names(seen))
x = x.cuda()
for options in [
    {}, {"activities": [Activity.CUDA]}, {"record_shapes": True, "profile_memory": True, "with_stack": True},
]:
    with torch.profiler.profile(**options) as seen:
        work(x)
    results.append(names(seen))
for options in [{}, {"use_kineto": False}]:
    with torch.autograd.profiler.profile(use_device="cuda", **options) as seen:
        work(x)
    results.append(names(seen))
with torch.autograd.profiler.emit_nvtx():
    work(x)
print(json.dumps(results))
"""


def test_profiles_of_every_kind_time_operators_and_print_nothing(bench: Bench, run_script: Run) -> None:
    done = run_script(PRINTS_NOTHING, ELARA_RUNTIME_DIR=str(bench.servers.folder))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[True, True]] * 6
    # Kineto itself says of every profile, on the CPU too, when it began and ended.
    assert [line for line in done.stderr.splitlines() if not line.startswith("USDT:")] == []


def counter(name: str) -> int:
    from elara_remoting import _client

    return _client.counters(0)[name]


def test_a_profile_waits_for_nothing_and_its_times_are_fetched_all_at_once(bench: Bench) -> None:
    tensor = torch.ones(8, device="cuda")
    (tensor + 1).mul_(2)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        before = counter("requests")
        for _ in range(100):
            (tensor + 1).mul_(2)
        assert counter("requests") == before
    sent, asked = counter("flushes"), counter("requests")
    averages = {event.key: event for event in seen.key_averages()}
    assert averages["aten::add"].count == 100 and averages["aten::add"].device_time_total > 0
    assert counter("requests") > asked + 200
    # The questions went out together; what else was sent tells the server to forget the marks.
    assert counter("flushes") < sent + 10


def test_a_longer_operator_takes_longer_and_one_inside_another_no_longer_than_it(bench: Bench) -> None:
    small, large = torch.randn(8, 8, device="cuda"), torch.randn(700, 700, device="cuda")
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        small @ small
        large @ large
    times = [event.device_time_total for event in seen.events() if event.name == "aten::mm"]
    outer = [event.device_time_total for event in seen.events() if event.name == "aten::matmul"]
    assert len(times) == len(outer) == 2
    assert times[1] > times[0]
    assert all(whole >= part for whole, part in zip(outer, times, strict=True))


def test_a_profile_outlives_its_device(bench: Bench) -> None:
    tensor = torch.ones(8, device="cuda")
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        tensor + 1
        bench.detach()
        torch.ones(3) * 2
        bench.attach(1)
        torch.ones(3, device="cuda") * 2
    assert {"aten::add", "aten::mul"} <= {event.key for event in seen.key_averages()}


def test_without_a_device_a_profile_is_one_of_the_cpu(bench: Bench) -> None:
    bench.detach()
    with profile() as seen:
        torch.ones(3) + 1
    assert {event.key for event in seen.key_averages()} >= {"aten::add"}
    assert ProfilerActivity.CUDA not in torch.profiler.supported_activities()
