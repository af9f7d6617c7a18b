"""From an error of the engine, or of what asks it, to a refusal in words."""

from __future__ import annotations

from typing import Any

import docker.errors
import requests.exceptions

from elara_spawner.docker import failures
from elara_spawner.docker.engine import HelperFailed
from elara_spawner.docker.failures import Failure
from elara_spawner.refusal import Refused

ENGINE_ERRORS = (docker.errors.DockerException, requests.exceptions.RequestException, HelperFailed)


class Told:
    """Turns an error of the engine into a refusal in words, and leaves the error itself in the log."""

    def __init__(self, log: Any, doing: str) -> None:
        self._log = log
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ENGINE_ERRORS):
            self._log.error("The engine failed in %s: %s", self._doing, error)
            raise refusal(failures.from_error(error, self._doing)) from error


def refusal(failure: Failure) -> Refused:
    """To raise for a failure that is told already."""
    return Refused(failure.message, reason=failure.reason, status=failure.status)
