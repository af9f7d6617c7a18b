"""The command `elara` as a user types it. The runs here have real device servers and real torch."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from node_harness import alive

from elara_remoting import attachment
from elara_remoting.attachment import AttachedDevice, Attachment

ELARA = [sys.executable, "-m", "elara_remoting.cli"]
PRIVATE = ("ELARA_RUNTIME_DIR", "ELARA_API_URL", "JUPYTERHUB_API_TOKEN", "ELARA_DISABLE")


@pytest.fixture
def environment(tmp_path):
    """No workspace, and a temporary folder of its own, short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="elara-test-") as folder:
        kept = {name: value for name, value in os.environ.items() if name not in PRIVATE}
        yield {**kept, "TMPDIR": folder, "COLUMNS": "120"}
        left = [name for name in os.listdir(folder) if name.startswith("elara")]
        assert left == [], "nothing may be left behind"


def elara(environment, *arguments, **more):
    return subprocess.run(
        [*ELARA, *arguments], env={**environment, **more}, capture_output=True, text=True, timeout=120, check=False
    )


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return result


def test_help_lists_the_commands_and_imports_no_torch(environment):
    program = "import sys; sys.argv = ['elara', '--help']\nfrom elara_remoting.cli import cli\n"
    program += "cli(standalone_mode=False)\nassert 'torch' not in sys.modules, 'torch was imported'"
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    for command in ("run", "serve", "smi", "attach", "detach", "node"):
        assert f"\n  {command} " in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run"], "--local N"),
        (["run", "--local", "1"], "Say what to run"),
        (["run", "--local", "0", "--", "true"], "1<=x<=64"),
        (["run", "--local", "two", "--", "true"], "'two'"),
        (["run", "--local", "1", "-p", "1/0", "--", "true"], "decimal (0.25) or a fraction (1/4)"),
        (["run", "--local", "1", "-p", "1.5", "--", "true"], "not between 1/1000 of a device and a whole one"),
        (["run", "--local", "1", "-m", "lots", "--", "true"], "write it like 2GiB"),
        (["run", "--local", "1", "-p", "1/2", "-m", "1GiB", "--", "true"], "either a share (-p) or an amount"),
        (["run", "--local", "1", "-m", "3GiB", "--", "true"], "less than the 3.0 GiB asked for"),
        (["run", "--local", "1", "--device-memory", "5KiB", "--", "true"], "at least 1 MiB"),
        (["run", "--from", "/nowhere/offer.json", "--", "true"], "cannot be read: No such file"),
        (["run", "--from", "/etc/hostname", "--", "true"], "not an offer of devices"),
        (["serve", "--listen", "127.0.0.1:99999"], "not HOST:PORT"),
        (["attach"], "not an Elara workspace"),
        (["detach"], "not an Elara workspace"),
        (["node", "--api", "ftp://somewhere"], "https://HOST/services/elara/api/v1"),
        (["node", "--api", "http://127.0.0.1:1/x", "--socket-group", "no-such-group"], "no group 'no-such-group'"),
        (["dance"], "No such command 'dance'"),
    ],
)
def test_bad_input_gets_a_sentence_and_status_2(environment, arguments, expected):
    answer = elara(environment, *arguments)
    assert answer.returncode == 2, answer.stderr
    assert expected in " ".join(answer.stderr.split())
    assert "Traceback" not in answer.stderr


def test_a_node_that_cannot_start_says_why(environment, tmp_path):
    answer = elara(environment, "node", "--api", "http://127.0.0.1:1/api/v1", "--data", str(tmp_path), "--emulate", "1")
    assert answer.returncode == 1 and "has not joined a service yet" in answer.stderr
    token = tmp_path / "token"
    token.write_text("one-time")
    answer = elara(
        environment,
        *("node", "--api", "http://127.0.0.1:1/api/v1", "--data", str(tmp_path), "--join-token-file", str(token)),
    )
    assert answer.returncode == 1 and "http://127.0.0.1:1/api/v1 does not answer" in answer.stderr


def test_an_address_that_is_taken_is_named(environment):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = elara(environment, "serve", "--listen", f"127.0.0.1:{port}", "--emulate", "1")
    assert answer.returncode == 1 and f"cannot listen on 127.0.0.1:{port}" in answer.stderr


