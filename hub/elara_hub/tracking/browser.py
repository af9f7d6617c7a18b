"""Signing a browser in through the hub (OAuth with PKCE), with one encrypted cookie.

MLflow's pages send no token, so the hub's OAuth token travels in a cookie that only this server can read. While a
sign-in is under way a second cookie holds its state, the PKCE verifier and the page that was asked for.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

import httpx
from cryptography.fernet import Fernet, InvalidToken
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from elara_hub.tracking.settings import TrackingSettings

SESSION_SECONDS = 14 * 24 * 3600
SIGN_IN_SECONDS = 600


def _fernet(secret: str, purpose: str) -> Fernet:
    """A key of its own for each purpose, so that a cookie of one kind cannot be used as the other."""
    digest = hashlib.sha256(f"{purpose}\0{secret}".encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))


def is_same_site_write(request: Request) -> bool:
    """Whether a write that is authorised by the cookie was sent by a page of this very address.

    The cookie is SameSite=Lax, which still allows other sites of one domain (other ports of this machine, say) to
    write.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    if origin is None:
        return True  # not a browser of this decade; Lax already kept the cookie from other sites' forms
    host = request.headers.get("x-forwarded-host") or request.headers.get("host", "")
    return origin.split("://", 1)[-1] == host.split(",")[0].strip()


class BrowserSignIn:
    """The two cookies, the redirect to the hub, and the way back."""

    def __init__(self, settings: TrackingSettings, client: httpx.AsyncClient) -> None:
        self._settings = settings
        self._client = client
        self._session = _fernet(settings.session_secret, "session")
        self._state = _fernet(settings.session_secret, "sign-in")
        self.callback_path = settings.prefix + "oauth_callback"
        self._session_cookie = settings.client_id
        self._state_cookie = settings.client_id + "-sign-in"

    def token(self, request: Request) -> str | None:
        """The hub token in the session cookie, or None."""
        sealed = request.cookies.get(self._session_cookie)
        if not sealed:
            return None
        try:
            return self._session.decrypt(sealed, ttl=SESSION_SECONDS).decode()
        except (InvalidToken, UnicodeError):
            return None

    def start(self, request: Request) -> Response:
        """Send the browser to the hub; it comes back to the page that it asked for."""
        verifier = secrets.token_urlsafe(48)
        state = secrets.token_urlsafe(24)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        page = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        query = urlencode(
            {
                "client_id": self._settings.client_id,
                "redirect_uri": self.callback_path,
                "response_type": "code",
                "state": state,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        response = RedirectResponse(f"{self._settings.hub_base}hub/api/oauth2/authorize?{query}", status_code=302)
        sealed = self._state.encrypt(json.dumps([state, verifier, page]).encode()).decode()
        self._set(request, response, self._state_cookie, sealed, SIGN_IN_SECONDS)
        return response

    async def finish(self, request: Request, opens: Callable[[str], Awaitable[bool]]) -> Response:
        """The hub's answer: change the code for a token, and set the session cookie.

        `opens` tells whether the token is good for anything here: sent on with one that is not, the browser would come
        back for another sign-in, without end.
        """
        if request.query_params.get("error"):
            return PlainTextResponse(
                "The hub did not allow the sign-in to MLflow. Ask an admin whether your account may use it.", 403
            )
        try:
            sealed = request.cookies.get(self._state_cookie, "")
            state, verifier, page = json.loads(self._state.decrypt(sealed, ttl=SIGN_IN_SECONDS))
        except (InvalidToken, ValueError):
            return PlainTextResponse(
                "The sign-in took too long or was begun elsewhere. Open the MLflow page again.", 403
            )
        if not hmac.compare_digest(state.encode(), request.query_params.get("state", "").encode()):
            return PlainTextResponse("The sign-in was not begun in this browser. Open the MLflow page again.", 403)
        try:
            answer = await self._client.post(
                self._settings.hub_api + "/oauth2/token",
                data={
                    "client_id": self._settings.client_id,
                    "client_secret": self._settings.client_secret,
                    "grant_type": "authorization_code",
                    "code": request.query_params.get("code", ""),
                    "redirect_uri": self.callback_path,
                    "code_verifier": verifier,
                },
                timeout=20,
            )
        except httpx.HTTPError:
            return PlainTextResponse("The hub does not answer. Try again in a moment.", 503)
        if answer.status_code != 200:
            return PlainTextResponse("The hub did not accept the sign-in. Open the MLflow page again.", 403)
        token = str(answer.json()["access_token"])
        if not await opens(token):
            return PlainTextResponse(
                "The hub knows you, but Elara does not let this account into MLflow. Ask an admin whether it is "
                "disabled.",
                403,
            )
        if not page.startswith(self._settings.prefix):
            page = self._settings.prefix
        response = RedirectResponse(page, status_code=302)
        sealed = self._session.encrypt(token.encode()).decode()
        self._set(request, response, self._session_cookie, sealed, SESSION_SECONDS)
        return response

    def _set(self, request: Request, response: Response, name: str, value: str, seconds: int) -> None:
        scheme = request.headers.get("x-forwarded-proto", request.url.scheme).split(",")[0].strip()
        response.set_cookie(
            name,
            value,
            max_age=seconds,
            path=self._settings.prefix,
            httponly=True,
            samesite="lax",
            secure=scheme == "https",
        )
