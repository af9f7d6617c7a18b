"""A refusal as a page."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from elara_hub.pages.rendering import render
from elara_hub.refusal import Refusal


def error_page(request: Request, refusal: Refusal) -> Response:
    return render(request, "error.html", status=refusal.status, refusal=refusal, user=None, here="")
