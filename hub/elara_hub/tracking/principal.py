"""How the gate tells MLflow who is asking. MLflow calls `authenticate` before each request of its own."""

from __future__ import annotations

import base64
import hmac
import secrets
from typing import Any


class Voucher:
    """A secret of this process that only the gate knows; a name that comes with it is true."""

    def __init__(self) -> None:
        self._secret = secrets.token_urlsafe(32)

    def header(self, user: str) -> str:
        """The Authorization header with which the gate hands a request on."""
        return "Basic " + base64.b64encode(f"{user}:{self._secret}".encode()).decode()

    def vouches(self, password: str | None) -> bool:
        """Whether the password came from the gate. Takes the same time for every wrong one."""
        return hmac.compare_digest((password or "").encode(), self._secret.encode())


VOUCHER = Voucher()


def authenticate() -> Any:
    """MLflow's `authorization_function`: the gate's word, or 401. There is no other way in, not with any password."""
    from flask import make_response, request

    told = request.authorization
    if told is not None and told.type == "basic" and told.username and VOUCHER.vouches(told.password):
        return told
    return make_response(
        {"error_code": "UNAUTHENTICATED", "message": "Requests reach MLflow through its gate only."}, 401
    )
