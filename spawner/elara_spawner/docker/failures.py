"""Every failure of an engine that a user can meet, as a sentence and a next step. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import docker.errors
import requests.exceptions

from elara_spawner.docker.engine import HelperFailed

_TELL = "Tell your administrator"


@dataclass(frozen=True)
class Failure:
    """`reason` is a label for metrics, `message` is for the user, `status` the answer's HTTP status."""

    reason: str
    message: str
    status: int = 503


_UNREACHABLE = re.compile(
    r"no such host|connection refused|connection reset|i/o timeout|timeout exceeded|Client\.Timeout|TLS handshake|"
    r"network is unreachable|no route to host|certificate|server misbehaving|unexpected EOF|"
    r"server gave HTTP response|Service Unavailable|Bad Gateway|Gateway Timeout|context deadline exceeded",
    re.IGNORECASE,
)
_REFUSED = re.compile(r"denied|unauthorized|no basic auth|authentication required|forbidden|insufficient_scope", re.I)
_UNKNOWN = re.compile(r"manifest unknown|not found|name unknown|no such image|does not exist", re.I)
_FULL = re.compile(r"no space left on device|disk quota exceeded", re.I)
_NO_MEMORY = re.compile(r"cannot allocate memory|out of memory|oom", re.I)
_CONFLICT = re.compile(r"is already in use by container|already in use", re.I)
_MOUNT = re.compile(r"mount|volume", re.I)


def text_of(error: BaseException) -> str:
    """What an engine said, without the library's wrapping."""
    if isinstance(error, docker.errors.APIError):
        return str(error.explanation or error)
    return str(error)


def engine_away(error: BaseException) -> bool:
    """Whether the engine could not be asked at all, so that nothing is known of what runs there."""
    if isinstance(error, docker.errors.APIError):
        return False
    return isinstance(error, (requests.exceptions.RequestException, docker.errors.DockerException, ConnectionError))


def daemon_down() -> Failure:
    """The engine does not answer."""
    return Failure(
        "engine_down",
        "The container engine does not answer, so no workspace can be started or stopped now. Those that run go on, "
        "and files are safe. Try again in a minute; if it stays so, tell your administrator that the Docker daemon "
        "is down.",
    )


def disk_full() -> Failure:
    """No room where images and volumes are kept."""
    return Failure(
        "disk_full",
        "The disk of the machine that runs workspaces is full. Nothing of yours is lost. Tell your administrator, "
        "who makes room; then start again.",
    )


def pull_failed(image: str, title: str, said: str) -> Failure:
    """A pull of `image` ended with what the engine `said`."""
    registry = image.split("/", 1)[0]
    if _FULL.search(said):
        return disk_full()
    if _REFUSED.search(said):
        return Failure(
            "pull_refused",
            f"The registry {registry} refuses to hand out the image of {title} ({image}). {_TELL}, who has to sign "
            "this machine in there (`docker login`) or to allow the image. Meanwhile choose another image.",
        )
    if _UNREACHABLE.search(said):
        return Failure(
            "registry_unreachable",
            f"The registry {registry}, which has the image of {title} ({image}), cannot be reached. Try again in a "
            "few minutes, or choose another image; if it stays so, tell your administrator.",
        )
    if _UNKNOWN.search(said):
        return image_missing(image, title, pulled=True)
    return Failure(
        "pull_failed",
        f"The image of {title} ({image}) could not be fetched: {_one_line(said)} Try again, or choose another image; "
        "if it stays so, tell your administrator.",
    )


def pull_timeout(image: str, title: str, seconds: float) -> Failure:
    """A pull that takes too long goes on without us."""
    return Failure(
        "pull_timeout",
        f"The image of {title} ({image}) was not fetched within {seconds:g} s. It goes on being fetched: start again "
        "in a few minutes, or choose another image meanwhile.",
    )


