"""Builds MLflow's server application with the gate before it, in this process.

`mlflow server` would import MLflow twice (once to check, once in a worker), which costs ten seconds and more at each
start. What its command line does is set variables; they are set here, before MLflow is imported.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from starlette.types import ASGIApp

from elara_hub.tracking.settings import TrackingSettings

# No hub user can have this name, so nobody's sign-in can ever be this account. It only exists because MLflow insists.
_NOBODY = "elara/nobody"


def prepare(settings: TrackingSettings) -> None:
    """Make the folders and set MLflow's variables. Must run before anything of MLflow is imported."""
    artifacts = settings.folder / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True, mode=0o700)
    config = settings.folder / "auth.ini"
    config.write_text(
        "[mlflow]\n"
        "default_permission = NO_PERMISSIONS\n"
        f"database_uri = {_sqlite(settings.folder / 'auth.sqlite')}\n"
        f"admin_username = {_NOBODY}\n"
        "authorization_function = elara_hub.tracking.principal:authenticate\n"
        "grant_default_workspace_access = false\n"
    )
    store = _sqlite(settings.folder / "mlflow.sqlite")
    os.environ.update(
        {
            "_MLFLOW_SERVER_FILE_STORE": store,
            "_MLFLOW_SERVER_REGISTRY_STORE": store,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts.as_uri(),
            "_MLFLOW_STATIC_PREFIX": settings.prefix.rstrip("/"),
            "_MLFLOW_SGI_NAME": "uvicorn",
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_USERNAME": _NOBODY,
            # Told to nobody, and our authorization function looks at no password.
            "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.token_urlsafe(32),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": settings.session_secret,
            "MLFLOW_ENABLE_WORKSPACES": "true",
            "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
            # The gate checks where a request comes from; MLflow's check knows only local names.
            "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }
    )


def build(settings: TrackingSettings) -> ASGIApp:
    """The application to serve. Makes or upgrades MLflow's databases on the way, so it can take a while at first."""
    import httpx
    from mlflow.server import auth, handlers
    from mlflow.server.workspace_helpers import _get_workspace_store

    from elara_hub.tracking.access import AccessBook, ServiceAccess
    from elara_hub.tracking.browser import BrowserSignIn
    from elara_hub.tracking.gate import Gate
    from elara_hub.tracking.grants import GrantKeeper
    from elara_hub.tracking.principal import VOUCHER

    store = os.environ["_MLFLOW_SERVER_FILE_STORE"]
    handlers.initialize_backend_stores(store, store, os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"])
    app = auth.create_app()
    client = httpx.AsyncClient(trust_env=False)
    book = AccessBook(ServiceAccess(settings.access_url, settings.internal_token, client))
    keeper = GrantKeeper(auth.store, _get_workspace_store(), handlers._get_tracking_store())
    return Gate(app, settings.prefix, book, keeper, BrowserSignIn(settings, client), VOUCHER)


def _sqlite(path: Path) -> str:
    return f"sqlite:///{path}"
