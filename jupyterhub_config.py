"""Elara's reference configuration of JupyterHub: choices, each with its reason.

`elara up` starts the hub with it and says by environment variables where the other parts are. It also works by hand,
beside a service that was started separately:

    jupyterhub -f jupyterhub_config.py

It then starts a proxy of its own, keeps its state in `elara-data/` (or $ELARA_DATA), and finds or makes the secrets
that it shares with the service in `elara-data/secrets/`.
"""

from pathlib import Path

import elara_hub.accounts
import elara_spawner
from elara_hub.accounts.oidc import use_oidc
from elara_hub.contract import CUSTOM_SCOPES, SCOPE_ADMIN, SCOPE_ATTACH
from elara_hub.supervisor.found import proxy_command
from elara_spawner.settings import hub_settings

c = get_config()  # noqa: F821 - given by JupyterHub
here = Path(__file__).resolve().parent
settings = hub_settings()

# --- Addresses ------------------------------------------------------------------------------------------------------
# Only the proxy is reachable from outside; the hub listens on 127.0.0.1.
c.JupyterHub.bind_url = settings.public_url
c.JupyterHub.hub_bind_url = settings.hub_url
if settings.public_url.startswith("https://"):
    # Behind two proxies the hub takes the inner one's word for how people came, which is plain HTTP.
    c.JupyterHub.tornado_settings = {"cookie_options": {"secure": True}}

# --- What outlives a restart of the hub -----------------------------------------------------------------------------
# The proxy is a process of its own (elara up starts it), so that open notebooks do not notice that the hub restarts.
c.ConfigurableHTTPProxy.should_start = settings.own_proxy
c.ConfigurableHTTPProxy.api_url = settings.proxy_api_url
c.ConfigurableHTTPProxy.auth_token = settings.proxy_token
if settings.own_proxy:
    c.ConfigurableHTTPProxy.command = list(proxy_command())
# Workspaces go on when the hub stops, and are found again when it starts. With a proxy of its own the hub must stop it.
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = settings.own_proxy

# --- State ----------------------------------------------------------------------------------------------------------
c.JupyterHub.db_url = f"sqlite:///{settings.data / 'hub' / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(settings.data / "hub" / "cookie-secret")

# --- Who may sign in ------------------------------------------------------------------------------------------------
# ELARA_AUTH=oidc hands the question to an identity provider; docs/admin-accounts.md tells how.
if settings.auth == "oidc":
    use_oidc(c, settings.public_url)
else:
    c.JupyterHub.authenticator_class = "elara_hub.accounts.authenticator.AccountsAuthenticator"
    c.AccountsAuthenticator.file = str(settings.data / "hub" / "accounts.sqlite")
    c.AccountsAuthenticator.sign_up = settings.sign_up
    c.AccountsAuthenticator.first_admin = settings.admin_name
    c.AccountsAuthenticator.first_password_file = str(settings.admin_password_file)
    c.AccountsAuthenticator.public_url = settings.public_url
    c.AccountsAuthenticator.service_url = settings.service_url
    c.AccountsAuthenticator.internal_token = settings.internal_token

# --- What people, workspaces and services may do --------------------------------------------------------------------
c.JupyterHub.custom_scopes = CUSTOM_SCOPES
reach_services = ["access:services!service=elara", "access:services!service=mlflow"]
c.JupyterHub.load_roles = [
    # A workspace's own token holds what both this role and `server` grant.
    {"name": "user", "scopes": ["self", *reach_services, SCOPE_ATTACH]},
    {
        "name": "server",
        "description": "What the token of a workspace may do, in the name of its user",
        "scopes": ["users:activity!user", "access:servers!server", *reach_services, SCOPE_ATTACH],
    },
    # Teams are the hub's groups, which the service keeps; it looks up people and whether their servers run.
    {
        "name": "elara-service",
        "scopes": ["list:users", "read:users", "read:servers", "admin:groups"],
        "services": ["elara"],
    },
    # To fill the routes of a proxy that was restarted, and to stop the workspaces when everything stops.
    {"name": "elara-supervisor", "scopes": ["proxy", "shutdown"], "services": ["elara-supervisor"]},
]

# --- Services -------------------------------------------------------------------------------------------------------
# All external: a service that the hub starts would stop with it. They share fixed tokens with the hub. `timeout` is
# short, since the hub's pages wait for a service that is not up yet. People are not asked whether Elara may know them.
c.JupyterHub.services = [
    {
        "name": "elara",
        "url": settings.service_url,
        "api_token": settings.service_token,
        "oauth_no_confirm": True,
        # Lets an administrator's browser session administer; others do not hold these, so their sessions do not.
        "oauth_client_allowed_scopes": [SCOPE_ATTACH, SCOPE_ADMIN, "admin:users"],
        "timeout": 2,
        "display": True,
    },
    {
        "name": "mlflow",
        "url": settings.mlflow_url,
        "api_token": settings.mlflow_token,
        "oauth_no_confirm": True,
        "timeout": 2,
        "display": True,
    },
    {"name": "elara-supervisor", "api_token": settings.supervisor_token, "display": False},
]

# --- Workspaces -----------------------------------------------------------------------------------------------------
# As processes of this machine, or with ELARA_ENGINE=docker as containers; docs/docker.md has the latter's settings.
if settings.engine == "docker":
    c.JupyterHub.spawner_class = "elara_spawner.docker.DockerWorkspaceSpawner"
    # Workspaces are told one address, the proxy's: the hub's own is none that their network reaches.
    c.DockerWorkspaceSpawner.hub_connect_url = settings.site_url
    for name, value in settings.docker.traits().items():
        setattr(c.DockerWorkspaceSpawner, name, value)
else:
    c.JupyterHub.spawner_class = "elara_spawner.local.LocalSpawner"
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = 8
c.Spawner.default_url = "/lab"
# A first start makes folders and a Python environment, on a busy machine beside others.
c.Spawner.start_timeout = 120
c.Spawner.http_timeout = 120
# A workspace that died is noticed after this many seconds, and its devices go back to the pool.
c.Spawner.poll_interval = 10
c.WorkspaceMixin.data_folder = str(settings.data)
c.WorkspaceMixin.site_url = settings.site_url
c.WorkspaceMixin.service_url = settings.service_url
c.WorkspaceMixin.internal_token = settings.internal_token
c.WorkspaceMixin.catalogue_file = str(settings.catalogue or here / "images/catalogue.yaml")
c.LocalSpawner.examples_folder = str(here / "examples")
# Idle workspaces are left running: what is scarce is the devices, and those are handed back by themselves.

# --- Pages ----------------------------------------------------------------------------------------------------------
c.JupyterHub.logo_file = str(Path(elara_hub.accounts.__path__[0]) / "logo.svg")
c.JupyterHub.template_paths = [
    str(Path(module.__path__[0]) / "templates") for module in (elara_hub.accounts, elara_spawner)
]
c.JupyterHub.template_vars = {
    "elara_accounts": settings.auth == "accounts",
    "elara_sign_up": settings.auth == "accounts" and settings.sign_up,
}
