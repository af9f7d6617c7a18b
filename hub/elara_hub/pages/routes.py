"""The pages' routes."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from elara_hub.auth.guards import Core, Visitor
from elara_hub.config import Settings
from elara_hub.pages.rendering import STATIC, render


def install(app: FastAPI, settings: Settings) -> None:
    prefix = settings.prefix

    @app.get(prefix + "/", include_in_schema=False)
    def home(request: Request, found: Core, user: Visitor) -> HTMLResponse:
        return render(request, "home.html", user=user)

    app.mount(prefix + "/static", StaticFiles(directory=STATIC), name="static")
