"""Workspaces as processes of this machine. They are isolated from nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, STDOUT
from typing import Any

import psutil
from jupyterhub.spawner import LocalProcessSpawner
from traitlets import Integer, Unicode, default

from elara_spawner import folders
from elara_spawner.mixin import WorkspaceMixin
from elara_spawner.refusal import Refused
from elara_spawner.workspace import Choice, Places, environment, places

KEPT = [
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
]
"""Variables of the hub that a workspace inherits. A list of what may pass, so that no secret of the hub does."""


SHELL = "/bin/bash"


class LocalSpawner(WorkspaceMixin, LocalProcessSpawner):  # type: ignore[misc]
    """Starts a workspace as a process of the user that the hub runs as, whatever the name of the workspace's user.

    It limits neither memory nor CPU and keeps nobody from another's files, processes or environment.
    """

    examples_folder = Unicode(
        "examples",
        help="Example notebooks, copied into each home. A copy that its user changed or deleted is left alone.",
    ).tag(config=True)

    stop_timeout = Integer(
        10,
        help="Seconds from the request to stop until the workspace is killed. Kernels get their share of this time to "
        "write what they hold.",
    ).tag(config=True)

    place: Places | None = None
    born: float = 0.0
    """When the process was created, seconds since the epoch: with the pid it names a process for good."""

    @default("env_keep")
    def _default_env_keep(self) -> list[str]:
        return list(KEPT)

    @default("cmd")
    def _default_cmd(self) -> list[str]:
        return [sys.executable, "-m", "jupyterhub.singleuser"]

    @property
    def _data(self) -> Path:
        return Path(self.data_folder).absolute()

    def notices(self) -> list[tuple[int, str]]:
        told = [(30, "Local mode: a plain process of this machine, isolated from nobody")]
        if self.started and self.started.role == "viewer":
            told.append(
                (35, "You are a viewer here; local mode does not keep the shared folder read-only, so please do")
            )
        return told

    async def prepare(self, choice: Choice) -> None:
        data = self._data
        self.place = places(data, self.user.name, self.name, choice)
        self.popen_kwargs = {}
        self.steps.tell(40, "Preparing your home and the project's folder")
        try:
            await asyncio.to_thread(self._make, self.place, data)
            # A log of its own: the hub's output may end with the hub, which the workspace outlives.
            self.popen_kwargs = {
                "cwd": str(self.place.home),
                "umask": 0o002,
                "stdin": DEVNULL,
                "stdout": folders.open_log(self.place.log),
                "stderr": STDOUT,
            }
        except OSError as error:
            self.log.exception("Preparing %s's workspace failed", self.user.name)
            raise Refused(
                f"The workspace's folders could not be made: {error.strerror}. Tell your administrator: "
                "the disk may be full, or the data folder not writable.",
                reason="no_folder",
                status=503,
            ) from error

    def _make(self, place: Places, data: Path) -> None:
        folders.make_places(place)
        folders.write_constraints(_constraints(data))
        folders.copy_examples(Path(self.examples_folder), place.home)
        self.steps.tell(55, "Preparing your Python environment")
        folders.make_environment(place)

    def get_args(self) -> list[str]:
        args: list[str] = super().get_args()
        # Jupyter's own choice is a login shell, whose /etc/profile would take the workspace's environment off PATH.
        args.append(f"--ServerApp.terminado_settings={{'shell_command': ['{SHELL}']}}")
        if os.geteuid() == 0:
            # Jupyter refuses root without it. Only whoever started the whole installation as root gets here.
            args.append("--allow-root")
        return args

    def get_env(self) -> dict[str, str]:
        env: dict[str, str] = super().get_env()
        if self.place is None or self.choice is None or self.started is None:
            return env
        own = str(Path(sys.executable).parent)
        env.update(
            environment(
                places=self.place,
                choice=self.choice,
                site_url=self.site_url.rstrip("/"),
                api_token=self.api_token,
                mlflow_workspace=self.started.mlflow_workspace,
                cpus=min(self.catalogue.sizes[self.choice.size].cpus, os.cpu_count() or 1),
                constraints=_constraints(self._data),
                path=f"{own}:{os.environ.get('PATH', os.defpath)}",
            )
        )
        env["JUPYTERHUB_ROOT_DIR"] = str(self.place.home)
        return env

    def user_env(self, env: dict[str, str]) -> dict[str, str]:
        """No account of the machine belongs to the user, so there is none to look up."""
        env["USER"] = self.user.name
        env["SHELL"] = SHELL
        return env

    def make_preexec_fn(self, name: str) -> Callable[[], None] | None:
        """Nothing to run between fork and exec: folder and umask go through Popen."""
        return None

    async def start(self) -> tuple[str, int]:
        try:
            location: tuple[str, int] = await super().start()
        finally:
            log = self.popen_kwargs.pop("stdout", None)
            if isinstance(log, int):
                os.close(log)
        self.born = _born(self.pid)
        return location

    async def poll(self) -> int | None:
        """None while the process runs. After a restart of the hub the process is found again by pid and birth."""
        if self.proc is None and self.pid and not _same(self.pid, self.born):
            self.clear_state()
            return 0
        status: int | None = await super().poll()
        return status

    async def stop(self, now: bool = False) -> None:
        """Ask it to stop, which ends its kernels too; after `stop_timeout` seconds kill it and what it left behind."""
        if await self.poll() is not None:
            return
        family = _family(self.pid)
        await self._signal(signal.SIGTERM)
        if not await self.wait_for_death(0 if now else self.stop_timeout):
            await self._signal(signal.SIGKILL)
            if not await self.wait_for_death(self.kill_timeout):
                self.log.error("The workspace process %i of %s outlived SIGKILL", self.pid, self.user.name)
        for process in family:
            # psutil compares the time of birth before it signals, so a pid that was used again is safe.
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def get_state(self) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state()
        if self.pid and self.born:
            state["born"] = self.born
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.born = float(state.get("born", 0.0))

    def clear_state(self) -> None:
        super().clear_state()
        self.born = 0.0


def _constraints(data: Path) -> Path:
    return data / "run" / ".pip-constraints.txt"


def _born(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def _same(pid: int, born: float) -> bool:
    """Whether `pid` is still the process that was born then, and not a zombie that nobody waited for."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and (not born or abs(process.create_time() - born) < 1.0)
    except psutil.Error:
        return False


def _family(pid: int) -> list[psutil.Process]:
    """All descendants. Kernels have sessions of their own, so no signal to a process group reaches them."""
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []
