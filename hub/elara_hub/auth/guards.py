"""The gates of the routes, as FastAPI dependencies. A route has one of them, or stands on the list of open ones.

`GUARDS` is what the test of all routes looks for.
"""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, Request

from elara_hub.auth.browser import SignInNeeded
from elara_hub.auth.hub import bearer
from elara_hub.auth.identity import OPERATOR, Identity
from elara_hub.contract import CSRF_HEADER
from elara_hub.refusal import Refusal, forbidden
from elara_hub.services import Services

OPEN_ROUTES = frozenset({"/health", "/oauth_callback", "/nodes/join", "/nodes/channel"})
"""Routes without a guard: the one says nothing, the others check a secret of their own."""


def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


def _is_internal(request: Request, settings_token: str) -> bool:
    # What came through the proxy bears its mark, and is not the hub whatever it says.
    shown = bearer(request.headers.get("authorization")) or ""
    through_proxy = "x-forwarded-for" in request.headers
    return bool(settings_token) and not through_proxy and hmac.compare_digest(shown.encode(), settings_token.encode())


async def _identify(request: Request, *, fresh: bool) -> Identity | None:
    found = services(request)
    token = bearer(request.headers.get("authorization"))
    if token is not None:
        if _is_internal(request, found.core.settings.internal_token):
            return OPERATOR
        identity = await found.hub.identify(token, fresh=fresh)
    else:
        cookie_token = found.browser.token(request)
        if cookie_token is None:
            return None
        identity = await found.hub.identify(cookie_token, fresh=fresh, by_cookie=True)
    if identity is None:
        return None
    await found.people.seen(identity.name)
    if found.people.is_disabled(identity.name):
        raise Refusal("account_disabled", "This account is disabled.", "Ask your administrator.", status=403)
    return identity


async def signed_in(request: Request) -> Identity:
    """Any user of this service; writes ask the hub anew, and from a browser need our header."""
    writes = request.method not in ("GET", "HEAD")
    return await _signed_in(request, fresh=writes)


async def signed_in_often(request: Request) -> Identity:
    """As `signed_in`, for what workspaces send every few seconds: the hub's answer may be reused."""
    return await _signed_in(request, fresh=False)


async def _signed_in(request: Request, *, fresh: bool) -> Identity:
    identity = await _identify(request, fresh=fresh)
    if identity is None:
        raise Refusal(
            "not_signed_in",
            "This needs a hub token that may use Elara.",
            "Sign in, or send the header `Authorization: token ...`.",
            status=401,
        )
    if identity.by_cookie and request.method not in ("GET", "HEAD") and CSRF_HEADER not in request.headers:
        raise Refusal(
            "header_missing",
            f"A browser's request that changes something needs the header {CSRF_HEADER}.",
            f"Send `{CSRF_HEADER}: 1`.",
            status=403,
        )
    return identity


async def page_visitor(request: Request) -> Identity:
    """A user who looks at a page: browsers without a session are sent to the hub."""
    identity = await _identify(request, fresh=False)
    if identity is None:
        if bearer(request.headers.get("authorization")) is None and "text/html" in request.headers.get("accept", ""):
            raise SignInNeeded
        raise Refusal("not_signed_in", "This page needs a signed-in user.", "Sign in through the hub.", status=401)
    return identity


async def page_administrator(visitor: Annotated[Identity, Depends(page_visitor)]) -> Identity:
    if not visitor.admin:
        raise forbidden("see this page", "an administrator")
    return visitor


async def administrator(identity: Annotated[Identity, Depends(signed_in)]) -> Identity:
    if not identity.admin:
        raise forbidden("do this", "an administrator (not a workspace's own token)")
    return identity


async def workspace(identity: Annotated[Identity, Depends(signed_in)]) -> Identity:
    """A workspace's own token that may attach devices."""
    return _workspace(identity)


async def workspace_often(identity: Annotated[Identity, Depends(signed_in_often)]) -> Identity:
    return _workspace(identity)


def _workspace(identity: Identity) -> Identity:
    if identity.server is None:
        raise Refusal(
            "not_a_workspace",
            "Devices are attached to a workspace, and this token is not a workspace's own.",
            "Attach from inside a workspace: the button in its notebooks, or `elara attach` in its terminal.",
            status=403,
        )
    if not identity.may_attach:
        raise forbidden("attach devices", "the scope custom:elara:attach, which the hub's configuration gives")
    return identity


async def internal(request: Request) -> None:
    """The hub and MLflow, on this machine only."""
    if not _is_internal(request, services(request).core.settings.internal_token):
        raise Refusal(
            "internal_only", "This route is for the hub only.", "Use the other routes of the service.", status=403
        )


GUARDS = frozenset(
    {
        signed_in,
        signed_in_often,
        page_visitor,
        page_administrator,
        administrator,
        workspace,
        workspace_often,
        internal,
    }
)

Core = Annotated[Services, Depends(services)]
User = Annotated[Identity, Depends(signed_in)]
FrequentUser = Annotated[Identity, Depends(signed_in_often)]
Admin = Annotated[Identity, Depends(administrator)]
WorkspaceCaller = Annotated[Identity, Depends(workspace)]
FrequentWorkspaceCaller = Annotated[Identity, Depends(workspace_often)]
Visitor = Annotated[Identity, Depends(page_visitor)]
AdminVisitor = Annotated[Identity, Depends(page_administrator)]
"""What routes write in their signatures."""
