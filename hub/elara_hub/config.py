"""Settings of the service: each from the command line, a traitlets configuration file, or the environment."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from traitlets import Bool, Float, Int, Unicode, default, validate
from traitlets.config import Configurable

from elara_hub.contract import API_PREFIX, SERVICE_PREFIX
from elara_hub.secret_files import read_secret

MINUTE = 60


class Settings(Configurable):
    """What an administrator may choose. Durations are seconds unless the name says minutes."""

    data = Unicode(
        help="Folder of the service's state. From ELARA_DATA; default `elara-data`. Holds `elara.sqlite` (unless "
        "`database_url` says otherwise) and `secrets/` with the key of the nodes' certificate authority.",
        config=True,
    )
    database_url = Unicode(
        help="SQLAlchemy address of the database: `sqlite:///path` or `postgresql://user:password@host/name`. From "
        "ELARA_DATABASE_URL; default `elara.sqlite` in the data folder. Only one service may use a database at a time.",
        config=True,
    )
    service_url = Unicode(
        help="Where to listen, such as `http://127.0.0.1:10101`. From ELARA_SERVICE_URL. Keep it on 127.0.0.1: the "
        "hub's proxy is the way in, and internal routes trust what does not come through it.",
        config=True,
    )
    public_url = Unicode(help="The proxy's address as users type it. From ELARA_PUBLIC_URL.", config=True)
    internal_token = Unicode(
        help="The secret that the hub and MLflow show on internal routes. From ELARA_INTERNAL_TOKEN or the "
        "file ELARA_INTERNAL_TOKEN_FILE; without one "
        "nobody is let in there.",
        config=True,
    )
    hub_api_url = Unicode(
        help="The hub's API, such as `http://127.0.0.1:8081/hub/api`. From JUPYTERHUB_API_URL.", config=True
    )
    hub_api_token = Unicode(
        help="The token that the hub knows this service by. From JUPYTERHUB_API_TOKEN, or the file "
        "JUPYTERHUB_API_TOKEN_FILE.",
        config=True,
    )
    hub_cache_seconds = Int(
        30,
        help="How long the hub's answer about a token may be reused for reading; writes always ask the hub.",
        config=True,
    )
    admin = Unicode(
        help="Owner of the project `demo/digits` that the first start makes. From ELARA_ADMIN_NAME (or ELARA_ADMIN); "
        "empty: nothing is made. It does not make anybody an administrator; the hub does.",
        config=True,
    )
    heartbeat_grace = Float(
        60.0,
        help="A lease whose workspace gave no sign of life for this long is taken back. After a restart of the service "
        "every lease gets this time anew. From ELARA_HEARTBEAT_GRACE.",
        config=True,
    )
    start_timeout = Float(
        90.0, help="A lease whose node has not readied it after this long is taken back.", config=True
    )
    node_loss = Float(
        300.0,
        help="Leases of a node that has not been connected for this long end. Their work may well go on until then, "
        "since it does not pass through the service; their shares stay taken until the node says that they are free or "
        "must have ended them by its own clock.",
        config=True,
    )
    idle_minutes = Int(
        0,
        help="A lease on which nothing was computed for this many minutes is taken back; 0 never does. A busy device "
        "counts as use, an open page does not. From ELARA_IDLE_MINUTES.",
        config=True,
    )
    default_device_share = Int(
        2000, help="What a new project may hold at once, in thousandths of devices (2000: two devices).", config=True
    )
    default_lease_minutes = Int(480, help="Longest time ahead that a lease of a new project may have.", config=True)
    max_devices_per_lease = Int(
        8, help="Most devices of one lease (a program sees 8 CUDA devices by default).", config=True
    )
    expiry_slack = Float(
        5.0,
        help="How much later than the service a node ends a lease by itself, so that the service is first.",
        config=True,
    )
    node_clock_margin = Float(
        30.0, help="Added to a lease's end before shares of an unreachable node are granted again.", config=True
    )
    join_token_minutes = Int(60, help="How long a token for a new node is good.", config=True)
    node_status_seconds = Float(10.0, help="How often an idle node reports; told to it at its welcome.", config=True)
    reconcile_seconds = Float(1.0, help="How often the service compares what is with what shall be.", config=True)
    trust_hub_admins = Bool(
        True, help="Tokens that may administer the hub's users may administer Elara too.", config=True
    )

    @default("data")
    def _data(self) -> str:
        return os.environ.get("ELARA_DATA", "elara-data")

    @default("database_url")
    def _database_url(self) -> str:
        return os.environ.get("ELARA_DATABASE_URL") or f"sqlite:///{Path(self.data).absolute() / 'elara.sqlite'}"

    @default("service_url")
    def _service_url(self) -> str:
        return (
            os.environ.get("ELARA_SERVICE_URL") or os.environ.get("JUPYTERHUB_SERVICE_URL") or "http://127.0.0.1:10101"
        )

    @default("public_url")
    def _public_url(self) -> str:
        return os.environ.get("ELARA_PUBLIC_URL", "")

    @default("internal_token")
    def _internal_token(self) -> str:
        # Popped from nothing: other code of this process may read it as well, children are not started.
        return read_secret(os.environ, "ELARA_INTERNAL_TOKEN")

    @default("hub_api_url")
    def _hub_api_url(self) -> str:
        return os.environ.get("JUPYTERHUB_API_URL", "http://127.0.0.1:8081/hub/api")

    @default("hub_api_token")
    def _hub_api_token(self) -> str:
        return read_secret(os.environ, "JUPYTERHUB_API_TOKEN")

    @default("admin")
    def _admin(self) -> str:
        return os.environ.get("ELARA_ADMIN_NAME") or os.environ.get("ELARA_ADMIN") or ""

    @default("heartbeat_grace")
    def _heartbeat_grace(self) -> float:
        return _number("ELARA_HEARTBEAT_GRACE", 60.0)

    @default("idle_minutes")
    def _idle_minutes(self) -> int:
        return int(_number("ELARA_IDLE_MINUTES", 0))

    @validate("heartbeat_grace", "node_loss", "start_timeout")
    def _positive(self, proposal: Any) -> float:
        if proposal["value"] <= 0:
            raise ValueError(f"{proposal['trait'].name} is {proposal['value']}: give seconds above 0")
        return float(proposal["value"])

    @property
    def prefix(self) -> str:
        """The service's path below the proxy, without the last slash."""
        return (os.environ.get("JUPYTERHUB_SERVICE_PREFIX") or SERVICE_PREFIX).rstrip("/")

    @property
    def api(self) -> str:
        return self.prefix + API_PREFIX.removeprefix(SERVICE_PREFIX)

    def __repr__(self) -> str:
        return f"Settings(data={self.data!r}, service_url={self.service_url!r})"

    def secret_file(self, name: str) -> Path:
        """A file in the data folder's private folder, which is made when missing."""
        folder = Path(self.data) / "secrets"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / name


def _number(variable: str, otherwise: float) -> float:
    text = os.environ.get(variable, "")
    if not text:
        return otherwise
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{variable} is {text!r}: give a number") from None


def write_secret(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 in one step, so that a reader never finds half of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.rename(path)
