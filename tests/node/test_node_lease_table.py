import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from elara_remoting.node.lease_table import (
    Announce,
    Confirm,
    Fail,
    LeaseDevice,
    LeaseTable,
    Prepare,
    StartRequest,
    State,
    Stop,
    canonical_id,
)
from elara_remoting.types import Device

GIB = 2**30
DEVICES = [Device(f"EMU-{i}", i, "Elara emulated device (CPU)", 2 * GIB, True) for i in range(2)]
A, B = "a" * 32, "b" * 32


def request(lease=A, generation=1, share=500, ttl=60.0, uuid="EMU-0", memory=None):
    memory = 2 * GIB * share // 1000 if memory is None else memory
    return StartRequest(lease, generation, (LeaseDevice(uuid, 0, share, memory),), ttl)


def active(table, wanted, now=0.0):
    assert table.start(wanted, now) == [Prepare(wanted)]
    assert table.prepared(wanted.lease_id, wanted.generation) == [Announce(wanted.lease_id, wanted.generation)]


def test_start_prepare_announce():
    table = LeaseTable(DEVICES)
    active(table, request())
    assert table.rows[A].state == State.ACTIVE
    assert table.shares() == {"EMU-0": 500, "EMU-1": 0}


def test_the_same_order_again_only_announces_again_and_renews_the_time():
    table = LeaseTable(DEVICES)
    active(table, request(ttl=10), now=0)
    assert table.start(request(ttl=10), now=8) == [Announce(A, 1)]
    assert table.expire(17.9) == []
    assert table.expire(18.0) == [Stop(A, "expired")]


def test_an_older_order_is_refused_and_changes_nothing():
    table = LeaseTable(DEVICES)
    active(table, request(generation=3))
    (refusal,) = table.start(request(generation=2), 0)
    assert isinstance(refusal, Fail) and refusal.reason == "stale"
    assert table.rows[A].request.generation == 3


def test_a_newer_order_replaces_the_lease_once_the_old_one_is_gone():
    table = LeaseTable(DEVICES)
    active(table, request(generation=1, share=1000))
    newer = request(generation=2, share=1000)
    assert table.start(newer, 5) == [Stop(A, "replaced")]
    confirmation, prepare = table.stopped(A, {"seconds": 5}, 6)
    assert confirmation == Confirm(A, 1, "replaced", {"seconds": 5})
    assert prepare == Prepare(newer)


def test_a_stop_takes_back_a_replacement_that_waits():
    table = LeaseTable(DEVICES)
    active(table, request(generation=1))
    table.start(request(generation=2), 5)
    assert table.stop(A, "detached") == []
    assert [type(action) for action in table.stopped(A, {}, 6)] == [Confirm]
    assert table.rows == {}


def test_stop_is_idempotent_and_keeps_the_usage():
    table = LeaseTable(DEVICES)
    active(table, request())
    assert table.stop(A, "detached") == [Stop(A, "detached")]
    assert table.stop(A, "detached") == []
    assert table.shares()["EMU-0"] == 500, "an ending lease still holds its share"
    ended = Confirm(A, 1, "detached", {"seconds": 2})
    assert table.stopped(A, {"seconds": 2}, 9) == [ended]
    assert table.stop(A, "again") == [ended]
    assert table.shares()["EMU-0"] == 0


def test_an_unknown_lease_is_confirmed_as_ended():
    assert LeaseTable(DEVICES).stop(B, "detached") == [Confirm(B, 0, "unknown", {})]


def test_an_order_that_was_overtaken_by_its_end_does_not_revive_the_lease():
    table = LeaseTable(DEVICES)
    active(table, request())
    table.stop(A, "detached")
    (ended,) = table.stopped(A, {}, 3)
    assert table.start(request(), 4) == [ended]
    assert table.start(request(generation=2), 5) == [Prepare(request(generation=2))]


def test_what_a_former_life_of_the_agent_ran_stays_ended():
    table = LeaseTable(DEVICES)
    lost = Confirm(A, 4, "node_restarted", {"seconds": 7})
    table.remember(lost)
    assert table.start(request(generation=4), 0) == [lost]
    assert table.stop(A, "unknown") == [lost]


def test_extending_may_shorten_too_and_an_ending_lease_cannot_be_extended():
    table = LeaseTable(DEVICES)
    active(table, request(ttl=60), now=0)
    assert table.extend(A, 5, now=10)
    assert table.next_deadline() == 15
    table.stop(A, "detached")
    assert not table.extend(A, 500, now=11)
    assert table.next_deadline() is None
    assert not table.extend(B, 5, now=0)


