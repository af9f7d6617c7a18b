"""Streams, events and time, as programs written for GPUs use them."""

from __future__ import annotations

import time

import torch


def test_work_on_a_side_stream_is_seen_after_waiting_for_it() -> None:
    stream = torch.cuda.Stream()
    base = torch.arange(1000.0, device="cuda")
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        assert torch.cuda.current_stream() == stream
        doubled = base * 2
    assert torch.cuda.current_stream() != stream
    torch.cuda.current_stream().wait_stream(stream)
    doubled.record_stream(torch.cuda.current_stream())
    assert (doubled + 1)[-1].item() == 1999.0


def test_an_event_orders_two_streams() -> None:
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    event = torch.cuda.Event()
    with torch.cuda.stream(first):
        tensor = torch.zeros(100, device="cuda")
        tensor += 1
        event.record()
    with torch.cuda.stream(second):
        event.wait()
        tensor *= 3
    second.synchronize()
    assert event.query()
    assert tensor.sum().item() == 300


def test_elapsed_time_is_the_time_the_device_worked() -> None:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    matrix = torch.randn(600, 600, device="cuda")
    torch.cuda.synchronize()
    started = time.perf_counter()
    start.record()
    for _ in range(10):
        matrix = matrix @ matrix
        matrix /= matrix.norm()
    end.record()
    end.synchronize()
    outside = (time.perf_counter() - started) * 1000
    assert 0 < start.elapsed_time(end) <= outside * 1.05 + 1


def test_streams_belong_to_their_device() -> None:
    stream = torch.cuda.Stream(device="cuda:1")
    assert stream.device == torch.device("cuda:1")
    with torch.cuda.stream(stream):
        assert torch.cuda.current_device() == 1
        assert torch.ones(1, device="cuda").device.index == 1
    assert torch.cuda.current_device() == 0
    assert torch.cuda.default_stream(1).device.index == 1


def test_the_current_device_follows_set_device_and_the_context() -> None:
    with torch.cuda.device(1):
        assert torch.empty(1, device="cuda").device.index == 1
        with torch.cuda.device("cuda:0"):
            assert torch.empty(1).cuda().device.index == 0
    torch.cuda.set_device(1)
    assert torch.zeros(2, device="cuda").device.index == 1
    torch.cuda.set_device(0)
    assert torch.cuda.current_device() == 0


def test_two_streams_with_many_operators_each_end_with_the_right_sum() -> None:
    streams = [torch.cuda.Stream() for _ in range(3)]
    sums = [torch.zeros((), device="cuda") for _ in streams]
    torch.cuda.synchronize()
    for step in range(200):
        for stream, total in zip(streams, sums, strict=True):
            with torch.cuda.stream(stream):
                total.add_(step)
    torch.cuda.synchronize()
    assert [total.item() for total in sums] == [19900.0] * 3
