"""The Jupyter server extension: its settings, and the start and stop of the keeper."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from jupyter_server.extension.application import ExtensionApp
from traitlets import Float, Unicode, default

from elara_remoting.workspace import ServiceError
from jupyterlab_elara.client import ServiceClient
from jupyterlab_elara.environment import why_no_devices
from jupyterlab_elara.keeper import Keeper
from jupyterlab_elara.routes import ROUTES
from jupyterlab_elara.status import StatusBoard


class ElaraExtension(ExtensionApp):
    """Attach GPU: the routes under `{base_url}elara/` and the task that keeps this workspace's lease."""

    name = "jupyterlab_elara"
    extension_url = "/lab"
    load_other_extensions = True

    runtime_dir = Unicode(
        help="""The private folder of this workspace where the attachment is written for its kernels.

        Default: the environment variable ELARA_RUNTIME_DIR, which the spawner sets and every kernel inherits;
        setting it only here would leave the kernels without devices.
        """
    ).tag(config=True)
    heartbeat_seconds = Float(
        15.0,
        help="""Seconds between two signs of life for an attached lease.

        The service takes a lease back when it hears nothing for its grace period (60 s by default), so keep this well
        below that. It does not change how often the page looks.
        """,
    ).tag(config=True)
    patience_seconds = Float(
        25.0,
        help="""Seconds for which an attach request waits for its devices before it answers "pending".

        The request goes on after that; the page then follows it by the status.
        """,
    ).tag(config=True)

    core_folder = Unicode(
        help="""The folder with the built cores, one sub-folder a minor version of torch (torch_2_13).

        Default: the one of the installed elara-remoting. It only decides whether the button is offered; kernels find
        their core by themselves.
        """
    ).tag(config=True)

    @default("runtime_dir")
    def _runtime_dir(self) -> str:
        return os.environ.get("ELARA_RUNTIME_DIR", "")

    def initialize_settings(self) -> None:
        keeper, why_not = self._make_keeper()
        core = Path(self.core_folder) if self.core_folder else None
        note = os.environ.get("ELARA_ATTACH_NOTE", "")
        self.settings["elara_keeper"] = keeper
        self.settings["elara_status"] = StatusBoard(keeper, why_not, lambda: why_no_devices(core, image_note=note))

    def initialize_handlers(self) -> None:
        self.handlers.extend(ROUTES)

    def _make_keeper(self) -> tuple[Keeper | None, str | None]:
        try:
            client = cast(ServiceClient, ServiceClient.from_environment())
        except ServiceError as error:
            return None, str(error)
        if not self.runtime_dir:
            return None, (
                "This workspace has no private runtime folder (ELARA_RUNTIME_DIR), so kernels could not find devices. "
                "Restart the workspace from the hub's page."
            )
        assert self.serverapp is not None
        keeper = Keeper(
            client,
            Path(self.runtime_dir),
            self.serverapp.web_app.settings,
            heartbeat_seconds=self.heartbeat_seconds,
            patience_seconds=self.patience_seconds,
            log=self.log,
        )
        return keeper, None

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        keeper: Keeper | None = self.settings["elara_keeper"]
        if keeper is not None:
            keeper.start()

    async def stop_extension(self) -> None:
        keeper: Keeper | None = self.settings.get("elara_keeper")
        if keeper is not None:
            await keeper.stop()
