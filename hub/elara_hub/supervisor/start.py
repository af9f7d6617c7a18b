"""From the admin's options to running parts: every check first, then the folder, the secrets, the plan, the
supervisor.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from elara_hub.supervisor import found, neighbours, processes
from elara_hub.supervisor.folder import DataFolder
from elara_hub.supervisor.place import Place, remember_site
from elara_hub.supervisor.plan import Choices, build, inherited
from elara_hub.supervisor.ports import check_public, free_ports
from elara_hub.supervisor.problem import UpProblem
from elara_hub.supervisor.supervisor import Supervisor
from elara_hub.supervisor.vault import Vault, first_password
from elara_remoting import __version__

if TYPE_CHECKING:
    from elara_hub.supervisor.containers import Engine

ADMIN = "admin"
DEFAULT_DEVICES = 2
_MODE = {
    "local": "Local mode, since it needs no Docker: workspaces are plain processes of this user, nothing isolates them "
    "from one another. `elara up --engine docker` keeps them apart.",
    "docker": "Docker mode: each workspace is a container with its own volumes, kept from the others' files and "
    "network. Hub, service, MLflow and node are processes of this user, since they start containers and use this "
    "machine's devices.",
}
_OPEN = {
    "local": "Local mode isolates nobody: whoever can open a workspace can read every file of the user who started "
    "this. Passwords travel without encryption.",
    "docker": "Passwords travel without encryption; docs/deploy.md has an installation with TLS.",
}
_LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Wanted:
    """The options of `elara up`. emulate None: two where there is no NVIDIA device. device_memory in bytes."""

    port: int
    host: str
    data: Path
    emulate: int | None
    device_memory: int
    config: Path | None
    engine: str = "local"


async def run(wanted: Wanted, say: Callable[[str], None]) -> None:
    """Start everything, stay until a signal asks to stop. Raises UpProblem with all parts stopped."""
    config = found.config_file(wanted.config)
    proxy = found.proxy_command()
    folder = DataFolder(wanted.data)
    # The lock before the port: a second instance on the same data is told so, and not that its port is taken.
    folder.open()
    try:
        await stop_leftovers(folder, say)
        check_public(wanted.host, wanted.port)
        engine = await find_engine(folder, say) if wanted.engine == "docker" else None
        await _run(wanted, folder, config, proxy, engine, say)
    finally:
        folder.close()


async def _run(
    wanted: Wanted,
    folder: DataFolder,
    config: Path,
    proxy: tuple[str, ...],
    engine: tuple[Engine, Place] | None,
    say: Callable[[str], None],
) -> None:
    vault = Vault.open(folder.secrets)
    password = first_password(folder.secrets, accounts_exist=(folder.root / "hub" / "jupyterhub.sqlite").exists())
    emulate = wanted.emulate
    if emulate is None:
        emulate = 0 if found.has_nvidia_devices() else DEFAULT_DEVICES
    names = ("proxy-api", "hub", "service", "mlflow", "data", "gate-api")
    token_file = folder.secrets / "join-token"
    joined = (folder.root / "node" / "identity.json").exists()
    choices = Choices(
        data=folder.root,
        host=wanted.host,
        port=wanted.port,
        public_url=_address(wanted.host, wanted.port),
        config=config,
        proxy_command=proxy,
        node_name=found.node_name(),
        emulate=emulate,
        device_memory=wanted.device_memory,
        inner=dict(zip(names, free_ports(len(names)), strict=True)),
        join_token_file=None if joined else token_file,
        place=engine[1] if engine else None,
    )
    if engine is not None:
        await settle_site(engine[0], folder, engine[1], choices.site(), say)
    parts = build(choices, vault, ADMIN, password, inherited(os.environ, folder.root))
    say(f"Elara {__version__}, data in {folder.root}")
    if wanted.host not in _LOCAL:
        say(f"  Warning: {wanted.host} lets other machines in. {_OPEN[wanted.engine]}")

    async def before(name: str) -> None:
        if name == "node" and not joined:
            api = choices.local("service") + "/services/elara/api/v1"
            await neighbours.fetch_join_token(api, vault.internal_token, choices.node_name, token_file)

    async def ready_again(name: str) -> None:
        if name == "proxy":
            await neighbours.fill_routes(choices.local("hub"), vault.supervisor_token)

    def on_ready(seconds: float) -> None:
        token_file.unlink(missing_ok=True)
        say(f"Ready in {seconds:.1f} s:  {choices.public_url}")
        if password.exists():
            say(f"  Sign in as {ADMIN} with the password {password.read_text().strip()}")
            say("  It is told only this once: keep it, or change it after the sign-in.")
            password.unlink()
        else:
            say(f"  The admin is {ADMIN}.")
        if emulate:
            kind = "device" if emulate == 1 else "devices"
            say(f"  {emulate} emulated {kind} (CPU): they show how attaching works, not how fast a GPU is.")
        say(f"  {_MODE[wanted.engine]}")
        say("Ctrl-C stops everything.")

    async def stopped(name: str) -> None:
        if name == "hub" and engine is not None:
            count = await engine[0].stop_workspaces(engine[1].instance)
            if count:
                say(f"  {count} workspace{'s' if count > 1 else ''} stopped; homes and projects stay in their volumes.")

    processes.become_subreaper()
    supervisor = Supervisor(
        parts, folder, vault.values(), choices.public_url, say, before, ready_again, stopped, engine=wanted.engine
    )
    try:
        await supervisor.run(on_ready)
    finally:
        token_file.unlink(missing_ok=True)


async def find_engine(folder: DataFolder, say: Callable[[str], None]) -> tuple[Engine, Place]:
    """The Docker Engine and this folder's place on it, with the workspaces' network. Raises UpProblem."""
    try:
        from elara_hub.supervisor.containers import Engine
    except ImportError as error:
        raise UpProblem(
            f"Docker's client library is missing ({error}). `make build` installs it; or leave --engine docker out."
        ) from error
    engine = await asyncio.to_thread(Engine.connect)
    catalogue = Path(os.environ.get("ELARA_CATALOGUE") or found.checkout() / "images" / "catalogue.yaml")
    missing = await engine.missing_images(catalogue)
    if missing:
        say(f"  Not on this machine: {', '.join(missing)} (`elara images build` makes them).")
    place = await engine.claim(folder.root)
    await engine.open_network(place)
    return engine, place


async def settle_site(engine: Engine, folder: DataFolder, place: Place, site: str, say: Callable[[str], None]) -> None:
    """End workspaces that a killed supervisor left and that know this installation by another address."""
    if place.site not in ("", site) and await engine.stop_workspaces(place.instance):
        say(f"  Workspaces of an earlier start were stopped: they know the address {place.site}, now it is {site}.")
    remember_site(folder.root, place, site)


async def stop_leftovers(folder: DataFolder, say: Callable[[str], None]) -> None:
    """End processes of a supervisor that was killed. Raises UpProblem when they do not go."""
    left = processes.left_behind(folder.root)
    if not left:
        return
    say(f"Stopping {len(left)} processes that an earlier start on {folder.root} left behind.")
    await asyncio.to_thread(processes.end, left, 5.0)
    still = processes.left_behind(folder.root)
    if still:
        raise UpProblem(
            f"Processes of an earlier start cannot be stopped: {', '.join(str(p.pid) for p in still)}. "
            "End them by hand (kill -9), then start again."
        )


def _address(host: str, port: int) -> str:
    """The address to tell people."""
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
