"""A bad network in one object: stands between a client and a device server, and cuts, stalls, slows or refuses."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

Address = str | tuple[str, int]
_PIECE = 64 << 10


class FaultyProxy:
    """Passes bytes between `listen` (a socket's path, or port 0 of 127.0.0.1 when None) and `target`.

    Positions of cuts count the bytes of one direction over all connections since the proxy began: `up` is to the device
    server. `rate` is in bytes a second and direction, None for no limit.
    """

    def __init__(self, target: Path | tuple[str, int], listen: Path | None = None) -> None:
        self.target: Address = str(target) if isinstance(target, Path) else target
        self.rate: float | None = None
        self.passed = {"up": 0, "down": 0}
        self.connections = 0
        self.cuts_made = 0
        self.recorded: bytearray | None = None  # when it is one: what goes to the device server
        self._cuts: dict[str, list[int]] = {"up": [], "down": []}
        self._open = threading.Event()
        self._open.set()
        self._refusing = False
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        if listen is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(listen))
            self._listener.listen(16)
            self.address = str(listen)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FaultyProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resume()
        # A thread that waits in accept() keeps the listener alive; this wakes it.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection, in the midst of whatever goes over it."""
        with self._lock:
            broken, self._sockets = self._sockets, set()
            self.cuts_made += 1
        for end in broken:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut_after(self, direction: str, *distances: int) -> None:
        """Cut when so many further bytes have passed; one cut a distance, each counted from the one before."""
        with self._lock:
            position = self.passed[direction]
            for distance in distances:
                position += distance
                self._cuts[direction].append(position)

    def refuse(self) -> None:
        """Cut, and let nobody through until `admit`."""
        self._refusing = True
        self.cut()

    def admit(self) -> None:
        """Let new connections through again."""
        self._refusing = False

    def stall(self) -> None:
        """Keep the connections and pass nothing until `resume`."""
        self._open.clear()

    def resume(self) -> None:
        """Pass on what was held back."""
        self._open.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                near.close()
                continue
            try:
                if isinstance(self.target, str):
                    far = socket.socket(socket.AF_UNIX)
                    far.connect(self.target)
                else:
                    far = socket.create_connection(self.target)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._sockets |= {near, far}
                self.connections += 1
            for source, sink, direction in ((near, far, "up"), (far, near, "down")):
                threading.Thread(target=self._pass, args=(source, sink, direction), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                self._open.wait()
                if self.rate is not None:
                    time.sleep(len(data) / self.rate)
                with self._lock:
                    if source not in self._sockets:
                        break  # it was cut: what lies in its buffer goes nowhere
                    cuts = self._cuts[direction]
                    room = cuts[0] - self.passed[direction] if cuts else len(data)
                    reached = bool(cuts) and room <= len(data)
                    if reached:
                        del cuts[0]
                        data = data[:room]
                    self.passed[direction] += len(data)
                    if self.recorded is not None and direction == "up":
                        self.recorded += data
                sink.sendall(data)
                if reached:
                    self.cut()
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._sockets -= {source, sink}
