"""Whatever the order of requests, deaths and restarts: never more than a device has, never more than a quota allows,
and every share of an ended lease is free again. Run against SQLite and, where there is one, PostgreSQL."""

from __future__ import annotations

import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from service_world import GIB, Clock
from sqlalchemy import delete, select

from elara_hub.config import Settings
from elara_hub.core import Core
from elara_hub.database.engine import Database
from elara_hub.database.models import Base, DeviceRow, Lease, LeaseDevice, Node, Project, Usage
from elara_hub.pool import leases, nodes, requests
from elara_hub.pool.decide import Ask
from elara_hub.pool.live import Live
from elara_hub.pool.reconciler import Reconciler
from elara_hub.refusal import Refusal
from elara_hub.tenancy.access import ProjectPlace, running_workspace
from elara_hub.tenancy.teams import create_project, create_team, set_project_member, set_quota
from elara_hub.tenancy.workspaces import record_start, record_stop

_QUOTA = {"a": 1500, "b": 2500}
_DEVICES = {"n1": ["d1", "d2"], "n2": ["d3"]}


class PlainNode:
    """A node without a network: keeps what it is told, and answers when the test lets it."""

    def __init__(self, name: str) -> None:
        self.node_id = name
        self.inbox: list[dict[str, Any]] = []
        self.holds: dict[str, list[dict[str, Any]]] = {}

    def send(self, message: dict[str, Any]) -> None:
        self.inbox.append(message)

    def close(self, reason: str) -> None:
        return


