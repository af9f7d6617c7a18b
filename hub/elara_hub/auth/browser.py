"""Sign-in of browsers through the hub (OAuth with PKCE), and the session cookie.

Both cookies are encrypted and signed with a key of this service: a session outlives its restart, and nothing is kept on
the server. The hub's token inside is what gives the session its power and its end.
"""

from __future__ import annotations

import json
import secrets

from cryptography.fernet import Fernet, InvalidToken
from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from elara_hub.auth.hub import HubLink
from elara_hub.config import Settings, write_secret
from elara_hub.refusal import Refusal

SESSION_COOKIE = "elara-session"
_STATE_COOKIE = "elara-sign-in-"
_STATE_SECONDS = 600
_SESSION_SECONDS = 14 * 24 * 3600


class SignInNeeded(Exception):
    """A browser without a session asked for a page."""


class BrowserSignIn:
    """Makes and reads the cookies. `secure` cookies whenever users come by https."""

    def __init__(self, settings: Settings, hub: HubLink) -> None:
        path = settings.secret_file("cookie-key")
        if not path.exists():
            write_secret(path, Fernet.generate_key())
        self._box = Fernet(path.read_bytes())
        self._hub = hub
        self._path = settings.prefix + "/"
        self._secure = settings.public_url.startswith("https:")

    def begin(self, request: Request) -> Response:
        """Send the browser to the hub, which sends it back to `finish`."""
        verifier, challenge, method = self._hub.new_challenge()
        state = secrets.token_urlsafe(24)
        after = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        response = RedirectResponse(self._hub.authorize_url(state, challenge, method), 302)
        content = json.dumps({"state": state, "verifier": verifier, "after": after}).encode()
        self._set(response, _STATE_COOKIE + state[:8], self._box.encrypt(content).decode(), _STATE_SECONDS)
        response.headers["Cache-Control"] = "no-store"
        return response

    async def finish(self, request: Request, code: str, state: str, error: str) -> Response:
        """The hub's answer.

        Raises:
            Refusal: the answer does not belong to a sign-in that this browser began, or was a no.
        """
        name = _STATE_COOKIE + state[:8]
        try:
            kept = json.loads(self._box.decrypt(request.cookies.get(name, "").encode(), ttl=_STATE_SECONDS))
        except (InvalidToken, ValueError):
            kept = None
        if error or kept is None or not secrets.compare_digest(str(kept["state"]).encode(), state.encode()):
            raise Refusal(
                "sign_in_failed",
                "This sign-in was refused, took too long, or began in another browser.",
                "Open the page again to sign in.",
                status=403,
            )
        token = await self._hub.token_for_code(code, str(kept["verifier"]))
        after = str(kept["after"])
        response = RedirectResponse(after if after.startswith(self._path) else self._path, 302)
        self._set(response, SESSION_COOKIE, self._box.encrypt(token.encode()).decode(), _SESSION_SECONDS)
        response.delete_cookie(name, path=self._path)
        response.headers["Cache-Control"] = "no-store"
        return response

    def token(self, request: Request) -> str | None:
        """The hub token of the browser's session, if it has one that we made."""
        cookie = request.cookies.get(SESSION_COOKIE)
        if not cookie:
            return None
        try:
            return self._box.decrypt(cookie.encode(), ttl=_SESSION_SECONDS).decode()
        except (InvalidToken, ValueError):
            return None

    def _set(self, response: Response, name: str, value: str, seconds: int) -> None:
        response.set_cookie(
            name, value, max_age=seconds, path=self._path, httponly=True, samesite="lax", secure=self._secure
        )
