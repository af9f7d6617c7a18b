"""What a workspace is when it is a container, as plain values that any container engine can be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from elara_spawner.catalogue import Size
from elara_spawner.workspace import SLUG, Choice

HOME = PurePosixPath("/home/elara")
RUNTIME = PurePosixPath("/run/elara")
SCRATCH = PurePosixPath("/scratch")
PORT = 8888
DATASET = SLUG
"""What the name of a data set may be."""

LABEL = "org.elara."
"""What the keys of our labels begin with."""


@dataclass(frozen=True)
class Volume:
    """A named volume at a path of the workspace. `kind` is home, project or dataset.

    An engine makes a home or a project volume when there is none; a data set is there already, or is an error.
    """

    kind: str
    name: str
    target: str
    read_only: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """What the container may use at most."""

    cpus: float
    memory_bytes: int
    processes: int
    shared_memory_bytes: int
    temporary_bytes: int


@dataclass(frozen=True, repr=False)
class Container:
    """One workspace. `environment` holds its own token, so the whole is never printed.

    `scratch_bytes` is the size of a scratch in memory; 0 asks for one on disk, None for none.
    """

    name: str
    host: str
    image: str
    command: Sequence[str]
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    volumes: Sequence[Volume]
    limits: Limits
    uid: int
    gid: int
    read_only_root: bool
    scratch_bytes: int | None
    port: int = PORT

    def __repr__(self) -> str:
        return f"Container(name={self.name!r}, image={self.image!r})"


@dataclass(frozen=True)
class Dataset:
    """A volume that an administrator filled; `teams` None is every team."""

    name: str
    volume: str
    teams: tuple[str, ...] | None


def parse_datasets(setting: Mapping[str, object]) -> list[Dataset]:
    """From ``{"mnist": {"volume": "mnist-2024", "teams": ["vision"]}, "words": "words-volume"}``.

    Raises:
        ValueError: with a sentence on what is wrong.
    """
    found = []
    for name, entry in setting.items():
        if not DATASET.fullmatch(name):
            raise ValueError(f"The data set {name!r} needs a name of lower-case letters, digits and single hyphens.")
        given = {"volume": entry} if isinstance(entry, str) else entry
        if (
            not isinstance(given, Mapping)
            or not isinstance(given.get("volume"), str)
            or set(given) - {"volume", "teams"}
        ):
            raise ValueError(
                f"The data set {name!r} must be the name of a volume, or {{'volume': NAME, 'teams': [TEAM, ...]}}."
            )
        teams = given.get("teams")
        if teams is not None and (not isinstance(teams, (list, tuple)) or not all(isinstance(t, str) for t in teams)):
            raise ValueError(f"The teams of the data set {name!r} must be a list of teams' names.")
        found.append(Dataset(name, str(given["volume"]), None if teams is None else tuple(teams)))
    return found


def volumes(
    *, home: str, project: str, choice: Choice, role: str, user: str, handle: str, datasets: Sequence[Dataset]
) -> list[Volume]:
    """The volumes of a workspace. A viewer's project is read-only, and so is every data set for everybody.

    Args:
        home: the name of the home's volume.
        project: the name of the project's volume.
        role: the user's role in the project.
        handle: the project's handle, for the volume's label.
    """
    if not (SLUG.fullmatch(choice.team) and SLUG.fullmatch(choice.project)):
        raise ValueError(f"{choice.project_path!r} is no <team>/<project>")
    shared = HOME / "projects" / choice.team / choice.project
    return [
        Volume("home", home, str(HOME), labels={LABEL + "user": user}),
        Volume(
            "project",
            project,
            str(shared),
            # Only who may write by role gets to write: a role that is not known here may not.
            read_only=role not in ("owner", "editor"),
            labels={LABEL + "project": handle},
        ),
        *(
            Volume("dataset", dataset.volume, str(HOME / "datasets" / dataset.name), read_only=True)
            for dataset in datasets
            if dataset.teams is None or choice.team in dataset.teams
        ),
    ]


def limits(size: Size, *, processes: int, temporary_bytes: int) -> Limits:
    """Of a size. Half of the memory may be shared memory, which a loader with several workers lives on.

    Args:
        processes: for a size that names no number of its own.
    """
    return Limits(
        cpus=size.cpus,
        memory_bytes=size.memory_bytes,
        processes=size.processes or processes,
        shared_memory_bytes=size.memory_bytes // 2,
        temporary_bytes=min(temporary_bytes, size.memory_bytes // 2),
    )
