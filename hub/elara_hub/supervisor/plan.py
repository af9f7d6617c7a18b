"""What to start: each part's command, environment and the question whose answer means that it is ready. No I/O here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from elara_hub.supervisor.place import Place
from elara_hub.supervisor.processes import MARK
from elara_hub.supervisor.vault import Vault

# What a caller's environment may say about a workspace or another instance is not ours.
_FOREIGN = ("JUPYTERHUB_", "MLFLOW_", "CONFIGPROXY_", "JPY_", "_MLFLOW_")
_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound
_FOREIGN_NAMES = frozenset({"ELARA_RUNTIME_DIR", "ELARA_API_URL", "ELARA_PROJECT", "ELARA_DISABLE", "PYTHONSTARTUP"})


@dataclass(frozen=True)
class Readiness:
    """Ready when GET of each of `urls` (with `headers`), one after the other, answers below 400, or when the part has
    written `file`."""

    urls: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    file: Path | None = None


@dataclass(frozen=True)
class Part:
    """One process under the supervisor.

    after: names of parts that must be ready before this one is started. keeps_children: what it started goes on
    while it is away (workspaces outlive a hub's restart). slow_start: what to tell somebody who waits for it.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    folder: Path
    url: str | None
    ready: Readiness
    after: tuple[str, ...] = ()
    keeps_children: bool = False
    slow_start: str = "it is starting"
    stop_seconds: float = 6.0


@dataclass(frozen=True)
class Choices:
    """What the admin chose for `elara up`, with everything found out that the parts need to know."""

    data: Path
    host: str
    port: int
    public_url: str
    config: Path
    proxy_command: tuple[str, ...]
    node_name: str
    emulate: int
    device_memory: int
    inner: Mapping[str, int]
    """Ports on 127.0.0.1 for `proxy-api`, `hub`, `service`, `mlflow`, `gate-api`; and `data`, the node's data port."""
    join_token_file: Path | None = None
    place: Place | None = None
    """With the Docker engine: the names on it, and the network of the workspaces."""

    def local(self, name: str) -> str:
        """Where a part listens, as `http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.inner[name]}"

    def site(self) -> str:
        """The proxy as workspaces reach it: containers do so at this machine's address on their network."""
        return self.public_url if self.place is None else f"http://{self.place.gateway}:{self.port}"

    def needs_gate(self) -> bool:
        """Whether the proxy itself does not listen where containers reach it."""
        return self.place is not None and self.host not in _EVERYWHERE

    def public_from_here(self) -> str:
        """The public address as this machine reaches it."""
        host = "127.0.0.1" if self.host in _EVERYWHERE else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def inherited(environment: Mapping[str, str], data: Path) -> dict[str, str]:
    """The caller's environment without what belongs to another instance, and with this one's mark."""
    kept = {k: v for k, v in environment.items() if not k.startswith(_FOREIGN) and k not in _FOREIGN_NAMES}
    binaries = str(Path(sys.executable).parent)
    kept["PATH"] = binaries + ":" + kept.get("PATH", "/usr/bin:/bin")
    kept["PYTHONUNBUFFERED"] = "1"
    kept["ELARA_DATA"] = str(data)
    kept[MARK] = str(data)
    return kept


def hub_service(choices: Choices, name: str, token: str, listen: str) -> dict[str, str]:
    """The variables that the hub would give a service of that name, had it started it."""
    return {
        "JUPYTERHUB_API_TOKEN": token,
        "JUPYTERHUB_API_URL": choices.local("hub") + "/hub/api",
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": f"service-{name}",
        "JUPYTERHUB_SERVICE_NAME": name,
        "JUPYTERHUB_SERVICE_PREFIX": f"/services/{name}/",
        "JUPYTERHUB_SERVICE_URL": listen,
        "JUPYTERHUB_OAUTH_CALLBACK_URL": f"/services/{name}/oauth_callback",
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": f'["access:services!service={name}"]',
    }


def build(choices: Choices, vault: Vault, admin: str, first_password: Path, base: Mapping[str, str]) -> list[Part]:
    """All parts, in the order in which they are told of. `base` is what `inherited` gave."""
    python = sys.executable
    hub, service, mlflow, proxy_api = (choices.local(n) for n in ("hub", "service", "mlflow", "proxy-api"))
    api = service + "/services/elara/api/v1"
    shared = {"ELARA_PUBLIC_URL": choices.public_url, "ELARA_ADMIN_NAME": admin}
    proxy = Part(
        name="proxy",
        argv=(
            *choices.proxy_command,
            *("--ip", choices.host, "--port", str(choices.port)),
            *("--api-ip", "127.0.0.1", "--api-port", str(choices.inner["proxy-api"])),
            # A page for a part that is away comes from the hub; without the hub the proxy's own plain one has to do.
            *("--error-target", hub + "/hub/error", "--log-level", "warn"),
        ),
        environment={**base, "CONFIGPROXY_AUTH_TOKEN": vault.proxy_token},
        folder=choices.data,
        url=choices.public_url,
        ready=Readiness((proxy_api + "/api/routes",), {"Authorization": f"token {vault.proxy_token}"}),
        stop_seconds=3,
    )
    hub_part = Part(
        name="hub",
        argv=(python, "-m", "jupyterhub", "-f", str(choices.config)),
        environment={
            **base,
            **shared,
            "ELARA_HUB_URL": hub,
            "ELARA_SERVICE_URL": service,
            "ELARA_MLFLOW_URL": mlflow,
            "ELARA_PROXY_API_URL": proxy_api,
            "CONFIGPROXY_AUTH_TOKEN": vault.proxy_token,
            "JUPYTERHUB_CRYPT_KEY": vault.hub_crypt_key,
            "ELARA_INTERNAL_TOKEN": vault.internal_token,
            "ELARA_SERVICE_TOKEN": vault.service_token,
            "ELARA_MLFLOW_TOKEN": vault.mlflow_token,
            "ELARA_SUPERVISOR_TOKEN": vault.supervisor_token,
            "ELARA_ADMIN_PASSWORD_FILE": str(first_password),
            **engine_settings(choices),
        },
        folder=choices.data / "hub",
        url=hub,
        ready=Readiness((hub + "/hub/health", choices.public_from_here() + "/hub/health")),
        after=("proxy",),
        keeps_children=True,
    )
    service_part = Part(
        name="service",
        argv=(python, "-m", "elara_hub"),
        environment={
            **base,
            **shared,
            **hub_service(choices, "elara", vault.service_token, service),
            "ELARA_SERVICE_URL": service,
            "ELARA_INTERNAL_TOKEN": vault.internal_token,
        },
        folder=choices.data,
        url=service,
        ready=Readiness((api + "/health",)),
    )
    mlflow_part = Part(
        name="mlflow",
        argv=(python, "-m", "elara_hub.tracking"),
        environment={
            **base,
            **hub_service(choices, "mlflow", vault.mlflow_token, mlflow),
            "ELARA_SERVICE_URL": service,
            "ELARA_INTERNAL_TOKEN": vault.internal_token,
            "ELARA_MLFLOW_SECRET": vault.mlflow_secret,
        },
        folder=choices.data / "mlflow",
        url=mlflow,
        ready=Readiness((mlflow + "/services/mlflow/health",)),
        slow_start="the first start makes its database, which can take up to a minute",
    )
    node = Part(
        name="node",
        argv=(
            *(python, "-m", "elara_remoting.node", "--api", api),
            *("--data", str(choices.data / "node"), "--name", choices.node_name),
            *(("--emulate", str(choices.emulate)) if choices.emulate else ()),
            *("--device-memory", str(choices.device_memory)),
            *(("--join-token-file", str(choices.join_token_file)) if choices.join_token_file else ()),
            # Containers share no folder with the node: they come over TCP, with TLS, on their own network only.
            *(("--listen", f"{choices.place.gateway}:{choices.inner['data']}") if choices.place else ()),
        ),
        environment=dict(base),
        folder=choices.data / "node",
        url=None,
        ready=Readiness(file=choices.data / "node" / "ready"),
        after=("service",),
        slow_start="it loads PyTorch once, for all sessions",
    )
    parts = [proxy, hub_part, service_part, mlflow_part, node]
    return [*parts, gate(choices, proxy.environment)] if choices.needs_gate() else parts


def engine_settings(choices: Choices) -> dict[str, str]:
    """What the hub is told of the engine that starts workspaces."""
    if choices.place is None:
        return {"ELARA_ENGINE": "local"}
    return {
        "ELARA_ENGINE": "docker",
        "ELARA_SITE_URL": choices.site(),
        "ELARA_INSTANCE": choices.place.instance,
        "ELARA_BRIDGE": choices.place.bridge,
        "ELARA_SUBNET": choices.place.subnet,
    }


def gate(choices: Choices, environment: Mapping[str, str]) -> Part:
    """A second proxy on the workspaces' network, which passes everything on to the first: that one listens on one
    address only, the public one, and the machine's other addresses are closed to workspaces."""
    assert choices.place is not None
    api = choices.local("gate-api")
    return Part(
        name="gate",
        argv=(
            *choices.proxy_command,
            *("--ip", choices.place.gateway, "--port", str(choices.port)),
            *("--api-ip", "127.0.0.1", "--api-port", str(choices.inner["gate-api"])),
            *("--default-target", choices.public_from_here(), "--log-level", "warn"),
        ),
        environment=environment,
        folder=choices.data,
        url=choices.site(),
        ready=Readiness((api + "/api/routes",), {"Authorization": f"token {environment['CONFIGPROXY_AUTH_TOKEN']}"}),
        stop_seconds=3,
    )
