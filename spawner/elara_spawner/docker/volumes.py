"""Volumes: made when missing, compared when there, made ready once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elara_spawner.container import Volume
from elara_spawner.docker import failures, objects
from elara_spawner.docker.engine import Call, found, run_helper
from elara_spawner.docker.failures import Failure


class VolumeRefused(Exception):
    """A volume is not what it has to be."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def differs(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """How a volume differs from what `objects.volume` asks for, as a part of a sentence; empty when it does not. Pure.

    The engine answers a request for a volume that is there with that volume, whatever else was asked for.
    """
    if there.get("Driver") != wanted["driver"]:
        return f"its driver is {there.get('Driver')}, where the settings say {wanted['driver']}"
    if (there.get("Options") or {}) != wanted["driver_opts"]:
        return "it was made with other options than the settings now say"
    labels = there.get("Labels") or {}
    for key, value in wanted["labels"].items():
        if labels.get(key) != value:
            return f"it is not this workspace's: its label {key} is {labels.get(key)!r}, not {value!r}"
    return ""


class Volumes:
    """What this hub knows of the engine's volumes: which of them it has made ready."""

    def __init__(self) -> None:
        self._ready: set[tuple[str, str]] = set()
        """Volumes with an empty second part, and folders of homes."""

    async def ensure(
        self,
        call: Call,
        volumes: Sequence[Volume],
        *,
        instance: str,
        driver: str,
        options: Mapping[str, str],
        image: str,
        uid: int,
        gid: int,
    ) -> list[str]:
        """Make what is missing, refuse what differs, make ready what is new to this hub.

        Returns sentences for the user on what was changed in their home.

        Args:
            image: of the container that makes them ready, which has a shell.

        Raises:
            VolumeRefused: one differs, or a data set is missing.
        """
        unready = []
        for entry in volumes:
            there = await found(call, "inspect_volume", entry.name)
            if entry.kind == "dataset":
                if there is None:
                    raise VolumeRefused(failures.dataset_missing(entry.target.rpartition("/")[2], entry.name))
                continue
            wanted = objects.volume(entry, instance, driver, options)
            made = there is None
            if there is None:
                there = dict(await call("create_volume", **wanted))
            difference = differs(there, wanted)
            if difference:
                raise VolumeRefused(failures.volume_differs(entry.name, difference))
            if made:
                self._ready = {known for known in self._ready if known[0] != entry.name}
            if (entry.name, "") not in self._ready:
                unready.append(entry)
        if unready:
            await run_helper(call, objects.preparation(unready, image, uid, gid, instance))
            self._ready.update((entry.name, "") for entry in unready)
        told: list[str] = []
        for home in (entry for entry in volumes if entry.kind == "home"):
            folders = objects.folders_at_home(home, volumes)
            missing = [folder for folder in folders if (home.name, folder) not in self._ready]
            if missing:
                told += (await run_helper(call, objects.folders(home, missing, image, uid, gid, instance))).splitlines()
                self._ready.update((home.name, folder) for folder in missing)
        return told
