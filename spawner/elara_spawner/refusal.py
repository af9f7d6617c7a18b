"""A refusal to start a workspace, as its user reads it."""

from __future__ import annotations

from html import escape

from jupyterhub.spawner import SpawnException


class Refused(SpawnException):  # type: ignore[misc]
    """No traceback is logged for it. The first line of `message` is for everybody, the rest is shown as it was printed.

    Args:
        reason: a short label for metrics.
        status: of the answer by HTTP.
    """

    def __init__(self, message: str, *, reason: str, status: int = 400) -> None:
        sentence, _, printed = message.partition("\n")
        shown = f"<pre>{escape(printed)}</pre>" if printed else ""
        super().__init__(message, reason=reason, message_html=f"<p>{escape(sentence)}</p>{shown}", status_code=status)
        # Without these two the hub's page and its progress show the exception itself, with its class and status.
        self.jupyterhub_message = message
        self.jupyterhub_html_message = self.message_html