PROGRAM = """
import json, os, subprocess, sys, torch
assert torch.cuda.is_available()
x = torch.ones(1000, 1000, device="cuda:0")
y = x.to("cuda:1")
smi = subprocess.run([sys.executable, "-m", "elara_remoting.cli", "smi", "--json"], capture_output=True, text=True)
table = subprocess.run([sys.executable, "-m", "elara_remoting.cli", "smi"], capture_output=True, text=True)
try:
    torch.empty(600 << 20, dtype=torch.uint8, device="cuda:0")
    refused = False
except torch.OutOfMemoryError:
    refused = True
print(json.dumps({
    "count": torch.cuda.device_count(), "sum": (x + y.to("cuda:0")).sum().item(), "refused": refused,
    "smi": json.loads(smi.stdout), "table": table.stdout, "runtime": os.environ["ELARA_RUNTIME_DIR"],
}))
sys.exit(7)
"""


def test_run_local_end_to_end(environment):
    answer = elara(environment, "run", "--local", "2", "-p", "1/4", "--", sys.executable, "-c", PROGRAM)
    assert answer.returncode == 7, answer.stderr
    told = json.loads(answer.stdout)
    assert told["count"] == 2 and told["sum"] == 2e6
    assert told["refused"], "600 MiB do not fit into a quarter of 2 GiB"
    first, second = told["smi"]["devices"]
    assert first["emulated"] and first["share"] == 250 and first["memory_bytes"] == 2**29
    assert first["used_bytes"] >= 4_000_000 and second["used_bytes"] >= 4_000_000
    assert "emulated (CPU)" in told["table"] and "cuda:1" in told["table"] and "512 MiB" in told["table"]
    assert not Path(told["runtime"]).exists()


FAULTS = """
import json, os, signal, subprocess, sys, time
import psutil, torch
from pathlib import Path

run = psutil.Process(os.getppid())
zygote = next(c for c in run.children() if "elara_remoting.node.zygote" in c.cmdline() and os.getsid(c.pid) == c.pid)
model = torch.nn.Linear(64, 64).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.1)

def step():
    loss = model(torch.ones(8, 64, device="cuda")).pow(2).mean()
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    return loss.item()

def used():
    smi = subprocess.run([sys.executable, "-m", "elara_remoting.cli", "smi", "--json"], capture_output=True)
    return [device["used_bytes"] for device in json.loads(smi.stdout)["devices"]]

first = step()
# The oldest: the next one that waits in reserve was started when this one got its session.
server = min((c for c in run.children() if c.pid not in (zygote.pid, os.getpid())), key=lambda c: c.create_time())
zygote.kill()
after_zygote = step()
other = torch.ones(100, device="cuda:1")
held = used()
server.kill()
try:
    step()
    error = None
except RuntimeError as failure:
    error = str(failure)
deadline = time.time() + 10
while used()[0] and time.time() < deadline:
    time.sleep(0.05)
told = {"learns": after_zygote < first, "held": held, "error": error, "left": used(), "other": other.sum().item()}
print(json.dumps(told))
"""


def test_faults_under_a_running_program(environment):
    answer = elara(environment, "run", "--local", "2", "--", sys.executable, "-c", FAULTS)
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout.splitlines()[-1])
    assert told["learns"], "a session outlives the zygote"
    assert told["held"][0] > 0 and told["held"][1] > 0
    assert told["error"] and told["error"][0].isupper(), "a killed device server is a RuntimeError in words"
    assert told["left"][0] == 0, "and its memory is free"
    assert told["other"] == 100.0, "the other device of the same program goes on"


def test_run_gives_signals_to_the_command_and_its_status_back(environment, tmp_path):
    script = f"trap 'exit 42' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
    with subprocess.Popen([*ELARA, "run", "--local", "1", "--", "sh", "-c", script], env=environment) as process:
        until(lambda: (tmp_path / "pid").exists())
        children = _descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 42
    until(lambda: not any(map(alive, children)), 5)