class Pool:
    """The service's core with a clock to turn and nodes to kill; no server in between."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.clock = Clock()
        options = Settings(
            data=str(folder), database_url=database.engine.url.render_as_string(hide_password=False), hub_api_token="x"
        )
        self.core = Core(options, database, Live(self.clock.monotonic), self.clock.now)
        self.options, self.database = options, database
        self.nodes = {name: PlainNode(name) for name in _DEVICES}
        self.up: set[str] = set()
        self._empty()
        self._fill()

    def _empty(self) -> None:
        with self.database.write() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(delete(table))

    def _fill(self) -> None:
        with self.core.change() as unit:
            team = create_team(unit, "t", "", "x")
            for slug, quota in _QUOTA.items():
                project = create_project(self.core, unit, team, slug, "", "x")
                set_quota(unit, project, quota, 600, "x")
                for user in ("u1", "u2", "u3"):
                    place = ProjectPlace(team, project, frozenset())
                    set_project_member(self.core, unit, place, user, "owner", "x")
            for name in _DEVICES:
                unit.session.add(Node(id=name, name=name, public_key_pem="", created_at=unit.now))

    def connect(self, name: str, *, forgotten: bool = False) -> None:
        node = self.nodes[name]
        node.inbox.clear()
        if forgotten:
            node.holds.clear()
        self.core.live.connect(node)
        self.up.add(name)
        hello = {"boot_id": f"{name}{forgotten}", "devices": self.devices(name), "leases": self.reports(name)}
        with self.core.change() as unit:
            nodes.arrived(self.core, unit, unit.session.get_one(Node, name), hello)

    def devices(self, name: str) -> list[dict[str, Any]]:
        return [
            {"uuid": uuid, "index": index, "model": "M", "memory_bytes": GIB, "emulated": True}
            for index, uuid in enumerate(_DEVICES[name])
        ]

    def reports(self, name: str) -> list[dict[str, Any]]:
        return [
            {"lease_id": key, "state": "active", "grants": grants} for key, grants in self.nodes[name].holds.items()
        ]

    def disconnect(self, name: str) -> None:
        self.core.live.disconnect(self.nodes[name])
        self.up.discard(name)
        with self.core.change() as unit:
            nodes.left(self.core, unit, name)

    def deliver(self, name: str) -> None:
        """The node reads everything it was sent, and answers."""
        node = self.nodes[name]
        while node.inbox and name in self.up:
            message = node.inbox.pop(0)
            key = message.get("lease_id", "")
            if message["type"] == "lease_start":
                node.holds[key] = [
                    {"ordinal": d["ordinal"], "device_uuid": d["uuid"], "secret": "s", "ca_pem": "", "memory_bytes": 1}
                    for d in message["devices"]
                ]
                self.tell(name, {"type": "lease_ready", "lease_id": key, "grants": node.holds[key]})
            elif message["type"] == "lease_stop":
                node.holds.pop(key, None)
                self.tell(name, {"type": "lease_ended", "lease_id": key, "reason": "stopped"})

    def tell(self, name: str, message: dict[str, Any]) -> None:
        with self.core.change() as unit:
            nodes.lease_message(self.core, unit, unit.session.get_one(Node, name), message)

    def ask(self, user: str, project: str, ask: Ask, *, wait: bool) -> str | None:
        with self.core.change() as unit:
            if running_workspace(unit.session, user, project) is None:
                record_start(self.core, unit, user, project, "t", project, "", "")
        try:
            with self.core.change() as unit:
                workspace = running_workspace(unit.session, user, project)
                assert workspace is not None
                return requests.request_lease(self.core, unit, workspace, requests.Request(ask, 60, wait)).id
        except Refusal:
            return None

    def end(self, lease_id: str) -> None:
        with self.core.change() as unit:
            leases.end(self.core, unit, unit.session.get_one(Lease, lease_id), "detached", "Detached.")

    def tick(self) -> None:
        Reconciler(self.core).tick()

    def restart_service(self) -> None:
        """A new process: what was in memory is gone, and every channel with it."""
        self.core = Core(self.options, self.database, Live(self.clock.monotonic), self.clock.now)
        self.up.clear()
        Reconciler(self.core).prepare()

    def check(self) -> None:
        """Never more than there is, by every count; the rows and the nodes agree on the safe side."""
        with self.core.read() as session:
            held = session.scalars(select(LeaseDevice).where(LeaseDevice.released_at.is_(None))).all()
            by_device: dict[int, int] = defaultdict(int)
            by_project: dict[int, int] = defaultdict(int)
            for row in held:
                by_device[row.device_id] += row.share
                by_project[row.project_id] += row.share
            uuids = {}
            for device in session.scalars(select(DeviceRow)):
                assert device.used_share == by_device[device.id] <= 1000
                uuids[device.uuid] = device.id
            for project in session.scalars(select(Project)):
                assert by_project[project.id] <= _QUOTA[project.slug]
            states = {lease.id: lease.state for lease in session.scalars(select(Lease))}
            assert all(states[row.lease_id] != "ended" for row in held), "an ended lease holds a share"
            # What a node still holds may not be promised to anybody else.
            rows = {(row.lease_id, row.device_id) for row in held}
            for node in self.nodes.values():
                for key, grants in node.holds.items():
                    for entry in grants:
                        assert (key, uuids[entry["device_uuid"]]) in rows, "a share was granted again too early"

    def settle(self) -> None:
        """Everybody comes back and everything ends: then every share is free and every active lease accounted for."""
        for name in _DEVICES:
            if name not in self.up:
                self.connect(name)
        with self.core.read() as session:
            unfinished = session.scalars(select(Lease.id).where(Lease.state != "ended")).all()
        for lease_id in unfinished:
            self.end(lease_id)
        for _ in range(3):
            self.clock.forward(6)
            self.tick()
            for name in _DEVICES:
                self.deliver(name)
        with self.core.read() as session:
            assert not session.scalars(select(Lease.id).where(Lease.state != "ended")).all()
            assert all(device.used_share == 0 for device in session.scalars(select(DeviceRow)))
            active = session.scalars(select(Lease.id).where(Lease.active_at.is_not(None))).all()
            assert set(active) == set(session.scalars(select(Usage.lease_id)).all())


_asks = st.builds(
    Ask,
    count=st.integers(1, 3),
    share=st.sampled_from([1000, 750, 500, 250, 1]),
    model=st.sampled_from([None, "M"]),
)
_users = st.sampled_from(["u1", "u2", "u3"])
_projects = st.sampled_from(sorted(_QUOTA))
_names = st.sampled_from(sorted(_DEVICES))


def _machine(database: Database, folder: Path) -> type[RuleBasedStateMachine]:
    class PoolMachine(RuleBasedStateMachine):
        @initialize()
        def start(self) -> None:
            self.pool = Pool(database, folder)
            self.leases: list[str] = []
            for name in _DEVICES:
                self.pool.connect(name)

        @rule(user=_users, project=_projects, ask=_asks, wait=st.booleans())
        def request(self, user: str, project: str, ask: Ask, wait: bool) -> None:
            lease_id = self.pool.ask(user, project, ask, wait=wait)
            if lease_id is not None:
                self.leases.append(lease_id)

        @rule(number=st.integers(0, 50))
        def detach(self, number: int) -> None:
            if self.leases:
                self.pool.end(self.leases[number % len(self.leases)])

        @rule(user=_users, project=_projects)
        def stop_workspace(self, user: str, project: str) -> None:
            with self.pool.core.change() as unit:
                record_stop(self.pool.core, unit, user, project)

        @rule(name=_names)
        def node_works(self, name: str) -> None:
            if name in self.pool.up:
                self.pool.deliver(name)

        @rule(name=_names)
        def node_goes(self, name: str) -> None:
            if name in self.pool.up:
                self.pool.disconnect(name)

        @rule(name=_names, forgotten=st.booleans())
        def node_comes(self, name: str, forgotten: bool) -> None:
            if name not in self.pool.up:
                self.pool.connect(name, forgotten=forgotten)

        @rule(name=_names)
        def node_reports(self, name: str) -> None:
            if name in self.pool.up:
                with self.pool.core.change() as unit:
                    node = unit.session.get_one(Node, name)
                    nodes.reported(self.pool.core, unit, node, {"leases": self.pool.reports(name)})

        @rule(seconds=st.sampled_from([1, 20, 70, 400, 4000]))
        def time_passes(self, seconds: int) -> None:
            self.pool.clock.forward(seconds)
            if seconds >= 4000:
                # Every lease is past its end: the nodes' own clocks ended them too.
                for node in self.pool.nodes.values():
                    node.holds.clear()
            self.pool.tick()

        @rule()
        def reconcile(self) -> None:
            self.pool.tick()

        @rule()
        def service_restarts(self) -> None:
            self.pool.restart_service()

        @invariant()
        def adds_up(self) -> None:
            if hasattr(self, "pool"):
                self.pool.check()

        def teardown(self) -> None:
            if hasattr(self, "pool"):
                self.pool.settle()
                self.pool.check()

    return PoolMachine


@pytest.fixture
def database(database_url: str) -> Any:
    opened = Database(database_url)
    yield opened
    opened.close()


def test_whatever_happens_the_shares_add_up(database: Database, tmp_path: Path) -> None:
    run_state_machine_as_test(
        _machine(database, tmp_path),
        settings=settings(
            max_examples=8,
            stateful_step_count=25,
            deadline=None,
            database=None,
            # A failure prints its steps; making them fewer would take minutes.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_many_at_once_never_get_more_than_there_is(database: Database, tmp_path: Path) -> None:
    pool = Pool(database, tmp_path)
    for name in _DEVICES:
        pool.connect(name)
    stop = threading.Event()
    problems: list[BaseException] = []

    def watch() -> None:
        while not stop.is_set():
            try:
                pool.check()
            except BaseException as error:
                problems.append(error)
                return

    def customer(number: int) -> None:
        user, project = f"u{number % 3 + 1}", "ab"[number % 2]
        for turn in range(6):
            lease_id = pool.ask(user, project, Ask(1 + turn % 2, (250, 500, 1000)[turn % 3]), wait=turn % 4 == 3)
            pool.tick()
            if lease_id is not None:
                pool.end(lease_id)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(6) as crowd:
        done = list(crowd.map(customer, range(6)))
    stop.set()
    watcher.join()
    assert len(done) == 6 and not problems, problems
    for name in _DEVICES:
        pool.deliver(name)
    pool.settle()
