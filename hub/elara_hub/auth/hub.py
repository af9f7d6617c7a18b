"""Asks the hub about tokens, and speaks OAuth with it, by JupyterHub's own client."""

from __future__ import annotations

import json
import logging
import os

from jupyterhub.services.auth import HubOAuth
from tornado.httputil import url_concat
from tornado.web import HTTPError

from elara_hub.auth.identity import Identity, identity_of
from elara_hub.config import Settings
from elara_hub.refusal import Refusal

logging.getLogger("tornado.application").addFilter(
    # The client logs each refused token as a warning, and a stranger can send thousands.
    lambda entry: "No Hub user identified" not in entry.getMessage()
)


class HubLink:
    """The hub as an authority on tokens. Never blocks the event loop."""

    def __init__(self, settings: Settings) -> None:
        if not settings.hub_api_token:
            raise ValueError(
                "JUPYTERHUB_API_TOKEN is not set: the service needs the token that the hub knows it by (its "
                "`api_token` in c.JupyterHub.services)"
            )
        prefix = os.environ.get("JUPYTERHUB_BASE_URL", "/")
        self._auth = HubOAuth(
            cache_max_age=settings.hub_cache_seconds,
            api_url=settings.hub_api_url,
            api_token=settings.hub_api_token,
            base_url=settings.prefix + "/",
            hub_prefix=prefix.rstrip("/") + "/hub/",
            hub_host=os.environ.get("JUPYTERHUB_HOST", ""),
            oauth_client_id=os.environ.get("JUPYTERHUB_CLIENT_ID") or "service-elara",
        )
        scopes = json.loads(os.environ.get("JUPYTERHUB_OAUTH_ACCESS_SCOPES") or '["access:services!service=elara"]')
        self._access_scopes = frozenset(str(scope) for scope in scopes)
        self._trust_hub_admins = settings.trust_hub_admins

    async def identify(
        self, token: str, *, fresh: bool, by_cookie: bool = False, access_scopes: frozenset[str] | None = None
    ) -> Identity | None:
        """Whose token it is, or None. `fresh`: do not reuse an earlier answer.

        `access_scopes`: the scopes that open a neighbour's service, when it is the neighbour who asks: a browser's
        sign-in to MLflow gives a token for MLflow alone.

        Raises:
            Refusal: (503) the hub does not answer.
        """
        if not (token.isascii() and token.isprintable()) or " " in token:
            # No hub made it, and it must not get into the header of a request.
            return None
        try:
            model = await self._auth.user_for_token(token, use_cache=not fresh, sync=False)
        except HTTPError:
            raise _hub_away() from None
        if model is None:
            return None
        return identity_of(
            model,
            access_scopes=self._access_scopes if access_scopes is None else access_scopes,
            trust_hub_admins=self._trust_hub_admins,
            by_cookie=by_cookie,
        )

    def authorize_url(self, state: str, challenge: str, method: str) -> str:
        parameters = {"state": state, "code_challenge": challenge, "code_challenge_method": method}
        return str(url_concat(self._auth.login_url, parameters))

    def new_challenge(self) -> tuple[str, str, str]:
        """PKCE: (verifier, challenge, method)."""
        verifier, challenge, method = self._auth.generate_pkce_code_challenge()
        return str(verifier), str(challenge), str(method)

    async def token_for_code(self, code: str, verifier: str) -> str:
        """Exchange the code of an OAuth callback.

        Raises:
            Refusal: the hub does not take the code, or does not answer.
        """
        try:
            return str(await self._auth.token_for_code(code, code_verifier=verifier, sync=False))
        except HTTPError as error:
            if "Failed to connect" in str(error.log_message):
                raise _hub_away() from None
            raise Refusal(
                "sign_in_failed", "The hub did not accept this sign-in.", "Open the page again to sign in.", status=403
            ) from None


def bearer(header: str | None) -> str | None:
    """The token of an Authorization header (`token ...` or `bearer ...`)."""
    kind, _, value = (header or "").strip().partition(" ")
    return value.strip() or None if kind.lower() in ("token", "bearer") else None


def _hub_away() -> Refusal:
    return Refusal(
        "hub_unreachable",
        "The hub does not answer, so it cannot be checked who you are.",
        "Try again in a moment; attached devices keep working.",
        status=503,
    )
