"""Fetching images: what the engine tells while it does, added up, and one fetch an image however many wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

_DONE = ("Pull complete", "Already exists")
_FETCHED = ("Download complete", "Verifying Checksum", "Extracting")


class PullFailed(Exception):
    """The engine gave up; the text is what it said."""


class PullProgress:
    """Adds up the events of one pull. Sizes of layers become known as the engine gets to them."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, int, bool]] = {}

    def take(self, event: Mapping[str, Any]) -> None:
        """One event, as the engine's API sends it.

        Raises:
            PullFailed: the event tells of an error.
        """
        if "error" in event or "errorDetail" in event:
            raise PullFailed(str(event.get("error") or event["errorDetail"].get("message", "unknown")))
        layer, status = str(event.get("id", "")), str(event.get("status", ""))
        if not layer or status.startswith(("Pulling from", "Digest")):
            return
        current, total, _ = self._layers.get(layer, (0, 0, False))
        detail = event.get("progressDetail") or {}
        if status == "Downloading":
            current, total = int(detail.get("current", current)), int(detail.get("total", total) or 0)
        elif status.startswith(_FETCHED) or status in _DONE:
            current = total
        self._layers[layer] = (current, total, status in _DONE)

    @property
    def layers(self) -> tuple[int, int]:
        """How many layers are done, and how many there are."""
        return sum(done for *_, done in self._layers.values()), len(self._layers)

    @property
    def bytes(self) -> tuple[int, int]:
        """How many bytes are fetched, and how many of the layers whose size is known."""
        return sum(c for c, *_ in self._layers.values()), sum(t for _, t, _ in self._layers.values())

    @property
    def fraction(self) -> float:
        """How far it is, between 0 and 1: of the bytes where they are known, else of the layers."""
        (fetched, size), (done, layers) = self.bytes, self.layers
        if not layers:
            return 0.0
        return 0.5 * (fetched / size if size else done / layers) + 0.5 * done / layers

    def sentence(self, title: str) -> str:
        """For people."""
        (fetched, size), (done, layers) = self.bytes, self.layers
        if not layers:
            return f"Fetching the image of {title}: asking the registry"
        amount = f", {amount_of(fetched)} of {amount_of(size)}" if size else ""
        return f"Fetching the image of {title}: {done} of {layers} layers{amount}"


def amount_of(size: int) -> str:
    """Bytes for people, such as ``120 MB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} B"


class Pull:
    """One fetch under way, in a thread of its own, since the engine tells of it as long as it lasts."""

    def __init__(self, events: Callable[[], Iterator[Mapping[str, Any]]]) -> None:
        self._progress = PullProgress()
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = loop.create_future()
        # Whoever waited may have given up; then nobody asks how it ended.
        self._ended.add_done_callback(lambda future: future.exception())

        def fetch() -> None:
            outcome: Exception | None = None
            try:
                for event in events():
                    self._progress.take(event)
            except Exception as error:
                outcome = error
            with suppress(RuntimeError):
                # The hub may have ended meanwhile; the engine goes on without it.
                loop.call_soon_threadsafe(self._end, outcome)

        threading.Thread(target=fetch, name="image pull", daemon=True).start()

    def _end(self, outcome: Exception | None) -> None:
        if outcome is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(outcome)

    @property
    def over(self) -> bool:
        return self._ended.done()

    async def follow(self, every: float = 1.0) -> AsyncIterator[PullProgress]:
        """The progress so far, every so many seconds and once at the end. Raises what ended the fetch."""
        while not self._ended.done():
            yield self._progress
            await asyncio.wait([self._ended], timeout=every)
        self._ended.result()
        yield self._progress


class Pulls:
    """All fetches under way, by image."""

    def __init__(self) -> None:
        self._running: dict[str, Pull] = {}

    def of(self, image: str, events: Callable[[], Iterator[Mapping[str, Any]]]) -> Pull:
        """The fetch of `image` that runs, or a new one."""
        pull = self._running.get(image)
        if pull is None or pull.over:
            pull = self._running[image] = Pull(events)
        return pull


def is_pulled(image: str) -> bool:
    """Whether an image comes from a registry that its name tells; what has no such name is built on the machine.

    The engine would look for the latter in a public registry, where anybody may own the name.
    """
    first, slash, _ = image.partition("/")
    return bool(slash) and ("." in first or ":" in first or first == "localhost")


def split(image: str) -> tuple[str, str]:
    """Repository and tag of an image's name; a digest counts as a tag."""
    if "@" in image:
        repository, _, digest = image.partition("@")
        return repository, digest
    head, slash, last = image.rpartition("/")
    name, _, tag = last.partition(":")
    return head + slash + name, tag or "latest"
