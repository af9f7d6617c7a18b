"""Many threads on a device while attachments come and go; under ThreadSanitizer in `make sanitize`."""

from __future__ import annotations

import threading
import time

import torch

from tests.remoting.client.conftest import Bench

THREADS, ROUNDS = 8, 12
ENDED = ("earlier attachment", "was detached", "is gone", "No CUDA GPUs are available")
"""What a thread may be told whose device is taken away."""


class Work:
    """Threads that use the device in every way that waits, and count what they have done."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.wrong: list[str] = []
        self.done = [0] * THREADS
        self.threads = [threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)]

    def __enter__(self) -> Work:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(60)

    def wait(self, times: int) -> None:
        """Until all threads together have gone round so many times more."""
        wanted, deadline = sum(self.done) + times, time.monotonic() + 60
        while sum(self.done) < wanted and not self.wrong:
            assert time.monotonic() < deadline, f"{sum(self.done)} of {wanted} rounds in a minute"
            time.sleep(0.01)

    def _run(self, number: int) -> None:
        while not self.stopped.is_set():
            try:
                self._use(number)
                self.done[number] += 1
            except RuntimeError as error:
                if not any(sentence in str(error) for sentence in ENDED):
                    self.wrong.append(str(error))

    def _use(self, number: int) -> None:
        values = torch.full((64,), float(number), device="cuda")
        event = torch.cuda.Event()
        event.record()
        if (values * 2).sum().item() != 128.0 * number:
            self.wrong.append(f"a sum of {values}")
        torch.rand(8, device="cuda").cpu()
        event.synchronize()
        torch.ones(number + 1, 3, device="cuda").nonzero()


def test_threads_work_on_while_attachments_come_and_go(bench: Bench) -> None:
    with Work() as work:
        for number in range(ROUNDS):
            work.wait(2 * THREADS)
            if number % 4 == 3:
                bench.detach()
            bench.attach(1 + number % 2)
        work.wait(2 * THREADS)
    assert not work.wrong, work.wrong[:3]
    assert (torch.ones(3, device="cuda") + 1).tolist() == [2.0, 2.0, 2.0]