def test_a_command_that_is_killed_or_missing_ends_as_in_a_shell(environment):
    assert elara(environment, "run", "--local", "1", "--", "sh", "-c", "kill -9 $$").returncode == 137
    missing = elara(environment, "run", "--local", "1", "--", "no-such-command")
    assert missing.returncode == 127 and "'no-such-command' was not found" in missing.stderr


def test_interrupting_before_the_command_starts_leaves_nothing(environment):
    with subprocess.Popen([*ELARA, "run", "--local", "1", "--", "true"], env=environment) as process:
        zygote = until(lambda: _descendants(process.pid))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    until(lambda: not any(map(alive, zygote)), 5)


def test_a_killed_run_takes_its_processes_along_and_the_next_one_sweeps(environment, tmp_path):
    command = [*ELARA, "run", "--local", "1", "--", "sh", "-c", f"echo up > {tmp_path}/up; exec sleep 60"]
    with subprocess.Popen(command, env=environment) as process:
        until(lambda: (tmp_path / "up").exists())
        children = _descendants(process.pid)
        assert len(children) >= 2, "the zygote, the command, and a device server in reserve"
        process.kill()
        process.wait()
    until(lambda: not any(map(alive, children)), 5)
    assert len(os.listdir(environment["TMPDIR"])) == 1
    assert elara(environment, "run", "--local", "1", "--", "true").returncode == 0


def test_serve_and_run_from_another_machine(environment, tmp_path):
    offer = tmp_path / "offer.json"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*ELARA, "serve", "--listen", f"127.0.0.1:{port}", "--emulate", "1", "-o", str(offer)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        until(offer.exists)
        assert offer.stat().st_mode & 0o777 == 0o600
        given = json.loads(offer.read_text())
        for device in given["devices"]:
            device["local"] = None  # what another machine sees of it
        there = tmp_path / "there.json"
        there.write_text(json.dumps(given))
        program = "import torch; print((torch.ones(5, device='cuda') * 3).sum().item())"
        answer = elara(environment, "run", "--from", str(there), "--", sys.executable, "-c", program)
        assert answer.stdout.strip() == "15.0", answer.stderr
        given["devices"][0]["secret"] = "0" * 64
        there.write_text(json.dumps(given))
        forged = elara(environment, "run", "--from", str(there), "--", sys.executable, "-c", program)
        assert forged.returncode != 0 and "15.0" not in forged.stdout
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        told = process.stderr.read()
    assert "emulated (CPU)" in told and given["devices"][0]["secret"] not in told
    assert not offer.exists()
    late = elara(environment, "run", "--from", str(there), "--", "true")
    assert late.returncode == 1 and f"Nothing answers at 127.0.0.1:{port}" in late.stderr


def test_smi_says_when_nothing_is_attached_and_what_to_do(environment, tmp_path):
    answer = elara(environment, "smi")
    assert answer.returncode == 0 and "elara run --local 1" in answer.stdout
    workspace = {"ELARA_RUNTIME_DIR": str(tmp_path), "ELARA_API_URL": "http://127.0.0.1:1/api/v1"}
    assert "elara attach" in elara(environment, "smi", **workspace).stdout
    attachment.write(tmp_path, attachment.detached(tmp_path, "the node was restarted", lost=True))
    assert "lost (the node was restarted)" in elara(environment, "smi", **workspace).stdout
    assert json.loads(elara(environment, "smi", "--json", **workspace).stdout) == {"state": "lost", "devices": []}
    device = AttachedDevice(0, "NVIDIA H100", "GPU-1", False, 1000, 2**30, "0" * 64, local="/nowhere", tcp="10.0.0.1:1")
    attachment.write(tmp_path, Attachment(9, "attached", lease="a" * 32, devices=(device,)))
    table = elara(environment, "smi", **workspace).stdout
    assert "NVIDIA H100" in table and "not known / 1.0 GiB" in table and "0" * 64 not in table
    attachment.write(tmp_path, Attachment(10, "attached", lease="a" * 32, expires=1000, devices=(device,)))
    assert "time of the last attachment is over" in elara(environment, "smi", **workspace).stdout
    (tmp_path / "attachment").write_text("something else")
    broken = elara(environment, "smi", **workspace)
    assert broken.returncode == 1 and "cannot be read" in broken.stderr


def _descendants(pid):
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
