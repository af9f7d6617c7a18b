"""How the commands reach the service: by a hub token, or, on the machine of `elara up`, by its data folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import httpx

from elara_hub.contract import API_PREFIX


class Problem(click.ClickException):
    """A sentence for the user; exit status 1."""


class Service:
    """Calls the REST; everything but success becomes a `Problem`."""

    def __init__(self, api_url: str, token: str) -> None:
        self._http = httpx.Client(
            base_url=api_url.rstrip("/"), headers={"Authorization": f"token {token}"}, timeout=30, trust_env=False
        )
        self._url = api_url

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Raises:
        Problem: refused, or no answer.
        """
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise Problem(
                f"The service at {self._url} does not answer ({type(error).__name__}). Is Elara running?"
            ) from error
        try:
            content = answer.json()
        except ValueError:
            content = None
        if answer.is_success:
            return content
        error_body = content.get("error") if isinstance(content, dict) else None
        if not isinstance(error_body, dict):
            raise Problem(f"The service at {self._url} answered {answer.status_code}. Is the address right?")
        raise Problem(f"{error_body['message']} {error_body['next_step']}".strip())


def connect(data: str | None) -> Service:
    """The service that the surroundings name: ELARA_API_URL with ELARA_TOKEN (or JUPYTERHUB_API_TOKEN), or the data
    folder of a running `elara up`.

    Raises:
        Problem: neither is there.
    """
    address = os.environ.get("ELARA_API_URL")
    token = os.environ.get("ELARA_TOKEN") or os.environ.get("JUPYTERHUB_API_TOKEN")
    if address and token and data is None:
        return Service(address, token)
    folder = Path(data or os.environ.get("ELARA_DATA") or "elara-data")
    try:
        parts = json.loads((folder / "up.json").read_text())["parts"]
        secret = (folder / "secrets" / "internal-token").read_text().strip()
        return Service(str(parts["service"]["url"]).rstrip("/") + API_PREFIX, secret)
    except (OSError, ValueError, KeyError, TypeError):
        raise Problem(
            f"No running Elara was found in {folder.absolute()}. Start it with `elara up`, name its folder with "
            "--data, or set ELARA_API_URL and ELARA_TOKEN (a token from the hub's token page)."
        ) from None