def test_a_lease_without_a_time_never_expires():
    table = LeaseTable(DEVICES)
    active(table, request(ttl=None))
    assert table.next_deadline() is None
    assert table.expire(1e12) == []


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (request(uuid="GPU-elsewhere"), "unknown_device"),
        (request(share=0), "bad_request"),
        (request(share=1001), "bad_request"),
        (request(memory=0), "bad_request"),
        (request(share=10, memory=3 * GIB), "device_full"),
        (StartRequest(A, 1, (), 60.0), "bad_request"),
        (StartRequest(A, 1, (LeaseDevice("EMU-0", 0, 1, 1), LeaseDevice("EMU-1", 0, 1, 1)), 60.0), "bad_request"),
        (StartRequest(A, 1, (LeaseDevice("EMU-0", 0, 600, 1), LeaseDevice("EMU-0", 1, 600, 1)), 60.0), "device_full"),
    ],
)
def test_what_cannot_be_had_is_refused_and_holds_nothing(wanted, reason):
    table = LeaseTable(DEVICES)
    (refusal,) = table.start(wanted, 0)
    assert isinstance(refusal, Fail) and refusal.reason == reason and refusal.message
    assert table.shares() == {"EMU-0": 0, "EMU-1": 0}


def test_lease_ids_are_read_however_a_uuid_is_written():
    assert canonical_id("0190163D-8694-739B-AEA5-966C26F8AD91") == "0190163d8694739baea5966c26f8ad91"
    with pytest.raises(ValueError):
        canonical_id("../../etc/passwd")


class Orders(RuleBasedStateMachine):
    """Orders in any sequence, with stops that take their time: capacity holds, and each lease ends exactly once."""

    leases = Bundle("leases")

    def __init__(self):
        super().__init__()
        self.table = LeaseTable(DEVICES)
        self.now = 0.0
        self.prepared = {}
        self.stopping = set()
        self.number = 0

    def perform(self, actions):
        for action in actions:
            match action:
                case Prepare():
                    key = (action.request.lease_id, action.request.generation)
                    assert key not in self.prepared, "a generation is prepared once"
                    self.prepared[key] = "running"
                    self.perform(self.table.prepared(*key))
                case Stop():
                    assert action.lease_id not in self.stopping, "a lease is stopped once"
                    self.stopping.add(action.lease_id)
                case Confirm() if (action.lease_id, action.generation) in self.prepared:
                    self.prepared[action.lease_id, action.generation] = "ended"

    @rule(target=leases)
    def new_lease(self):
        self.number += 1
        return f"{self.number:032x}"

    @rule(
        lease=leases,
        generation=st.integers(1, 3),
        share=st.integers(1, 1000),
        uuid=st.sampled_from(["EMU-0", "EMU-1"]),
        ttl=st.integers(1, 50),
    )
    def start(self, lease, generation, share, uuid, ttl):
        self.perform(self.table.start(request(lease, generation, share, float(ttl), uuid), self.now))

    @rule(lease=leases)
    def stop(self, lease):
        self.perform(self.table.stop(lease, "detached"))

    @rule(lease=leases, ttl=st.integers(1, 50))
    def extend(self, lease, ttl):
        self.table.extend(lease, float(ttl), self.now)

    @rule(seconds=st.integers(1, 30))
    def time_passes(self, seconds):
        self.now += seconds
        self.perform(self.table.expire(self.now))

    @rule(data=st.data())
    def processes_are_gone(self, data):
        if self.stopping:
            lease = data.draw(st.sampled_from(sorted(self.stopping)))
            self.stopping.discard(lease)
            self.perform(self.table.stopped(lease, {}, self.now))

    @invariant()
    def capacity_holds(self):
        held = dict.fromkeys(("EMU-0", "EMU-1"), 0)
        for row in self.table.rows.values():
            for device in row.request.devices:
                held[device.uuid] += device.share
        assert max(held.values()) <= 1000
        assert held == self.table.shares()

    @invariant()
    def rows_and_processes_agree(self):
        running = {lease for (lease, _), state in self.prepared.items() if state == "running"}
        assert running == set(self.table.rows)
        assert self.stopping == {key for key, row in self.table.rows.items() if row.state == State.ENDING}

    def teardown(self):
        for lease in list(self.table.rows):
            self.perform(self.table.stop(lease, "end"))
        for lease in list(self.stopping):
            self.stopping.discard(lease)
            self.perform(self.table.stopped(lease, {}, self.now))
        assert self.table.rows == {}
        assert set(self.table.shares().values()) == {0}


TestOrders = Orders.TestCase
TestOrders.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
