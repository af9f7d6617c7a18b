"""The one exception whose text a user may read.

Everything else that goes wrong is logged and shown as "internal error". Routes, pages and the command line turn a
`Refusal` into their own form; nothing else in the service builds error bodies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Refusal(Exception):
    """The service says no, or cannot.

    Args:
        reason: a stable label for programs, such as ``quota_exceeded``.
        message: a sentence that names what is wrong.
        next_step: what the reader may do about it.
        status: the HTTP status; 409 when the wish is sound and cannot be met now.
        details: what a program or a page may show beside the sentence; JSON values only.
    """

    def __init__(
        self, reason: str, message: str, next_step: str, *, status: int = 409, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.next_step = next_step
        self.status = status
        self.details = dict(details or {})

    def to_json(self) -> dict[str, Any]:
        return {
            "error": {
                "reason": self.reason,
                "message": self.message,
                "next_step": self.next_step,
                "details": self.details,
            }
        }


def not_found(what: str, name: str) -> Refusal:
    """Also the answer for a thing that exists but that the asker may not see."""
    return Refusal(
        "not_found",
        f"There is no {what} {name!r} that you may see.",
        "Check the name, or ask its owner to add you.",
        status=404,
    )


def forbidden(action: str, needs: str) -> Refusal:
    """`action` completes "You may not ..."; `needs` names who may."""
    return Refusal("forbidden", f"You may not {action}.", f"This needs {needs}.", status=403)


def invalid(message: str, next_step: str = "Correct it and try again.") -> Refusal:
    return Refusal("bad_request", message, next_step, status=422)