def image_missing(image: str, title: str, *, pulled: bool) -> Failure:
    """There is no such image, in the registry or on the machine."""
    if pulled:
        return Failure(
            "image_missing",
            f"The registry has no image {image}, which {title} needs. Choose another image, and tell your "
            "administrator that the catalogue names one that does not exist.",
        )
    return Failure(
        "image_missing",
        f"The image of {title} ({image}) is not on the machine that runs workspaces. Choose another image, and tell "
        "your administrator: `elara images build` makes those that come with Elara.",
    )


def name_conflict(name: str) -> Failure:
    """A container of that name is there, and it is not this workspace's."""
    return Failure(
        "name_conflict",
        f"The name {name} is taken on the machine that runs workspaces, by a container that is not your workspace. It "
        f"was left alone. {_TELL}, who renames or removes it, or gives this installation another `instance` name.",
        409,
    )


def from_error(error: BaseException, doing: str) -> Failure:
    """What any error of the engine means, while `doing` something ("starting the container")."""
    if isinstance(error, HelperFailed):
        return Failure("preparation_failed", f"Elara failed in {doing}. {_TELL}; the hub's log says more.")
    if engine_away(error):
        return daemon_down()
    said = text_of(error)
    if _FULL.search(said):
        return disk_full()
    if _NO_MEMORY.search(said):
        return Failure(
            "no_memory",
            "The machine that runs workspaces has no memory left for yours. Choose a smaller size, or try again when "
            "others have stopped theirs.",
        )
    if _CONFLICT.search(said):
        return Failure(
            "name_conflict",
            f"Another container has the name that your workspace needs. {_TELL}; or try again in a minute, when an "
            "earlier one may be gone.",
            409,
        )
    if _MOUNT.search(said):
        return Failure(
            "volume_failed",
            f"A volume of the workspace could not be mounted. Nothing of yours is lost. {_TELL}; the hub's log says "
            "which one and why.",
        )
    return Failure("engine_error", f"The container engine failed in {doing}. {_TELL}; the hub's log says more.")


def volume_differs(name: str, what: str) -> Failure:
    """A volume of the right name that was made otherwise."""
    return Failure(
        "volume_differs",
        f"The volume {name} is there, but {what}. It was left alone, and nothing of it is lost. {_TELL}, who sets the "
        "old settings again, or moves its files to a new volume.",
        409,
    )


def dataset_missing(name: str, volume: str) -> Failure:
    """A data set that the settings name is not there."""
    return Failure(
        "dataset_missing",
        f"The volume {volume} of the data set {name} is not on the machine that runs workspaces. {_TELL}, who makes "
        "and fills it, or takes it out of the settings.",
    )


def network_open(why: str) -> Failure:
    """The network's rules could not be set, so a workspace would reach what it must not."""
    return Failure(
        "network_open",
        f"No workspace was started, because its network could not be closed to the rest of the machine: {why} {_TELL}.",
    )


def died(status: int, out_of_memory: bool, lines: Sequence[str]) -> Failure:
    """The workspace ended before it answered."""
    if out_of_memory:
        return Failure(
            "no_memory",
            "The workspace used all the memory of its size while it started, and was ended. Choose a larger size."
            + _shown(lines),
        )
    return Failure(
        "died",
        f"The workspace ended while it started, with status {status}. If its last lines tell of something in your "
        "home, such as a broken setting, ask your administrator to look; else choose another image." + _shown(lines),
    )


def start_timeout(seconds: float, lines: Sequence[str]) -> Failure:
    """The workspace runs but does not answer."""
    return Failure(
        "start_timeout",
        f"The workspace did not answer within {seconds:g} s and was stopped. Start again; if it stays so, show your "
        "administrator its last lines." + _shown(lines),
        504,
    )


def _shown(lines: Sequence[str]) -> str:
    return "\nIt printed nothing." if not lines else "\nIts last lines:\n" + "\n".join(lines)


def _one_line(text: str) -> str:
    line = " ".join(text.split())[:300]
    return line if line.endswith(".") else line + "."
