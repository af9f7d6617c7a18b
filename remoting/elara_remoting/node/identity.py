"""Who a node is: its key and certificate in its state folder, and how it gets them by a one-time token."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from elara_remoting.attachment import write_private
from elara_remoting.node.certificates import new_node_key, public_key_pem
from elara_remoting.service_client import is_this_machine

_FILE = "identity.json"
_KEY_FILE = "new-key.pem"
_ROOM_FILE, _ROOM = "room", 16 << 10
"""What is written and removed to see whether an identity would find room."""


class IdentityError(RuntimeError):
    """The node has no usable identity; the text says what to do."""


@dataclass(frozen=True)
class Identity:
    """What the service knows this node by."""

    node_id: str
    certificate_pem: str
    ca_pem: str
    key_pem: str = field(repr=False)


def lock(state: Path) -> int:
    """Take the state folder for this process, until it ends; returns the descriptor that holds it.

    Raises:
        IdentityError: another agent has it, or it cannot be written.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise IdentityError(
            f"The folder {state} cannot be written: {error.strerror}. Choose another --data."
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise IdentityError(
            f"Another node agent runs with the folder {state}. End it first, or choose another --data."
        ) from None
    return handle


def load(state: Path) -> Identity | None:
    """The identity in the state folder, None when the node has not joined yet.

    Raises:
        IdentityError: the file is damaged.
    """
    path = state / _FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Identity(data["node_id"], data["certificate_pem"], data["ca_pem"], data["key_pem"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IdentityError(
            f"The node's identity in {path} is damaged. Delete the file and join again with a new token."
        ) from error


def join(state: Path, api_url: str, token: str, name: str) -> Identity:
    """Spend a one-time token for an identity and keep it.

    Raises:
        IdentityError: the folder cannot be written, the service cannot be reached, or does not accept the token.
    """
    try:
        key_pem = _key_of_this_try(state)
        # Before the token is spent: one that was spent for an identity that could not be kept is lost.
        write_private(state / _ROOM_FILE, " " * _ROOM)
        (state / _ROOM_FILE).unlink()
    except OSError as error:
        raise IdentityError(
            f"The folder {state} cannot be written: {error.strerror}. Make room there, then start again with the same "
            "join token."
        ) from error
    body = {"token": token, "name": name, "public_key_pem": public_key_pem(key_pem)}
    try:
        response = httpx.post(f"{api_url}/nodes/join", json=body, timeout=20.0, trust_env=not is_this_machine(api_url))
        answer: Any = response.json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise IdentityError(
            f"The service at {api_url} does not answer ({type(error).__name__}). Check the address and start again."
        ) from error
    except ValueError:
        raise IdentityError(f"{api_url} is not the address of an Elara service's API.") from None
    if not response.is_success:
        error_body = answer.get("error") if isinstance(answer, dict) else None
        message = error_body.get("message") if isinstance(error_body, dict) else None
        raise IdentityError(
            f"The service refused to let this node join: {message or f'HTTP status {response.status_code}'} "
            "Ask an administrator for a new join token."
        )
    try:
        identity = Identity(str(answer["node_id"]), str(answer["certificate_pem"]), str(answer["ca_pem"]), key_pem)
    except (KeyError, TypeError):
        raise IdentityError(f"{api_url} gave an answer that an Elara service would not give.") from None
    kept = {
        "node_id": identity.node_id,
        "certificate_pem": identity.certificate_pem,
        "ca_pem": identity.ca_pem,
        "key_pem": key_pem,
    }
    try:
        write_private(state / _FILE, json.dumps(kept))
    except OSError as error:
        raise IdentityError(
            f"The service let this node join, but its identity cannot be kept in {state}: {error.strerror}. Make room "
            "there, and start again with a new join token."
        ) from error
    (state / _KEY_FILE).unlink(missing_ok=True)
    return identity


def _key_of_this_try(state: Path) -> str:
    """The same key for each try, so that an answer that got lost does not leave two half-made nodes."""
    path = state / _KEY_FILE
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        write_private(path, new_node_key())
        return path.read_text(encoding="utf-8")
