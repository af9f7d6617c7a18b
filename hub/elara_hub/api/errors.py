"""Every answer that is not a success has the same body, whoever raised it."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from elara_hub.auth.browser import SignInNeeded
from elara_hub.pages.errors import error_page
from elara_hub.refusal import Refusal

log = logging.getLogger("elara")


def install(app: FastAPI, api_prefix: str) -> None:
    """Registers the handlers."""

    def answer(request: Request, refusal: Refusal) -> Response:
        wants_page = "text/html" in request.headers.get("accept", "")
        if wants_page and not request.url.path.startswith(api_prefix):
            return error_page(request, refusal)
        headers = {"WWW-Authenticate": "token"} if refusal.status == 401 else None
        return JSONResponse(refusal.to_json(), refusal.status, headers=headers)

    @app.exception_handler(Refusal)
    async def on_refusal(request: Request, error: Refusal) -> Response:
        return answer(request, error)

    @app.exception_handler(SignInNeeded)
    async def on_sign_in(request: Request, error: SignInNeeded) -> Response:
        response: Response = request.app.state.services.browser.begin(request)
        return response

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        text = str(first["msg"]).removeprefix("Value error, ")
        problems = [{"where": [str(part) for part in e["loc"]], "what": str(e["msg"])} for e in error.errors()]
        message = f"{where}: {text}." if where else f"{text[:1].upper()}{text[1:]}."
        refusal = Refusal(
            "bad_request", message, "Correct it and try again.", status=422, details={"problems": problems}
        )
        return answer(request, refusal)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        reason = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        sentence = {404: "There is nothing at this address.", 405: "This address does not take that method."}
        message = sentence.get(error.status_code, str(error.detail))
        response = answer(request, Refusal(reason, message, "Check the address.", status=error.status_code))
        for key, value in (error.headers or {}).items():
            response.headers[key] = value
        return response

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        refusal = Refusal(
            "internal_error",
            "Something went wrong inside the service.",
            "Try again; if it happens again, tell your administrator the time and what you did.",
            status=500,
        )
        return answer(request, refusal)
