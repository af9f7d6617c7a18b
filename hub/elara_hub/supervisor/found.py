"""What of this machine `elara up` builds on: Node and the proxy, the reference configuration, NVIDIA devices."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import elara_hub
from elara_hub.supervisor.problem import UpProblem

LEAST_NODE = 20
_PROXY = Path("configurable-http-proxy") / "bin" / "configurable-http-proxy"


def checkout() -> Path:
    """The folder with `jupyterhub_config.py` and `deploy/` that belongs to this installation."""
    return Path(elara_hub.__file__).resolve().parents[2]


def config_file(given: Path | None) -> Path:
    """The hub's configuration. Raises UpProblem when it is not there."""
    path = (given or checkout() / "jupyterhub_config.py").absolute()
    if not path.is_file():
        raise UpProblem(f"The hub's configuration {path} does not exist. Name the right file with --config FILE.")
    return path


def proxy_command() -> tuple[str, ...]:
    """How to start the proxy. Raises UpProblem when Node or the proxy is missing."""
    node = shutil.which("node", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if node is None:
        raise UpProblem(
            "Node is missing, on which the proxy runs. `make build` installs it into .venv; or install Debian's nodejs "
            f"({LEAST_NODE} or newer)."
        )
    version = subprocess.run((node, "--version"), capture_output=True, text=True, check=False).stdout.strip()
    major = version.removeprefix("v").partition(".")[0]
    if not major.isdigit() or int(major) < LEAST_NODE:
        raise UpProblem(
            f"{node} is Node {version or 'of unknown version'}; the proxy needs {LEAST_NODE} or newer. "
            "`make build` installs one into .venv."
        )
    script = checkout() / "deploy" / "proxy" / "node_modules" / _PROXY
    if not script.is_file():
        raise UpProblem(f"The proxy is not installed ({script} is missing). Run `make build` first.")
    return (node, str(script))


def has_nvidia_devices() -> bool:
    """Whether NVML finds at least one device."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        # No driver, no library, or one that does not answer: all mean that there is nothing to offer.
        return False
    try:
        return int(pynvml.nvmlDeviceGetCount()) > 0
    finally:
        pynvml.nvmlShutdown()


def node_name() -> str:
    """The name under which this machine's node joins."""
    name = "".join(c if c.isalnum() else "-" for c in socket.gethostname().split(".")[0].lower()).strip("-")
    return name[:40] or "local"
