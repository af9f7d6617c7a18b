"""Templates, and the headers that go with every page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from elara_hub.auth.identity import Identity
from elara_remoting.types import format_memory, format_share

_HERE = Path(__file__).parent
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)

_environment = Environment(
    loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_environment.filters["memory"] = format_memory
_environment.filters["share"] = format_share


def _navigation(user: Identity) -> list[tuple[str, str]]:
    links = [("/", "My leases"), ("/pool", "Pool"), ("/teams", "Teams and projects"), ("/usage", "Usage")]
    if user.admin:
        links += [("/nodes", "Nodes"), ("/events", "Events")]
    return [*links, ("/api/v1/docs", "REST")]


_environment.globals["navigation"] = _navigation

STATIC = _HERE / "static"


def render(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a template; it always knows `prefix` (the service's path) and `hub` (the hub's home)."""
    settings = request.app.state.services.core.settings
    base = settings.prefix.removesuffix("/services/elara")
    text = _environment.get_template(template).render(
        prefix=settings.prefix, api=settings.api, hub=f"{base}/hub/home", **values
    )
    headers = {
        "Content-Security-Policy": _POLICY,
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
    }
    return HTMLResponse(text, status, headers)
