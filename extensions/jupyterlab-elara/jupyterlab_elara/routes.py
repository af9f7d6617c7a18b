"""The routes under `{base_url}elara/`. Each parses, calls and serialises; refusals are JSON with the next step."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from jupyter_server.base.handlers import APIHandler
from tornado import web

from elara_remoting.workspace import LeaseRequest, ServiceError
from jupyterlab_elara.keeper import Keeper
from jupyterlab_elara.status import StatusBoard, refusal


class ElaraHandler(APIHandler):
    """What all routes share: the keeper, JSON in and out, and refusals."""

    @property
    def keeper(self) -> Keeper:
        keeper: Keeper | None = self.settings["elara_keeper"]
        if keeper is None:
            problem = self.board.may_attach()
            raise problem or ServiceError("not_available", "No GPU can be attached here.", status=409)
        return keeper

    @property
    def board(self) -> StatusBoard:
        board: StatusBoard = self.settings["elara_status"]
        return board

    def body(self) -> dict[str, Any]:
        try:
            data = json.loads(self.request.body or b"{}")
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise ServiceError("bad_request", "The request is not a JSON object.", "Reload the page and try again.")
        return data

    def answer(self, data: dict[str, Any], status: int = HTTPStatus.OK) -> None:
        self.set_status(status)
        self.finish(json.dumps(data))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if not isinstance(error, ServiceError):
            super().write_error(status_code, **kwargs)
            return
        self.set_header("Content-Type", "application/json")
        self.answer(refusal(error), _status_of(error))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if isinstance(value, ServiceError):
            self.log.info("Refused (%s): %s", value.reason, value)
            return
        super().log_exception(typ, value, tb)


def _status_of(error: ServiceError) -> int:
    if error.reason == "bad_request":
        return HTTPStatus.BAD_REQUEST
    if error.status is None:
        return HTTPStatus.SERVICE_UNAVAILABLE
    # 401 would send the browser to sign in to the workspace, which it is already.
    return HTTPStatus.FORBIDDEN if error.status == HTTPStatus.UNAUTHORIZED else error.status


class StatusHandler(ElaraHandler):
    """`GET elara/status`; `?pool=1` adds what is free."""

    @web.authenticated
    async def get(self) -> None:
        self.answer(await self.board.read(with_pool=self.get_argument("pool", "") == "1"))


class PreviewHandler(ElaraHandler):
    """`POST elara/preview`: could this be met now?"""

    @web.authenticated
    async def post(self) -> None:
        self.answer(await self.board.preview(LeaseRequest.from_json(self.body())))


class AttachHandler(ElaraHandler):
    """`POST elara/attach`: 200 once the devices are there, 202 while the request goes on in the background."""

    @web.authenticated
    async def post(self) -> None:
        problem = self.board.may_attach()
        if problem is not None:
            raise problem
        lease = await self.keeper.attach(LeaseRequest.from_json(self.body()))
        self.answer({"lease": lease}, HTTPStatus.OK if lease["state"] == "active" else HTTPStatus.ACCEPTED)


class ExtendHandler(ElaraHandler):
    """`POST elara/extend {minutes}`."""

    @web.authenticated
    async def post(self) -> None:
        minutes = self.body().get("minutes")
        if isinstance(minutes, bool) or not isinstance(minutes, int) or minutes < 1:
            raise ServiceError(
                "bad_request", "minutes must be a whole number of 1 or more.", "Correct it and try again."
            )
        self.answer({"lease": await self.keeper.extend(minutes)})


class DetachHandler(ElaraHandler):
    """`POST elara/detach`: takes the devices away, or cancels a request that is under way."""

    @web.authenticated
    async def post(self) -> None:
        await self.keeper.detach()
        self.answer({})


ROUTES: list[tuple[str, type[ElaraHandler]]] = [
    (r"/elara/status", StatusHandler),
    (r"/elara/preview", PreviewHandler),
    (r"/elara/attach", AttachHandler),
    (r"/elara/extend", ExtendHandler),
    (r"/elara/detach", DetachHandler),
]
