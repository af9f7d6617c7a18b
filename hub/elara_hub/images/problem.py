"""The one refusal of this package: a sentence that says what is wrong and what to do."""

from __future__ import annotations


class ImageProblem(Exception):
    """An image cannot be built or checked."""


_SIGNS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("no space left on device", "not enough free space"),
        "The disk of Docker's data is full: free some space (`docker system df` tells what holds it) and build again.",
    ),
    (
        ("certificate_verify_failed", "self-signed certificate", "certificate verification failed"),
        "A certificate was not trusted: if this site has its own authority, put its certificate into "
        "images/certificates/NAME.crt (and name it in PIP_CERT), then build again.",
    ),
    # Before what pip says of a package that it found on no index: it says that of an index that it could not ask, too.
    (
        (
            *("temporary failure in name resolution", "temporary failure resolving", "newconnectionerror"),
            *("connection refused", "network is unreachable", "could not connect to", "unable to connect to"),
            *("enotfound", "econnrefused", "etimedout", "eai_again", "read timed out", "connection timed out"),
        ),
        "Packages could not be fetched: check the network (and HTTPS_PROXY, pip's and apt's configuration if this site "
        "has its own), then build again. Finished steps are kept.",
    ),
    (
        ("no matching distribution found", "could not find a version"),
        "The package index has no such version. If this site has its own index, set PIP_INDEX_URL; wheels in a folder "
        "are used with --find-links FOLDER.",
    ),
    (
        ("permission denied while trying to connect", "dial unix /var/run/docker.sock: connect: permission denied"),
        "You may not use the Docker daemon: run this as root, or as a member of the group `docker`.",
    ),
    (
        ("cannot connect to the docker daemon", "is the docker daemon running", "error during connect"),
        "The Docker daemon does not answer: start it (`sudo systemctl start docker`), then build again.",
    ),
    (
        ("out of memory", "signal: killed", "killed signal terminated", "exit code: 137"),
        "A step was killed, most likely for want of memory: give it more, or compile with fewer jobs (--jobs 1).",
    ),
)


def explain(said: str) -> str:
    """The likeliest cause of a failed docker command, from what it printed, with the next step."""
    lower = said.lower()
    for signs, sentence in _SIGNS:
        if any(sign in lower for sign in signs):
            return sentence
    return "The end of what it said is below; mend it and build again. Finished steps are kept."


def base_missing(image: str) -> str:
    """What to do about a base image that is neither here nor in a registry that answers."""
    return (
        f"The base image {image} is not on this machine and could not be pulled. Where no registry can be reached, "
        "`elara images bootstrap-base` makes one from Debian's packages; or name another with --base-image."
    )
