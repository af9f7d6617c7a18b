"""Device servers for tests, in a process of their own (`serving.py`), and the attachment file by which the tests'
processes find them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.remoting.certificates import make_certificates

ROOT = Path(__file__).resolve().parents[2]
SECRET = bytes(range(32))
LEASE = "00112233445566778899aabbccddeeff"
DEVICE = os.environ.get("ELARA_TEST_DEVICE", "cpu")
"""Where device servers compute: "cpu" (emulated) or "cuda" (`--device cuda`)."""
ON_CUDA = DEVICE == "cuda"
_LEDGER_WORDS = 8 + 63 * 8
_LEDGER_MAGIC = 0x4C45444745523031


def gpus() -> list[str]:
    """The CUDA devices that device servers may use, by their numbers; they are hidden from the client's processes."""
    return os.environ.get("ELARA_TEST_GPUS", "0").split(",")


def _model() -> str:
    if not ON_CUDA:
        return "emulated (CPU)"
    import pynvml

    pynvml.nvmlInit()
    name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    return name if isinstance(name, str) else name.decode()


MODEL = _model()


def client_environment() -> dict[str, str]:
    """What a client's process gets on top of this one's: no GPU of its own."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ""} if ON_CUDA else dict(os.environ)


def native_environment() -> dict[str, str]:
    """What a process gets that computes without the client: on a GPU of this machine where there is one to compare."""
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus())} if ON_CUDA else {}
    return {**os.environ, "ELARA_DISABLE": "1", **visible}


def _server_environment() -> dict[str, str]:
    """What the device servers get; an ordinary core where the client runs under ThreadSanitizer, which does not bear
    that they are forked from a process with threads."""
    left_out = ("LD_PRELOAD", "ELARA_CORE") if "TSAN_OPTIONS" in os.environ else ()
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus())} if ON_CUDA else {}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "ELARA_DISABLE": "1", **visible}


@dataclass
class Ended:
    """A session that ended: on which device, in which process, and why."""

    ordinal: int
    pid: int
    reason: str


class DeviceServers:
    """Devices, emulated unless `--device cuda` was given, for the life of a `with` block.

    They listen on Unix sockets and, with `tls`, on TCP ports of 127.0.0.1.

    `folder` becomes the runtime folder: it gets the sockets, the log and the attachment file. `memory` is the cap of
    each device in bytes.
    """

    def __init__(
        self,
        folder: Path,
        devices: int = 1,
        memory: int = 2 << 30,
        tls: bool = False,
        torch_threads: int = 1,
        grace_seconds: float = 60,
    ) -> None:
        self.folder, self.devices, self.memory = folder, devices, memory
        self.torch_threads, self.grace_seconds = torch_threads, grace_seconds
        self.sockets = [folder / f"device{ordinal}.sock" for ordinal in range(devices)]
        self.ports: list[int] = []
        self.ledgers: list[int] = []
        self.tls = make_certificates(folder) if tls else None
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "servers.log"

    def __enter__(self) -> DeviceServers:
        self.ledgers = [make_ledger(self.memory) for _ in range(self.devices)]
        config = {
            "sockets": [str(path.resolve()) for path in self.sockets],
            "ledgers": self.ledgers,
            "memory": self.memory,
            "torch_threads": self.torch_threads,
            "device": DEVICE,
            "model": MODEL,
            "grace_seconds": self.grace_seconds,
            "log": str(self._log.resolve()),
            "tls": self.tls,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.remoting.serving", json.dumps(config)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            pass_fds=self.ledgers,
            env=_server_environment(),
            start_new_session=True,
        )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        if not ready.startswith(b"ready"):
            raise RuntimeError(f"the device servers did not start: {ready!r}")
        self.ports = [int(port) for port in ready.split()[1:]]
        self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
        for ledger in self.ledgers:
            os.close(ledger)

    def attach(
        self,
        epoch: int = 1,
        devices: int | None = None,
        local: bool | None = None,
        through: dict[int, str] | None = None,
    ) -> None:
        """Write the attachment file. `local=False` offers TCP only, `True` no TCP; by default what there is.
        `through` names other addresses for devices: a socket's path, or host:port."""
        lines = ["elara-attachment 1", f"epoch {epoch}", "state attached", "reason ", f"lease {LEASE}", "expires 0"]
        for ordinal in range(self.devices if devices is None else devices):
            lines += [
                f"device {ordinal}",
                f"model {MODEL}",
                f"uuid {'GPU' if ON_CUDA else 'EMULATED'}-{ordinal}",
                f"emulated {0 if ON_CUDA else 1}",
                "share 1000",
                f"memory {self.memory}",
                f"secret {SECRET.hex()}",
            ]
            address = (through or {}).get(ordinal)
            if local is not False:
                lines.append(f"local {address or self.sockets[0]}")
            if self.tls and local is not True:
                lines += [f"tcp {address or f'127.0.0.1:{self.ports[0]}'}", f"ca {self.folder / 'ca.pem'}"]
        self._replace_attachment(lines)

    def detach(self, epoch: int = 2, reason: str = "detached by the test") -> None:
        """Replace the attachment file by one without devices."""
        self._replace_attachment(["elara-attachment 1", f"epoch {epoch}", "state detached", f"reason {reason}"])

    def _replace_attachment(self, lines: list[str]) -> None:
        new = self.folder / "attachment.new"
        new.write_text("\n".join(lines) + "\n", encoding="utf-8")
        new.chmod(0o600)
        new.replace(self.folder / "attachment")

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find the attachment, on top of this one's environment."""
        return {**client_environment(), "ELARA_RUNTIME_DIR": str(self.folder)}

    def running(self) -> list[int]:
        """The processes of the sessions that run."""
        assert self._process is not None
        pid = self._process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def ended(self) -> list[Ended]:
        """The sessions that have ended so far."""
        if not self._log.exists():
            return []
        entries = [line.split(" ", 2) for line in self._log.read_text(encoding="utf-8").splitlines()]
        return [Ended(int(ordinal), int(pid), reason) for ordinal, pid, reason in entries]

    def wait_ended(self, count: int, seconds: float = 10) -> list[Ended]:
        """Wait until at least `count` sessions have ended, and return them."""
        deadline = time.monotonic() + seconds
        while len(ended := self.ended()) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} sessions should have ended; there are {ended}")
            time.sleep(0.01)
        return ended

    def ledger_words(self, ordinal: int = 0) -> list[int]:
        """The ledger of a device as it stands (docs/contracts.md, 5)."""
        return list(struct.unpack(f"<{_LEDGER_WORDS}Q", os.pread(self.ledgers[ordinal], _LEDGER_WORDS * 8, 0)))

    def write_ledger_word(self, index: int, value: int, ordinal: int = 0) -> None:
        """Change a word of a ledger, as another session of the lease would."""
        os.pwrite(self.ledgers[ordinal], struct.pack("<Q", value), index * 8)


def make_ledger(cap: int) -> int:
    """A fresh ledger; the memfd is the caller's to close."""
    fd = os.memfd_create("ledger")
    os.pwrite(fd, struct.pack(f"<{_LEDGER_WORDS}Q", _LEDGER_MAGIC, cap, *[0] * (_LEDGER_WORDS - 2)), 0)
    return fd
