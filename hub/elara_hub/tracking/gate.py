"""The gate before MLflow: every request passes here first, Flask's and FastAPI's alike.

It finds out whose token a request carries, refuses what that token may not reach, and hands the rest to MLflow under a
name that only the gate can vouch for. Nothing of what a client said about itself goes on.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from elara_hub.tracking import rules
from elara_hub.tracking.access import Access, AccessBook, ServiceAway
from elara_hub.tracking.browser import BrowserSignIn, is_same_site_write
from elara_hub.tracking.grants import GrantKeeper
from elara_hub.tracking.principal import Voucher

log = logging.getLogger("elara.tracking")

_DROPPED = {b"authorization", b"cookie", b"x-mlflow-authorization", b"content-length"}
_MOST_JSON = 16 * 1024 * 1024


def bearer(request: Request) -> str | None:
    """The hub token of a client: `Bearer T` (MLFLOW_TRACKING_TOKEN), `token T`, or the password of basic auth."""
    scheme, _, rest = request.headers.get("authorization", "").partition(" ")
    rest = rest.strip()
    if not rest:
        return None
    if scheme.lower() in ("bearer", "token"):
        return rest
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode().partition(":")[2] or None
        except (binascii.Error, UnicodeError):
            return None
    return None


def _refused(status: int, code: str, message: str) -> Response:
    """An answer that MLflow's own client shows as a sentence."""
    return JSONResponse({"error_code": code, "message": message}, status)


class Gate:
    """An ASGI application around MLflow's."""

    def __init__(
        self, app: ASGIApp, prefix: str, book: AccessBook, keeper: GrantKeeper, sign_in: BrowserSignIn, voucher: Voucher
    ) -> None:
        self._app = app
        self._prefix = prefix
        self._book = book
        self._keeper = keeper
        self._sign_in = sign_in
        self._voucher = voucher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 4403})
            return
        request = Request(scope, receive)
        answer = await self._judge(request)
        if isinstance(answer, Response):
            await answer(scope, receive, send)
            return
        await self._app(answer[0], answer[1], _with_headers(send))

    async def _opens(self, token: str) -> bool:
        try:
            return await self._book.access(token) is not None
        except ServiceAway:
            return True  # it will be told so on the page itself

    async def _judge(self, request: Request) -> Response | tuple[Scope, Receive]:
        path = request.url.path
        if not path.startswith(self._prefix):
            return PlainTextResponse("Not found", 404)
        inner = path[len(self._prefix) :]
        if inner == "health" or inner.startswith("static-files/"):
            return _stripped(request, None), request.receive
        if path == self._sign_in.callback_path:
            return await self._sign_in.finish(request, self._opens)
        token = bearer(request)
        from_cookie = token is None
        if from_cookie:
            token = self._sign_in.token(request)
        try:
            access = await self._book.access(token) if token else None
        except ServiceAway as error:
            log.warning("the service cannot be asked: %s", error)
            return _refused(503, "TEMPORARILY_UNAVAILABLE", "The Elara service does not answer. Try again in a moment.")
        if access is None:
            if from_cookie and _is_page(request):
                return self._sign_in.start(request)
            return _refused(401, "UNAUTHENTICATED", "Sign in again, or send a hub token as MLFLOW_TRACKING_TOKEN.")
        if from_cookie and request.method not in ("GET", "HEAD", "OPTIONS") and not is_same_site_write(request):
            return _refused(403, "PERMISSION_DENIED", "This request was sent by another site, so it is refused.")
        workspace = (request.headers.get("x-mlflow-workspace") or "").strip() or None
        if sentence := rules.refusal(request.method, inner, workspace, access):
            return _refused(403, "PERMISSION_DENIED", sentence)
        await asyncio.to_thread(self._keeper.ensure, access)
        return await self._admit(request, inner, access, self._keeper.default_experiment(workspace))

    async def _admit(
        self, request: Request, inner: str, access: Access, default: str | None
    ) -> Response | tuple[Scope, Receive]:
        if not rules.rewrites_body(request.method, inner):
            length = request.headers.get("content-length")
            scope = _stripped(request, self._voucher.header(access.user), length)
            scope["query_string"] = rules.new_query(inner, scope.get("query_string", b""), default)
            return scope, request.receive
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_JSON:
                return _refused(400, "INVALID_PARAMETER_VALUE", "The request is too large for a description of a run.")
        try:
            told = rules.new_body(inner, bytes(body), access.user, default)
        except rules.BodyRefused as error:
            return _refused(400, "INVALID_PARAMETER_VALUE", str(error))
        scope = _stripped(request, self._voucher.header(access.user), str(len(told)))
        # MLflow reads the fields from JSON only when the type says so; a body without one would bypass what we wrote.
        scope["headers"] = [h for h in scope["headers"] if h[0] != b"content-type"]
        scope["headers"].append((b"content-type", b"application/json"))
        return scope, _body(told, request.receive)


def _is_page(request: Request) -> bool:
    """Whether a person opened a page (and not a script of one asked for data)."""
    return (
        request.method == "GET"
        and "text/html" in request.headers.get("accept", "")
        and request.headers.get("sec-fetch-mode", "navigate") == "navigate"
        and "authorization" not in request.headers
    )


def _stripped(request: Request, authorization: str | None, length: str | None = None) -> Scope:
    scope: MutableMapping[str, Any] = dict(request.scope)
    headers = [(k, v) for k, v in request.scope["headers"] if k.lower() not in _DROPPED]
    if authorization is not None:
        headers.append((b"authorization", authorization.encode()))
    if length is not None:
        headers.append((b"content-length", length.encode()))
    scope["headers"] = headers
    return scope


def _body(body: bytes, rest: Receive) -> Receive:
    told = False

    async def receive() -> Message:
        nonlocal told
        if told:
            return await rest()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _with_headers(send: Send) -> Send:
    """MLflow's own host and origin checks are off (they know only local names); these headers are what is left of
    them.
    """

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [h for h in message.get("headers", []) if h[0].lower() != b"www-authenticate"]
            names = {name.lower() for name, _ in kept}
            for name, value in ((b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"SAMEORIGIN")):
                if name not in names:
                    kept.append((name, value))
            message = {**message, "headers": kept}
        await send(message)

    return wrapped
