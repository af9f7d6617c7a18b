"""What the gate refuses whatever the role, and what it writes into a request. Pure functions of a request's parts."""

from __future__ import annotations

import json
import re
from typing import Any

from elara_hub.tracking.access import Access

WORKSPACE_HEADER = b"x-mlflow-workspace"

# Families of MLflow's API that nobody reaches from outside: accounts, roles and workspaces are the service's affair;
# the others make the server itself call other machines, run code or keep provider keys, and MLflow trusts
# "localhost" for some of them, which everybody behind a proxy seems to be.
_REFUSED = re.compile(
    r"^(?:(?:ajax-)?api/\d+\.\d+/mlflow/"
    r"(?:users|roles|webhooks|assistant|gateway|gateway-proxy|jobs|demo|scorer/invoke|issues/invoke|genai|"
    r"prompt-optimization|mcp-servers)(?:/|$)"
    r"|gateway(?:/|$)|signup(?:/|$))"
)
_ALLOWED_USERS = re.compile(r"^(?:ajax-)?api/\d+\.\d+/mlflow/users/current(?:/permissions)?/?$")
_WORKSPACES = re.compile(r"^(?:ajax-)?api/\d+\.\d+/mlflow/workspaces(?:/|$)")
_CREATE_RUN = re.compile(r"^(?:ajax-)?api/\d+\.\d+/mlflow/runs/create/?$")
_NAMES_EXPERIMENTS = re.compile(
    r"^(?:ajax-)?api/\d+\.\d+/mlflow/(?:runs/(?:create|search)|logged-models(?:/search)?|experiments/get)/?$"
)
_CREATE_EXPERIMENT = re.compile(r"^(?:ajax-)?api/\d+\.\d+/mlflow/experiments/create/?$")
MLFLOW_DEFAULT = "0"
"""What a client calls the experiment of somebody who named none. It lies in MLflow's own default workspace, which is
nobody's project; each project has one of its own, and the gate puts that one's number here."""
_SAFE = ("GET", "HEAD", "OPTIONS")


def refusal(method: str, path: str, workspace: str | None, access: Access) -> str | None:
    """A sentence when the request is refused before MLflow sees it, else None. `path` is relative to the prefix."""
    if workspace and workspace not in access.workspaces:
        return (
            f"{access.user} is no member of the project behind the MLflow workspace {workspace!r}, or this token "
            "belongs to a workspace of another project. Ask an owner of the project to add you."
        )
    if _ALLOWED_USERS.match(path) and method in _SAFE:
        return None
    if _REFUSED.match(path):
        return "This part of MLflow is switched off here: accounts and roles are managed in Elara's own pages."
    if _WORKSPACES.match(path) and method not in _SAFE:
        return "MLflow's workspaces follow Elara's projects: make or delete the project in Elara's pages instead."
    return None


def rewrites_body(method: str, path: str) -> bool:
    """Whether `new_body` wants to see this request's body."""
    return method == "POST" and bool(_NAMES_EXPERIMENTS.match(path) or _CREATE_EXPERIMENT.match(path))


def new_query(path: str, query: bytes, default_experiment: str | None) -> bytes:
    """The query to hand on: MLflow's default experiment is the project's own."""
    if default_experiment is None or not _NAMES_EXPERIMENTS.match(path):
        return query
    return re.sub(rb"(^|&)experiment_id=0(?=&|$)", rb"\g<1>experiment_id=" + default_experiment.encode(), query)


class BodyRefused(Exception):
    """The body asks for something that is refused; the text says what to do."""


def new_body(path: str, body: bytes, user: str, default_experiment: str | None) -> bytes:
    """The body to hand to MLflow: a run belongs to whoever the token says, and to an experiment of the project.

    Raises BodyRefused. A body that is no JSON object is handed on as it is, for MLflow to refuse.
    """
    try:
        message: Any = json.loads(body)
    except ValueError:
        return body
    if not isinstance(message, dict):
        return body
    if _CREATE_EXPERIMENT.match(path):
        if message.get("artifact_location") or message.get("artifactLocation"):
            # A place of the user's own choice would be read and written by the server, with the server's rights.
            raise BodyRefused("An experiment's artifacts lie in its project's own store: leave artifact_location out.")
        return body
    if default_experiment is not None:
        _name_default(message, default_experiment)
    if _CREATE_RUN.match(path):
        _sign(message, user)
    return json.dumps(message).encode()


def _name_default(message: dict[str, Any], number: str) -> None:
    for key in ("experiment_id", "experimentId"):
        if str(message.get(key)) == MLFLOW_DEFAULT:
            message[key] = number
    for key in ("experiment_ids", "experimentIds"):
        listed = message.get(key)
        if isinstance(listed, list):
            message[key] = [number if str(one) == MLFLOW_DEFAULT else one for one in listed]


def _sign(message: dict[str, Any], user: str) -> None:
    message.pop("userId", None)
    message["user_id"] = user
    tags = message.get("tags")
    others = tags if isinstance(tags, list) else []
    kept = [tag for tag in others if not (isinstance(tag, dict) and tag.get("key") == "mlflow.user")]
    message["tags"] = [*kept, {"key": "mlflow.user", "value": user}]
