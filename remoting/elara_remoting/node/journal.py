"""What a node writes down about its leases, so that their usage survives a killed agent. No secret is in it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from elara_remoting.attachment import write_private
from elara_remoting.node.lease_table import Confirm

log = logging.getLogger(__name__)

LOST_REASON = "node_restarted"


class Journal:
    """The leases of this node with their usage so far, in one small file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: str | None = None
        self._failing = False

    def former_leases(self) -> list[Confirm]:
        """The leases that ran when the agent's former life ended: they ended with it, with the usage last written."""
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
            return [
                Confirm(str(lease_id), int(entry["generation"]), LOST_REASON, dict(entry["usage"]))
                for lease_id, entry in entries.items()
            ]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("the journal %s cannot be read (%s): usage since the last report is lost", self._path, error)
            return []

    def write(self, usages: dict[str, tuple[int, dict[str, Any]]]) -> None:
        """Replace the journal; a full disk costs accuracy, not leases."""
        entries = {key: {"generation": generation, "usage": usage} for key, (generation, usage) in usages.items()}
        text = json.dumps(entries)
        if text == self._written:
            return
        try:
            write_private(self._path, text)
            self._written = text
            self._failing = False
        except OSError as error:
            if not self._failing:  # once: this is tried every few seconds
                log.warning("the journal cannot be written (tried again until it can): %s", error)
            self._failing = True
