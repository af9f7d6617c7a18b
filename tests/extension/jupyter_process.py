"""A real JupyterLab with the extension from this checkout, as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = ROOT / "extensions" / "jupyterlab-elara"
BUILT = Path(sys.prefix) / "share" / "jupyter" / "labextensions" / "jupyterlab-elara"
JUPYTER_TOKEN = "browser-token"


class Lab:
    """Starts on construction; `url` ends with a slash. `stop` ends it the way a hub does, by SIGTERM."""

    def __init__(self, folder: Path, port: int, environment: dict[str, str], *options: str) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}/"
        self.port = port
        if not (BUILT / "package.json").exists():
            raise RuntimeError("The JupyterLab extension is not installed in this environment: run `make build-test`")
        self._environment = {**os.environ, **self._paths(), **environment}
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def _paths(self) -> dict[str, str]:
        """Show Jupyter the server's part as it lies in the checkout, and the front end as `make build` installed it:
        a build that came from the cache leaves none in the checkout."""
        data, config = self.folder / "share", self.folder / "config"
        for folder in (data / "labextensions", config / "jupyter_server_config.d", self.folder / "work"):
            folder.mkdir(parents=True, exist_ok=True)
        (data / "labextensions" / "jupyterlab-elara").symlink_to(BUILT)
        # No question about news in front of what is tested.
        quiet = self.folder / "settings" / "@jupyterlab" / "apputils-extension"
        quiet.mkdir(parents=True)
        (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
        enabled = EXTENSION / "jupyter-config" / "server-config" / "jupyterlab_elara.json"
        (config / "jupyter_server_config.d" / enabled.name).write_text(enabled.read_text())
        return {
            "JUPYTER_PATH": str(data),
            "JUPYTER_CONFIG_DIR": str(config),
            "JUPYTER_RUNTIME_DIR": str(self.folder / "runtime"),
            "JUPYTER_DATA_DIR": str(self.folder / "data"),
            "JUPYTERLAB_SETTINGS_DIR": str(self.folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self.folder / "workspaces"),
            "PYTHONPATH": os.pathsep.join([str(EXTENSION), str(ROOT / "remoting")]),
            "HOME": str(self.folder),
        }

    def start(self) -> None:
        log = (self.folder / "jupyter.log").open("ab")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
                *(f"--port={self.port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={JUPYTER_TOKEN}"),
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
                *self._options,
            ],
            cwd=self.folder / "work",
            env=self._environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                if httpx.get(self.url + "api", timeout=2).is_success:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise RuntimeError("JupyterLab did not start:\n" + (self.folder / "jupyter.log").read_text()[-3000:])

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def client(self) -> httpx.Client:
        """Speaks to the server as its user."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"token {JUPYTER_TOKEN}"}, timeout=40)
