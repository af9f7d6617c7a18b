"""What the reference configuration reads: the environment that `elara up` sets, files of the data folder otherwise."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elara_hub.secret_files import read_secret


@dataclass(frozen=True)
class DockerSettings:
    """Settings of `DockerWorkspaceSpawner` that differ between installations; None leaves the spawner's own default."""

    instance: str | None
    bridge: str | None
    subnet: str | None
    firewall: str | None
    rules_image: str | None
    reachable: tuple[str, ...]
    outside: bool

    def traits(self) -> dict[str, object]:
        """What was set, by the names of the spawner's traits."""
        given = {name: getattr(self, name) for name in ("instance", "bridge", "subnet", "firewall", "rules_image")}
        return {
            **{name: value for name, value in given.items() if value is not None},
            "reachable": list(self.reachable),
            "outside": self.outside,
        }


@dataclass(frozen=True, repr=False)
class HubSettings:
    """Addresses are like ``http://127.0.0.1:8000``, without a path; tokens are 64 hexadecimal characters.

    `site_url` is the proxy as workspaces reach it, `public_url` the same as users type it.
    """

    data: Path
    public_url: str
    site_url: str
    hub_url: str
    service_url: str
    mlflow_url: str
    proxy_api_url: str
    own_proxy: bool
    proxy_token: str
    internal_token: str
    service_token: str
    mlflow_token: str
    supervisor_token: str
    admin_name: str
    admin_password_file: Path
    auth: str
    sign_up: bool
    engine: str
    catalogue: Path | None
    docker: DockerSettings

    def __repr__(self) -> str:
        return f"HubSettings(data={str(self.data)!r}, public_url={self.public_url!r})"


def hub_settings(environment: Mapping[str, str] = os.environ) -> HubSettings:
    """Read the settings; makes the data folder's private folders, and the secrets that nobody gave.

    A service that is started by hand finds the same secrets in ``<data>/secrets/``: `internal-token` for
    ``ELARA_INTERNAL_TOKEN``, `service-token` and `mlflow-token` for the ``JUPYTERHUB_API_TOKEN`` of each.
    """
    data = Path(environment.get("ELARA_DATA") or "elara-data").absolute()
    private = data / "secrets"
    for folder in (private, data / "hub"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def url(name: str, otherwise: str) -> str:
        return (environment.get(name) or otherwise).rstrip("/")

    def secret(name: str, file: str) -> str:
        return read_secret(environment, name) or _kept_secret(private / file)

    public_url = url("ELARA_PUBLIC_URL", "http://127.0.0.1:8000")
    return HubSettings(
        data=data,
        public_url=public_url,
        site_url=url("ELARA_SITE_URL", public_url),
        hub_url=url("ELARA_HUB_URL", "http://127.0.0.1:8081"),
        service_url=url("ELARA_SERVICE_URL", "http://127.0.0.1:10101"),
        mlflow_url=url("ELARA_MLFLOW_URL", "http://127.0.0.1:10102"),
        proxy_api_url=url("ELARA_PROXY_API_URL", "http://127.0.0.1:8001"),
        own_proxy="ELARA_PROXY_API_URL" not in environment,
        proxy_token=secret("CONFIGPROXY_AUTH_TOKEN", "proxy-token"),
        internal_token=secret("ELARA_INTERNAL_TOKEN", "internal-token"),
        service_token=secret("ELARA_SERVICE_TOKEN", "service-token"),
        mlflow_token=secret("ELARA_MLFLOW_TOKEN", "mlflow-token"),
        supervisor_token=secret("ELARA_SUPERVISOR_TOKEN", "supervisor-token"),
        admin_name=environment.get("ELARA_ADMIN_NAME") or "admin",
        admin_password_file=Path(environment.get("ELARA_ADMIN_PASSWORD_FILE") or private / "first-admin-password"),
        auth=_one_of(environment, "ELARA_AUTH", ("accounts", "oidc")),
        sign_up=_one_of(environment, "ELARA_SIGN_UP", ("invited", "approval")) == "approval",
        engine=_one_of(environment, "ELARA_ENGINE", ("local", "docker")),
        catalogue=Path(environment["ELARA_CATALOGUE"]) if environment.get("ELARA_CATALOGUE") else None,
        docker=docker_settings(environment),
    )


def docker_settings(environment: Mapping[str, str]) -> DockerSettings:
    """What the environment says of the Docker engine; addresses in ``ELARA_REACHABLE`` are separated by commas."""
    return DockerSettings(
        instance=environment.get("ELARA_INSTANCE") or None,
        bridge=environment.get("ELARA_BRIDGE") or None,
        subnet=environment.get("ELARA_SUBNET") or None,
        firewall=environment.get("ELARA_FIREWALL") or None,
        rules_image=environment.get("ELARA_RULES_IMAGE") or None,
        reachable=tuple(part.strip() for part in environment.get("ELARA_REACHABLE", "").split(",") if part.strip()),
        outside=_one_of(environment, "ELARA_OUTSIDE", ("yes", "no")) == "yes",
    )


def _one_of(environment: Mapping[str, str], name: str, values: tuple[str, ...]) -> str:
    value = environment.get(name) or values[0]
    if value not in values:
        raise ValueError(f"{name} is {value!r}: give one of {', '.join(values)}")
    return value


def _kept_secret(file: Path) -> str:
    """The secret in `file`, which is made at the first asking (mode 0600)."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        text = file.read_text().strip()
        if not text:
            raise ValueError(f"{file} is empty. Remove it, and a new secret is made at the next start.") from None
        return text
    made = secrets.token_hex(32)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(made + "\n")
    return made
