"""Why `elara up` cannot start or go on."""

from __future__ import annotations


class UpProblem(Exception):
    """A sentence that names what is wrong and what to do next. `elara up` prints it and exits with status 1."""
