"""`elara up` refuses with a sentence and a status, before it starts anything."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from elara_hub.supervisor.folder import DataFolder

CONFIG = Path(__file__).resolve().parents[2] / "jupyterhub_config.py"


def up(*options: str | Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "elara_remoting.cli", "up", *(str(o) for o in options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_taken_port_is_told_with_who_has_it(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        status, told = up("--data", tmp_path / "d", "--port", str(port))
    assert status == 1
    assert f"Port {port} is taken by" in told and f"--port {port + 1}" in told


def test_a_second_instance_on_the_same_data_is_told(tmp_path: Path) -> None:
    first = DataFolder(tmp_path / "d")
    first.open()
    first.write_status({"pid": 4711, "url": "http://127.0.0.1:8000"})
    status, told = up("--data", first.root)
    assert status == 1
    assert "already running" in told and "process 4711" in told
    first.close()


def test_an_address_of_another_machine_is_told(tmp_path: Path) -> None:
    status, told = up("--data", tmp_path / "d", "--host", "192.0.2.1")
    assert status == 1
    assert "no address of this machine" in told


def test_a_missing_configuration_is_told(tmp_path: Path) -> None:
    status, told = up("--data", tmp_path / "d", "--config", tmp_path / "none.py")
    assert status == 1
    assert "--config" in told and not (tmp_path / "d").exists()


def test_memory_that_is_no_amount_is_told(tmp_path: Path) -> None:
    status, told = up("--data", tmp_path / "d", "--device-memory", "lots")
    assert status == 2
    assert "--device-memory" in told
