"""The names on a Docker Engine that belong to one data folder. Kept in its `docker.json`, for ever: homes are found by
them."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from elara_hub.supervisor.folder import write_private
from elara_hub.supervisor.problem import UpProblem

FILE = "docker.json"


@dataclass(frozen=True)
class Place:
    """What names begin with, the bridge of the workspaces' network and its IPv4 addresses.

    site: the proxy's address as the workspaces of the last start were told it.
    """

    instance: str
    bridge: str
    subnet: str
    site: str = ""

    @property
    def gateway(self) -> str:
        """This machine's address on the workspaces' network: the first."""
        return str(ipaddress.IPv4Network(self.subnet)[1])


def read(folder: Path) -> Place | None:
    """The folder's place, None when it has none yet. Raises UpProblem for a damaged file."""
    file = folder / FILE
    if not file.exists():
        return None
    try:
        place = Place(**json.loads(file.read_text()))
        ipaddress.IPv4Network(place.subnet)
    except (OSError, ValueError, TypeError) as error:
        raise UpProblem(
            f"{file} cannot be read. It holds the names under which Docker keeps this installation's homes: restore it "
            "from your backup, or write it anew from what `docker volume ls` and `docker network ls` show (instance, "
            "bridge, subnet)."
        ) from error
    return place


def write(folder: Path, place: Place) -> None:
    """Keep it."""
    write_private(folder / FILE, json.dumps(asdict(place), indent=1) + "\n")


def remember_site(folder: Path, place: Place, site: str) -> None:
    """Note the address that the workspaces of this start are told."""
    if place.site != site:
        write(folder, replace(place, site=site))
