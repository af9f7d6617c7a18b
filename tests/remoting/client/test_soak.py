"""Memory stays flat on both sides: the short form of `python -m benchmarks.soak`."""

from __future__ import annotations

from benchmarks.soak import soak


async def test_memory_stays_flat_over_many_operators_and_attachments() -> None:
    figures = await soak(operators=20_000, cycles=100)
    early, late = figures["operators_early"], figures["operators_late"]
    assert late["storages"] == early["storages"] and late["templates"] <= early["templates"] + 2
    assert late["client"] - early["client"] < 8 << 10 and late["server"] - early["server"] < 8 << 10
    early, late = figures["cycles_early"], figures["cycles_late"]
    assert late["client"] - early["client"] < 2 << 10 and late["agent"] - early["agent"] < 2 << 10
    assert late["sessions"] < 20, "a session is freed with its attachment, of which there were a hundred"
    assert late["agent_files"] <= early["agent_files"] + 2
