"""What the tracking server is told by its environment (docs/contracts.md, section 9)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from elara_hub.secret_files import read_secret


class MissingSetting(Exception):
    """A variable that the tracking server needs is not set. The text names it and who sets it."""


@dataclass(frozen=True)
class TrackingSettings:
    """Addresses and secrets of the tracking server.

    prefix: the path below which everything is served, with a slash at its end (`/services/mlflow/`).
    hub_api: the hub's REST address without a slash at its end. access_url: where the service tells what a token may
    reach.
    """

    data: Path
    listen_host: str
    listen_port: int
    prefix: str
    hub_api: str
    hub_base: str
    client_id: str
    access_url: str
    client_secret: str = field(repr=False)
    internal_token: str = field(repr=False)
    session_secret: str = field(repr=False)

    @property
    def folder(self) -> Path:
        """Where MLflow's databases and artifacts lie."""
        return self.data / "mlflow"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> TrackingSettings:
        """Read the settings; raises MissingSetting with the name of the first one that is not there."""

        def need(name: str) -> str:
            try:
                value = read_secret(environment, name)
            except ValueError as error:
                raise MissingSetting(str(error)) from None
            if not value:
                raise MissingSetting(
                    f"{name} is not set: the tracking server is started by `elara up`, which sets it. "
                    "Start it that way, or set the variables of docs/contracts.md, section 9."
                )
            return value

        listen = urlsplit(need("JUPYTERHUB_SERVICE_URL"))
        return cls(
            data=Path(need("ELARA_DATA")).absolute(),
            listen_host=listen.hostname or "127.0.0.1",
            listen_port=listen.port or 5000,
            prefix=need("JUPYTERHUB_SERVICE_PREFIX").rstrip("/") + "/",
            hub_api=need("JUPYTERHUB_API_URL").rstrip("/"),
            hub_base=environment.get("JUPYTERHUB_BASE_URL", "/").rstrip("/") + "/",
            client_id=need("JUPYTERHUB_CLIENT_ID"),
            access_url=need("ELARA_SERVICE_URL").rstrip("/") + "/services/elara/api/v1/internal/mlflow/access",
            client_secret=need("JUPYTERHUB_API_TOKEN"),
            internal_token=need("ELARA_INTERNAL_TOKEN"),
            session_secret=need("ELARA_MLFLOW_SECRET"),
        )
