"""Attach an elastic GPU to a running notebook: the JupyterLab extension and its server side."""

from __future__ import annotations

from typing import Any


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "labextension", "dest": "jupyterlab-elara"}]


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    from jupyterlab_elara.extension import ElaraExtension

    return [{"module": "jupyterlab_elara", "app": ElaraExtension}]
