"""What a workspace is, as plain values: paths, names and environment. Nothing here touches the disk or the hub."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from elara_hub.contract import API_PREFIX

PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Choice:
    """What a user chose for a workspace. `team` and `project` are slugs, the others names of the catalogue."""

    team: str
    project: str
    image: str
    size: str

    @property
    def project_path(self) -> str:
        return f"{self.team}/{self.project}"


@dataclass(frozen=True)
class Places:
    """Folders of one workspace. Only `project` is shared with others."""

    home: Path
    runtime: Path
    project: Path
    project_link: Path
    environment: Path
    jupyter: Path
    log: Path


def folder_name(name: str) -> str:
    """A name of the hub as a name of a folder: itself when harmless, else a readable part and a digest.

    Two names never share a folder: a plain name holds no ``~``, which every made one does.
    """
    if PLAIN_NAME.fullmatch(name):
        return name
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:24]
    return f"{readable}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def places(data: Path, user: str, server: str, choice: Choice) -> Places:
    """The folders of the workspace `server` (empty for the default one) of `user` under the data folder."""
    if not (SLUG.fullmatch(choice.team) and SLUG.fullmatch(choice.project)):
        raise ValueError(f"{choice.project_path!r} is no <team>/<project>")
    owner = folder_name(user)
    home = data / "homes" / owner
    return Places(
        home=home,
        runtime=data / "run" / owner / (server or "-"),
        project=data / "projects" / choice.team / choice.project,
        project_link=home / "projects" / choice.team / choice.project,
        environment=home / ".elara" / "environment",
        jupyter=home / ".elara" / "jupyter",
        log=data / "logs" / "workspaces" / f"{owner}--{server or 'default'}.log",
    )


def environment(
    *,
    places: Places,
    choice: Choice,
    site_url: str,
    api_token: str,
    mlflow_workspace: str,
    cpus: int,
    constraints: Path,
    path: str,
) -> dict[str, str]:
    """The variables that make a process a workspace of its project. They hold one secret: the workspace's own token.

    Args:
        site_url: the proxy's address as reached from the workspace, without a slash at its end.
        api_token: the workspace's own hub token.
        cpus: how many compute threads libraries start at once.
        constraints: pip's constraints file, which pins torch.
        path: what `PATH` holds after the workspace's own environment.
    """
    return {
        **of_project(
            choice=choice, site_url=site_url, api_token=api_token, mlflow_workspace=mlflow_workspace, cpus=cpus
        ),
        "HOME": str(places.home),
        "PATH": f"{places.environment / 'bin'}:{path}",
        "JUPYTER_PATH": str(places.jupyter),
        # Answers questions that JupyterLab would else ask everybody at the first start; a user's own settings win.
        "JUPYTER_CONFIG_PATH": str(Path(__file__).with_name("jupyter_config")),
        "ELARA_RUNTIME_DIR": str(places.runtime),
        "PIP_CONSTRAINT": str(constraints),
        "UV_CONSTRAINT": str(constraints),
    }


def of_project(*, choice: Choice, site_url: str, api_token: str, mlflow_workspace: str, cpus: int) -> dict[str, str]:
    """The variables that any workspace of the project has, wherever its files lie; arguments as in `environment`."""
    return {
        "ELARA_API_URL": site_url + API_PREFIX,
        "ELARA_PROJECT": choice.project_path,
        "MLFLOW_TRACKING_URI": site_url + "/services/mlflow",
        "MLFLOW_TRACKING_TOKEN": api_token,
        "MLFLOW_WORKSPACE": mlflow_workspace,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "OMP_NUM_THREADS": str(cpus),
    }
