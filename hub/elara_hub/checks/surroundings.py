"""Where the parts of a deployment are: told by `elara up` in its data folder, or by the environment of the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elara_hub.secret_files import read_secret


@dataclass(frozen=True)
class Surroundings:
    """Addresses are like ``http://127.0.0.1:8000``, empty where none is known.

    engine: `local` or `docker`. instance, bridge and subnet are the names on a Docker engine. under_up: whether
    `elara up` runs it, and so keeps its parts running.
    """

    data: Path
    public_url: str
    hub_url: str
    service_url: str
    mlflow_url: str
    engine: str
    instance: str
    bridge: str
    subnet: str
    under_up: bool
    internal_token: str = field(repr=False)


def find(data: Path, environment: Mapping[str, str]) -> Surroundings | None:
    """From the data folder's `up.json` when `elara up` runs there, else from the hub's variables; None without both."""
    secret = _token(data, environment)
    running = _running(data)
    if running is not None:
        place = _json(data / "docker.json") or {}
        mode = str(running.get("engine", "local"))
        url = {name: str((running["parts"].get(name) or {}).get("url") or "") for name in ("hub", "service", "mlflow")}
        return Surroundings(
            data=data,
            public_url=str(running["url"]),
            hub_url=url["hub"],
            service_url=url["service"],
            mlflow_url=url["mlflow"],
            engine=mode,
            instance=str(place.get("instance", "")),
            bridge=str(place.get("bridge", "")),
            subnet=str(place.get("subnet", "")),
            under_up=True,
            internal_token=secret,
        )
    if not environment.get("ELARA_SERVICE_URL"):
        return None
    return Surroundings(
        data=data,
        public_url=environment.get("ELARA_PUBLIC_URL", "").rstrip("/"),
        hub_url=environment.get("ELARA_HUB_URL", "").rstrip("/"),
        service_url=environment["ELARA_SERVICE_URL"].rstrip("/"),
        mlflow_url=environment.get("ELARA_MLFLOW_URL", "").rstrip("/"),
        engine=environment.get("ELARA_ENGINE") or "local",
        instance=environment.get("ELARA_INSTANCE") or "elara",
        bridge=environment.get("ELARA_BRIDGE") or "elara-ws",
        subnet=environment.get("ELARA_SUBNET") or "10.77.0.0/16",
        under_up=False,
        internal_token=secret,
    )


def _running(data: Path) -> dict[str, Any] | None:
    status = _json(data / "up.json")
    if status is None or not isinstance(status.get("parts"), dict):
        return None
    pid = status.get("pid")
    return status if isinstance(pid, int) and Path(f"/proc/{pid}").exists() else None


def _json(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _token(data: Path, environment: Mapping[str, str]) -> str:
    try:
        given = read_secret(environment, "ELARA_INTERNAL_TOKEN")
        return given or (data / "secrets" / "internal-token").read_text().strip()
    except (OSError, ValueError):
        return ""
