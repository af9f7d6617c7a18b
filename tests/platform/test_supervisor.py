"""The supervisor over parts that behave badly."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.platform.waiting import alive, processes_of, until

HERE = Path(__file__).parent


class Stage:
    """The supervisor of stage.py as a child process."""

    def __init__(self, data: Path, cast: dict[str, str], ready_seconds: float, silent_seconds: float) -> None:
        self.data = data
        pairs = [f"{name}={behaviour}" for name, behaviour in cast.items()]
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(HERE / "stage.py"), str(data), str(ready_seconds), str(silent_seconds), *pairs],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )

    def parts(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.data / "up.json").read_text())["parts"])
        except (OSError, ValueError):
            return {}

    def ready(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()[0]
        try:
            status = json.loads((self.data / "up.json").read_text())
            return bool(status["ready"] and status["pid"] == self.process.pid)
        except (OSError, ValueError):
            return False

    def log(self, name: str) -> str:
        return (self.data / "logs" / f"{name}.log").read_text()

    def child(self, name: str) -> int:
        return int(re.findall(r"child (\d+)", self.log(name))[-1])

    def end(self) -> tuple[int, str]:
        """SIGTERM; the exit status and everything it printed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=30)
        return self.process.returncode, output


@pytest.fixture
def stages() -> Iterator[list[Stage]]:
    opened: list[Stage] = []
    yield opened
    for stage in opened:
        if stage.process.poll() is None:
            stage.process.kill()
            stage.process.communicate()
        assert until(lambda stage=stage: not processes_of(stage.data), "processes were left behind", 10)


def open_stage(
    stages: list[Stage], data: Path, cast: dict[str, str], ready_seconds: float = 30, silent_seconds: float = 60
) -> Stage:
    stages.append(Stage(data, cast, ready_seconds, silent_seconds))
    return stages[-1]


def test_a_part_that_is_killed_comes_back_and_leaves_nothing_behind(tmp_path: Path, stages: list[Stage]) -> None:
    stage = open_stage(stages, tmp_path, {"service": "littering", "mlflow": "good"})
    until(stage.ready, "ready")
    first, litter = stage.parts()["service"]["pid"], stage.child("service")
    assert alive(litter)
    os.kill(first, signal.SIGKILL)
    until(lambda: stage.parts()["service"]["restarts"] == 1 and stage.parts()["service"]["state"] == "ready", "restart")
    assert stage.parts()["service"]["pid"] != first
    assert not alive(litter), "what the killed part had started would hold its ports and devices"
    assert stage.parts()["mlflow"]["restarts"] == 0
    status, output = stage.end()
    assert status == 0
    assert "service  ready again" in output
    assert processes_of(tmp_path) == []


def test_workspaces_outlive_their_hub_and_end_with_the_instance(tmp_path: Path, stages: list[Stage]) -> None:
    stage = open_stage(stages, tmp_path, {"hub": "parent", "service": "good"})
    until(stage.ready, "ready")
    workspace = stage.child("hub")
    os.kill(stage.parts()["hub"]["pid"], signal.SIGKILL)
    until(lambda: stage.parts()["hub"]["state"] == "ready" and stage.parts()["hub"]["restarts"] == 1, "the hub again")
    assert alive(workspace), "a hub's restart must not stop a running workspace"
    assert stage.end()[0] == 0
    assert not alive(workspace)


def test_an_orphan_that_ends_by_itself_leaves_no_zombie(tmp_path: Path, stages: list[Stage]) -> None:
    stage = open_stage(stages, tmp_path, {"hub": "parent"})
    until(stage.ready, "ready")
    workspace = stage.child("hub")
    os.kill(stage.parts()["hub"]["pid"], signal.SIGKILL)
    until(lambda: stage.parts()["hub"]["restarts"] == 1, "the hub again")
    os.kill(workspace, signal.SIGKILL)
    # The hub asks whether the process is still there; a zombie would seem to be.
    until(lambda: not Path(f"/proc/{workspace}").exists(), "the orphan's exit status was taken")
    assert stage.end()[0] == 0


def test_the_next_start_ends_what_a_killed_supervisor_left(tmp_path: Path, stages: list[Stage]) -> None:
    stage = open_stage(stages, tmp_path, {"hub": "parent"})
    until(stage.ready, "ready")
    workspace = stage.child("hub")
    stage.process.kill()
    stage.process.communicate()
    assert alive(workspace)
    again = open_stage(stages, tmp_path, {"service": "good"})
    until(again.ready, "ready")
    assert not alive(workspace)
    assert "that an earlier start" in again.end()[1]


def test_a_part_that_dies_at_once_is_named_with_its_last_words(tmp_path: Path, stages: list[Stage]) -> None:
    stage = open_stage(stages, tmp_path, {"service": "good", "mlflow": "dies"})
    output, _ = stage.process.communicate(timeout=30)
    assert stage.process.returncode == 1
    assert "The part mlflow ended while it was starting (exit status 3)" in output
    assert "no flour in the house" in output
    assert str(tmp_path / "logs" / "mlflow.log") in output
    assert processes_of(tmp_path) == []


def test_a_part_that_never_gets_ready_is_given_up(tmp_path: Path, stages: list[Stage]) -> None:
    stage = open_stage(stages, tmp_path, {"service": "mute"}, ready_seconds=1.5)
    output, _ = stage.process.communicate(timeout=30)
    assert stage.process.returncode == 1
    assert "The part service was not ready after 1.5 s" in output
    assert processes_of(tmp_path) == []


def test_a_part_that_ignores_the_order_to_stop_is_killed(tmp_path: Path, stages: list[Stage]) -> None:
    stage = open_stage(stages, tmp_path, {"service": "stubborn"})
    until(stage.ready, "ready")
    begun = time.monotonic()
    assert stage.end()[0] == 0
    assert time.monotonic() - begun < 10
    assert "did not stop within 1 s and was killed" in stage.log("service")


def test_a_part_that_hangs_is_started_again(tmp_path: Path, stages: list[Stage]) -> None:
    stage = open_stage(stages, tmp_path, {"service": "good", "mlflow": "good"}, silent_seconds=3)
    until(stage.ready, "ready")
    hung = stage.parts()["service"]["pid"]
    os.kill(hung, signal.SIGSTOP)  # it lives, takes connections, and says nothing
    until(lambda: stage.parts()["service"]["restarts"] == 1 and stage.parts()["service"]["state"] == "ready", "restart")
    assert not alive(hung)
    assert stage.parts()["mlflow"]["restarts"] == 0, "who answers is left alone"
    assert stage.end()[0] == 0
    assert "has not answered for 3 s" in stage.log("service")


def test_parts_do_not_outlive_a_supervisor_that_is_killed(tmp_path: Path, stages: list[Stage]) -> None:
    stage = open_stage(stages, tmp_path, {"service": "good", "mlflow": "good"})
    until(stage.ready, "ready")
    stage.process.kill()
    stage.process.communicate()
    until(lambda: not processes_of(tmp_path), "the parts ended by themselves")


def test_no_secret_reaches_a_log(tmp_path: Path, stages: list[Stage]) -> None:
    stage = open_stage(stages, tmp_path, {"service": "good"})
    until(stage.ready, "ready")
    stage.end()
    assert "my secret is [secret]" in stage.log("service")
    for file in (tmp_path / "logs").iterdir():
        assert file.stat().st_mode & 0o077 == 0
