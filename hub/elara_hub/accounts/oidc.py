"""Signing in by an OpenID Connect provider, with oauthenticator. docs/admin-accounts.md is its manual."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class OidcProblem(ValueError):
    """A variable is missing or bad; the text names it."""


def use_oidc(config: Any, public_url: str, environment: Mapping[str, str] = os.environ) -> None:
    """Write the choices into JupyterHub's configuration object.

    Reads ``ELARA_OIDC_`` with AUTHORIZE_URL, TOKEN_URL, USERDATA_URL, CLIENT_ID, CLIENT_SECRET_FILE (or CLIENT_SECRET),
    and, with defaults, USERNAME_CLAIM, SCOPES, TITLE, ADMINS, ALLOWED.

    Raises:
        OidcProblem: something is missing.
    """

    def needed(name: str) -> str:
        value = environment.get(f"ELARA_OIDC_{name}", "")
        if not value:
            raise OidcProblem(
                f"ELARA_AUTH is oidc, and ELARA_OIDC_{name} is not set. docs/admin-accounts.md tells what it holds."
            )
        return value

    def listed(name: str) -> set[str]:
        return set(environment.get(f"ELARA_OIDC_{name}", "").replace(",", " ").split())

    authenticator = config.GenericOAuthenticator
    config.JupyterHub.authenticator_class = "oauthenticator.generic.GenericOAuthenticator"
    authenticator.authorize_url = needed("AUTHORIZE_URL")
    authenticator.token_url = needed("TOKEN_URL")
    authenticator.userdata_url = needed("USERDATA_URL")
    authenticator.client_id = needed("CLIENT_ID")
    authenticator.client_secret = _secret(environment)
    authenticator.oauth_callback_url = f"{public_url.rstrip('/')}/hub/oauth_callback"
    authenticator.username_claim = environment.get("ELARA_OIDC_USERNAME_CLAIM") or "preferred_username"
    authenticator.scope = (environment.get("ELARA_OIDC_SCOPES") or "openid profile email").split()
    authenticator.login_service = environment.get("ELARA_OIDC_TITLE") or "your organisation"
    authenticator.enable_pkce = True
    authenticator.admin_users = listed("ADMINS")
    allowed = listed("ALLOWED")
    if allowed:
        authenticator.allowed_users = allowed | listed("ADMINS")
    # Whoever the provider lets in may come in, unless the admin narrowed it down. The provider's groups are not taken
    # over: an authenticator that manages groups would overwrite, at each sign-in, the teams that Elara keeps.
    authenticator.allow_all = not allowed


def _secret(environment: Mapping[str, str]) -> str:
    file = environment.get("ELARA_OIDC_CLIENT_SECRET_FILE", "")
    if file:
        try:
            return Path(file).read_text().strip()
        except OSError as error:
            raise OidcProblem(f"ELARA_OIDC_CLIENT_SECRET_FILE is {file}: {error.strerror}.") from error
    value = environment.get("ELARA_OIDC_CLIENT_SECRET", "")
    if not value:
        raise OidcProblem("ELARA_AUTH is oidc: set ELARA_OIDC_CLIENT_SECRET_FILE to the file with the client's secret.")
    return value
