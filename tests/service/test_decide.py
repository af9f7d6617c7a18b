"""The rules of placement and queue, as tables: pure functions, so that no case needs a service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elara_hub.pool.decide import Ask, Entry, PoolDevice, Quota, kinds, place, serve
from elara_hub.pool.explain import Holding, free_at, nearest
from elara_hub.pool.refusals import describe

GIB = 2**30
PLENTY = Quota(10**6, 0)


def dev(key: int, node: str = "n", free: int = 1000, model: str = "M", memory: int = GIB, **more: bool) -> PoolDevice:
    return PoolDevice(key, node, model, memory, more.get("emulated", False), free, more.get("usable", True))


def chosen(ask: Ask, *devices: PoolDevice) -> list[int] | None:
    slots = place(ask, kinds(devices), 10**6)
    return None if slots is None else [slot.device for slot in slots]


@pytest.mark.parametrize(
    ("ask", "devices", "expected"),
    [
        pytest.param(Ask(1, 250), [dev(1), dev(2, free=300)], [2], id="a share goes where least is left"),
        pytest.param(Ask(1, 1000), [dev(1, free=999), dev(2)], [2], id="a whole device is wholly free"),
        pytest.param(Ask(2, 1000), [dev(1, "a"), dev(2, "b"), dev(3, "b")], [2, 3], id="one node is preferred"),
        pytest.param(
            Ask(2, 1000),
            [dev(1, "a"), dev(2, "a"), dev(3, "a"), dev(4, "b"), dev(5, "b")],
            [4, 5],
            id="of two nodes the one that is left with the least",
        ),
        pytest.param(Ask(2, 500), [dev(1, free=1000)], None, id="the devices of a lease are distinct"),
        pytest.param(Ask(2, 1000), [dev(1, "a"), dev(2, "b")], [1, 2], id="several nodes when one is too small"),
        pytest.param(Ask(2, 500), [dev(1, model="A"), dev(2, model="B")], None, id="models are not mixed"),
        pytest.param(Ask(1, 500), [dev(1, emulated=True), dev(2)], [2], id="real devices come first"),
        pytest.param(Ask(1, 500), [dev(1, memory=8 * GIB), dev(2)], [2], id="small devices come first"),
        pytest.param(Ask(1, None, 2 * GIB), [dev(1), dev(2, memory=4 * GIB)], [2], id="memory needs a device with it"),
        pytest.param(Ask(1, 500), [dev(1, usable=False)], None, id="an unusable device is none"),
        pytest.param(Ask(1, 500, model="X"), [dev(1)], None, id="the model is kept to"),
    ],
)
def test_placement(ask: Ask, devices: list[PoolDevice], expected: list[int] | None) -> None:
    assert chosen(ask, *devices) == expected


@given(memory=st.integers(1, 2**40), wanted=st.integers(1, 2**40))
def test_a_share_for_memory_has_that_memory_and_hardly_more(memory: int, wanted: int) -> None:
    slots = place(Ask(1, None, wanted), kinds([dev(1, memory=memory)]), 10**6)
    if wanted > memory:
        assert slots is None
    else:
        assert slots is not None and wanted <= slots[0].memory_bytes <= wanted + memory // 1000 + 1


def limits(*entries: Entry, devices: list[PoolDevice], quotas: dict[int, Quota] | None = None) -> list[str | None]:
    known = quotas or {entry.project: PLENTY for entry in entries}
    return [verdict.limit for verdict in serve(entries, devices, known)]


def test_who_waits_for_devices_holds_back_those_who_want_the_same() -> None:
    devices = [dev(1), dev(2, model="B")]
    entries = [Entry(1, Ask(2, 1000, model="M")), Entry(1, Ask(1, 100, model="B")), Entry(1, Ask(1, 100))]
    assert limits(*entries, devices=[*devices, dev(3, free=0)]) == ["capacity", None, "queue"]


def test_who_waits_for_a_quota_holds_back_nobody() -> None:
    quotas = {1: Quota(1000, 900), 2: PLENTY}
    entries = [Entry(1, Ask(1, 500)), Entry(2, Ask(1, 1000))]
    assert limits(*entries, devices=[dev(1)], quotas=quotas) == ["quota", None]


def test_lasting_limits_are_told_from_passing_ones() -> None:
    quotas = {1: Quota(1500, 0)}
    cases = {
        "model": Ask(1, 100, model="X"),
        "memory": Ask(1, None, 2 * GIB),
        "devices": Ask(3, 100),
        "quota_size": Ask(2, 1000),
        "capacity": Ask(1, 1000),
    }
    devices = [dev(1, free=0), dev(2, free=10)]
    for limit, ask in cases.items():
        assert limits(Entry(1, ask), devices=devices, quotas=quotas) == [limit]


def test_the_queue_never_promises_a_share_twice() -> None:
    entries = [Entry(1, Ask(1, 600)), Entry(1, Ask(1, 600)), Entry(1, Ask(1, 400))]
    verdicts = serve(entries, [dev(1)], {1: PLENTY})
    assert [bool(verdict.slots) for verdict in verdicts] == [True, False, False]
    quota = serve(entries, [dev(1), dev(2)], {1: Quota(1000, 0)})
    assert [verdict.limit for verdict in quota] == [None, "quota", None]


@pytest.mark.parametrize(
    ("ask", "devices", "quota", "expected"),
    [
        (Ask(4, 1000), [dev(1), dev(2), dev(3, free=10)], 10**6, (2, 1000, "M")),
        (Ask(1, 1000), [dev(1, free=600)], 10**6, (1, 500, "M")),
        (Ask(1, 1000), [dev(1), dev(2)], 250, (1, 250, "M")),
        (Ask(1, 1000, model="A"), [dev(1, model="A", free=0), dev(2, model="B")], 10**6, (1, 1000, "B")),
        (Ask(1, 1000), [dev(1, free=0)], 10**6, None),
        (Ask(1, None, 8 * GIB), [dev(1)], 10**6, (1, 1000, "M")),
    ],
)
def test_the_nearest_request_that_fits(
    ask: Ask, devices: list[PoolDevice], quota: int, expected: tuple[int, int, str] | None
) -> None:
    found = nearest(ask, devices, quota)
    assert (None if found is None else (found.count, found.share, found.model)) == expected


def test_when_the_devices_come_free() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    devices = [dev(1, free=0), dev(2, free=500)]
    held = [
        Holding(1, 7, 500, now + timedelta(hours=1)),
        Holding(1, 7, 500, now + timedelta(hours=3)),
        Holding(2, 8, 500, now + timedelta(hours=2)),
    ]
    assert free_at(Ask(1, 1000), devices, held, PLENTY, 9) == now + timedelta(hours=2)
    assert free_at(Ask(2, 1000), devices, held, PLENTY, 9) == now + timedelta(hours=3)
    assert free_at(Ask(1, 500), devices, held, Quota(1000, 1000), 7) == now + timedelta(hours=1)
    assert free_at(Ask(3, 1000), devices, held, PLENTY, 9) is None
    forever = [Holding(1, 7, 1000, None)]
    assert free_at(Ask(2, 1000), devices, forever, PLENTY, 9) is None


def test_requests_are_described_as_people_say_them() -> None:
    assert describe(Ask(1, 1000)) == "1 whole device"
    assert describe(Ask(2, 500, model="T4")) == "2 × 1/2 T4"
    assert describe(Ask(1, None, 2 * GIB)) == "1 device with 2.0 GiB"
