"""Device servers for tests: one process with torch imported that forks a server for every connection.

Stands where a node agent stands, without leases and without a control plane. Run by `DeviceServers`; the tests'
processes attach through the attachment file it writes.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import importlib.util
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SECRET = bytes(range(32))
LEASE = "00112233445566778899aabbccddeeff"
DEVICE = os.environ.get("ELARA_TEST_DEVICE", "cpu")
"""Where device servers compute: "cpu" (emulated) or "cuda" (`--device cuda`)."""
ON_CUDA = DEVICE == "cuda"
_LEDGER_WORDS = 8 + 63 * 8
_LEDGER_MAGIC = 0x4C45444745523031


def _gpus() -> list[str]:
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
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(_gpus())} if ON_CUDA else {}
    return {**os.environ, "ELARA_DISABLE": "1", **visible}


def core_folder() -> Path:
    """Where the built core lies: ELARA_TEST_CORE, or the one for the installed torch in elara_remoting."""
    import importlib.metadata

    if os.environ.get("ELARA_TEST_CORE"):
        return Path(os.environ["ELARA_TEST_CORE"])
    minor = "_".join(importlib.metadata.version("torch").split(".")[:2])
    return ROOT / "remoting" / "elara_remoting" / "_core" / f"torch_{minor}"


def load_server_module() -> ModuleType:
    """The core's `_server` module; imports torch."""
    import torch  # noqa: F401  its libraries are the module's

    (path,) = core_folder().glob("_server*.so")
    spec = importlib.util.spec_from_file_location("_server", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
            "sockets": [str(path) for path in self.sockets],
            "ledgers": self.ledgers,
            "memory": self.memory,
            "torch_threads": self.torch_threads,
            "device": DEVICE,
            "model": MODEL,
            "grace_seconds": self.grace_seconds,
            "log": str(self._log),
            "tls": self.tls,
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(config)],
            stdout=subprocess.PIPE,
            pass_fds=self.ledgers,
            env={
                **os.environ,
                "ELARA_DISABLE": "1",
                **({"CUDA_VISIBLE_DEVICES": ",".join(_gpus())} if ON_CUDA else {}),
            },
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


def make_certificates(folder: Path) -> dict[str, str]:
    """A lease's own authority (ca.pem in `folder`) and a certificate from it; returns {"cert": PEM, "key": PEM}."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)

    def certificate(
        subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, authority: bool
    ) -> bytes:
        built = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(signer, hashes.SHA256())
        )
        return built.public_bytes(serialization.Encoding.PEM)

    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    (folder / "ca.pem").write_bytes(certificate("lease", authority_key, "lease", authority_key, True))
    encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return {
        "cert": certificate("node", key, "lease", authority_key, False).decode(),
        "key": key.private_bytes(*encoding).decode(),
    }


def _serve_forever(config: dict[str, Any]) -> None:
    """The process with torch imported: accepts, reads preambles, forks servers and passes on who comes back."""
    sys.path.insert(0, str(ROOT / "remoting"))
    from elara_remoting.node import operator_packages

    module = load_server_module()
    libraries = operator_packages.load()
    listeners: dict[socket.socket, tuple[int, bool]] = {}
    ports = []
    for ordinal, path in enumerate(config["sockets"]):
        local = socket.socket(socket.AF_UNIX)
        local.bind(path)
        local.listen(16)
        listeners[local] = (ordinal, False)
        if config["tls"]:
            tcp = socket.create_server(("127.0.0.1", 0))
            ports.append(tcp.getsockname()[1])
            listeners[tcp] = (ordinal, True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    slots = [0] * len(config["sockets"])
    half_open: dict[socket.socket, tuple[int, bool, bytes]] = {}
    sessions: dict[tuple[bytes, int], socket.socket] = {}
    print("ready", *ports, flush=True)
    while True:
        for ready in select.select([*listeners, *half_open], [], [])[0]:
            if ready in listeners:
                connection, _ = ready.accept()
                half_open[connection] = (*listeners[ready], b"")
                continue
            ordinal, over_tls, begun = half_open.pop(ready)
            with contextlib.suppress(OSError):
                begun += (received := ready.recv(64 - len(begun)))
                if received and len(begun) < 64:
                    half_open[ready] = (ordinal, over_tls, begun)
                    continue
            # A node has one address for all of its devices; those that name none are for the socket's own.
            ordinal = begun[9] if len(begun) == 64 and 0 < begun[9] < len(slots) else ordinal
            if len(begun) == 64 and begun[16:32] != bytes.fromhex(LEASE):
                _refuse(ready, "This node has no such lease. Detach and attach again.")
            elif len(begun) == 64 and begun[8] == 2:
                _connect_peers(sessions, begun[32:48], begun[9], begun[11], ready)
            elif len(begun) == 64 and begun[10] & 1:
                _pass_on(sessions.get((begun[32:48], ordinal)), ready, over_tls)
            elif len(begun) == 64:
                control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                sessions[begun[32:48], ordinal] = control
                slot = slots[ordinal] % 63
                slots[ordinal] += 1
                if os.fork() == 0:
                    _die_with_parent()
                    control.close()
                    for other in (*listeners, *half_open, *sessions.values()):
                        other.close()
                    _serve_connection(
                        module, {**config, "libraries": libraries}, ready, theirs, ordinal, over_tls, slot
                    )
                theirs.close()
            ready.close()


def _refuse(connection: socket.socket, sentence: str) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(b"ELARAERR" + struct.pack("<H", len(sentence)) + sentence.encode())


def _connect_peers(
    sessions: dict[tuple[bytes, int], socket.socket], session: bytes, first: int, second: int, asker: socket.socket
) -> None:
    if (session, first) not in sessions or (session, second) not in sessions:
        _refuse(asker, "There are no two sessions here to connect with each other.")
        return
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end, ordinal, other in zip(ends, (first, second), (second, first), strict=True):
        socket.send_fds(sessions[session, ordinal], [f"peer {other}".encode()], [end.fileno()])
        end.close()
    asker.sendall(b"ELARAPEER")


def _pass_on(control: socket.socket | None, connection: socket.socket, over_tls: bool) -> None:
    try:
        if control is None:
            raise OSError
        socket.send_fds(control, [b"resume tcp" if over_tls else b"resume local"], [connection.fileno()])
    except OSError:
        _refuse(connection, "Its device server has ended.")


def _serve_connection(
    module: ModuleType,
    config: dict[str, Any],
    connection: socket.socket,
    control: socket.socket,
    ordinal: int,
    over_tls: bool,
    slot: int,
) -> None:
    tls = config["tls"] if over_tls else None
    try:
        reason = module.serve(
            connection.detach(),
            tls_cert=tls and tls["cert"],
            tls_key=tls and tls["key"],
            secret=SECRET,
            ledger_fd=config["ledgers"][ordinal],
            slot=slot,
            device=config["device"] if config["device"] == "cpu" else f"cuda:{ordinal % len(_gpus())}",
            model=config["model"],
            memory_bytes=config["memory"],
            emulated=config["device"] == "cpu",
            torch_threads=config["torch_threads"],
            libraries=config["libraries"],
            grace_seconds=config["grace_seconds"],
            control_fd=control.fileno(),
        )
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    finally:
        with open(config["log"], "a", encoding="utf-8") as log:
            log.write(f"{ordinal} {os.getpid()} {reason}\n")
        os._exit(0)


def _die_with_parent() -> None:
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _die_with_parent()
    _serve_forever(json.loads(sys.argv[1]))
