import mmap
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elara_remoting.node.ledger import MAGIC, SLOTS, Ledger, LedgerFull


class Server:
    """Counts in a slot of the ledger the way a device server does."""

    def __init__(self, ledger, slot):
        self._map = mmap.mmap(ledger.fd, 0)
        self.words = memoryview(self._map).cast("Q")
        self.slot = slot

    def reserve(self, amount):
        self.words[2] += amount
        self.words[8 + 8 * self.slot] += amount
        self.words[3] = max(self.words[3], self.words[2])

    def work(self, operators, busy_ns, at_ns):
        base = 8 + 8 * self.slot
        self.words[base + 2] += operators
        self.words[base + 3] += busy_ns
        self.words[base + 4] = at_ns


def test_a_new_ledger_has_the_layout_of_the_contract():
    ledger = Ledger(4096)
    words = Server(ledger, 0).words
    assert (words[0], words[1], words[2], words[3]) == (MAGIC, 4096, 0, 0)
    assert len(words) == 8 + 63 * 8
    ledger.close()


def test_a_device_server_cannot_change_the_ledger_s_size():
    ledger = Ledger(4096)
    with pytest.raises(OSError):
        import os

        os.ftruncate(ledger.fd, 0)
    ledger.close()


def test_a_dead_session_gives_back_its_own_memory_and_no_other():
    ledger = Ledger(1000)
    first, second = Server(ledger, ledger.take_slot()), Server(ledger, ledger.take_slot())
    first.reserve(300)
    second.reserve(200)
    assert ledger.reclaim(first.slot) == 300
    reading = ledger.read()
    assert (reading.used_bytes, reading.peak_bytes, reading.sessions) == (200, 500, 1)
    ledger.close()


def test_reclaiming_twice_takes_nothing_twice():
    ledger = Ledger(1000)
    first, second = Server(ledger, ledger.take_slot()), Server(ledger, ledger.take_slot())
    first.reserve(300)
    second.reserve(200)
    ledger.reclaim(first.slot)
    assert ledger.reclaim(first.slot) == 0
    assert ledger.read().used_bytes == 200
    ledger.close()


def test_a_kill_between_the_two_additions_is_mended_when_the_last_session_ends():
    ledger = Ledger(1000)
    server = Server(ledger, ledger.take_slot())
    server.words[2] += 400  # and killed before its slot was written
    ledger.reclaim(server.slot)
    assert ledger.read().used_bytes == 0
    ledger.close()


def test_activity_of_the_past_stays_on_the_account():
    ledger = Ledger(1000)
    server = Server(ledger, ledger.take_slot())
    server.work(5, 700, at_ns=99)
    ledger.reclaim(server.slot)
    again = Server(ledger, ledger.take_slot())
    again.work(2, 300, at_ns=120)
    activity = ledger.read().activity
    assert (activity.operators, activity.busy_ns, activity.last_active_ns) == (7, 1000, 120)
    ledger.close()


def test_the_64th_session_is_refused_in_words():
    ledger = Ledger(1000)
    for _ in range(SLOTS):
        ledger.take_slot()
    with pytest.raises(LedgerFull, match="63 sessions"):
        ledger.take_slot()
    ledger.reclaim(5)
    assert ledger.take_slot() == 5
    ledger.close()


def test_reclaiming_is_atomic_against_a_session_that_counts_at_the_same_moment():
    ledger = Ledger(2**62)
    victims = [Server(ledger, ledger.take_slot()) for _ in range(60)]
    busy = Server(ledger, ledger.take_slot())
    for victim in victims:
        victim.reserve(7)
    program = """
import ctypes, mmap, sys
m = mmap.mmap(int(sys.argv[1]), 0)
add = getattr(ctypes.CDLL("libatomic.so.1"), "__atomic_fetch_add_8")
add.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int]
word = ctypes.addressof(ctypes.c_uint64.from_buffer(m, 16))
print("go", flush=True)
for _ in range(60000): add(word, 1, 5)
"""
    command = [sys.executable, "-c", program, str(ledger.fd)]
    with subprocess.Popen(command, pass_fds=(ledger.fd,), stdout=subprocess.PIPE) as counting:
        counting.stdout.readline()
        for victim in victims:
            ledger.reclaim(victim.slot)
    assert busy.words[2] == 60000
    ledger.close()


actions = st.lists(
    st.one_of(
        st.just(("start",)),
        st.tuples(st.just("reserve"), st.integers(0, 62), st.integers(1, 50)),
        st.tuples(st.just("die"), st.integers(0, 62)),
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(actions)
def test_used_is_always_the_sum_of_the_living(steps):
    ledger = Ledger(10**9)
    living = {}
    for kind, *arguments in steps:
        if kind == "start" and len(living) < SLOTS:
            server = Server(ledger, ledger.take_slot())
            assert server.slot not in living
            living[server.slot] = (server, 0)
        elif kind == "reserve" and arguments[0] in living:
            server, held = living[arguments[0]]
            server.reserve(arguments[1])
            living[arguments[0]] = (server, held + arguments[1])
        elif kind == "die" and arguments[0] in living:
            _, held = living.pop(arguments[0])
            ledger.reclaim(arguments[0])
        reading = ledger.read()
        assert reading.used_bytes == sum(held for _, held in living.values())
        assert reading.sessions == len(living)
    ledger.close()
