"""Hub, service, MLflow, proxy and nodes: do they answer, are they of one version, do their clocks agree."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from elara_hub.checks.finding import Finding, ok, problem, warning
from elara_hub.checks.surroundings import Surroundings
from elara_hub.contract import API_PREFIX
from elara_hub.version import __version__

MOST_SKEW = 5.0
"""Seconds. Tokens, leases and certificates are judged by several machines' clocks."""


def check(here: Surroundings) -> Iterator[Finding]:
    """Everything that is asked over HTTP."""
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    # Whether the certificate is good is a check of its own.
    unverified.verify_mode = ssl.CERT_NONE
    with httpx.Client(timeout=10, trust_env=False, verify=unverified) as client:
        restart = "See `logs/{0}.log` in the data folder." if here.under_up else "See the log: docker compose logs {0}."
        seen: dict[str, tuple[httpx.Response, datetime]] = {}
        for name, url, path in (
            ("hub", here.hub_url, "/hub/health"),
            ("service", here.service_url, f"{API_PREFIX}/health"),
            ("mlflow", here.mlflow_url, "/services/mlflow/health"),
            ("proxy", here.public_url, "/hub/health"),
        ):
            answer = _ask(client, url + path)
            if isinstance(answer, httpx.Response):
                seen[name] = answer, datetime.now(UTC)
                yield ok(name, f"{url} answers.")
            else:
                yield problem(name, f"{url or 'Its address'} {answer}.", _advice(name, restart.format(name)))
        yield from _clocks(seen)
        if "service" in seen:
            yield from _service(client, here)


def _advice(name: str, log: str) -> str:
    if name == "proxy":
        return f"{log} Check ELARA_PUBLIC_URL, the published port, and that the name leads to this machine."
    return f"{log} Start it again when it is not running."


def _ask(client: httpx.Client, url: str, **options: Any) -> httpx.Response | str:
    """The answer, or why there is none, as the end of a sentence."""
    if not url.startswith("http"):
        return "is not known"
    try:
        answer = client.get(url, **options)
    except httpx.ConnectError:
        return "takes no connection"
    except httpx.HTTPError as error:
        return f"does not answer ({type(error).__name__})"
    return answer if answer.status_code < 400 else f"answers with status {answer.status_code}"


def _clocks(seen: dict[str, tuple[httpx.Response, datetime]]) -> Iterator[Finding]:
    skews = {}
    for name, (answer, at) in seen.items():
        try:
            skews[name] = abs((parsedate_to_datetime(answer.headers["date"]) - at).total_seconds())
        except (KeyError, ValueError, TypeError):
            continue
    if not skews:
        return
    worst = max(skews, key=lambda name: skews[name])
    if skews[worst] > MOST_SKEW:
        yield problem(
            "clock",
            f"The clocks of {worst} and of this machine differ by {skews[worst]:.0f} seconds.",
            "Keep every machine's clock right with NTP (on Debian: systemctl enable --now systemd-timesyncd).",
        )
    else:
        yield ok("clock", f"The clocks of all parts agree to {MOST_SKEW:g} seconds.")


def _service(client: httpx.Client, here: Surroundings) -> Iterator[Finding]:
    """What only the service knows: its database and its nodes."""
    if not here.internal_token:
        yield problem(
            "database",
            "The service cannot be asked about its database and nodes: the internal token cannot be read.",
            "Run this as the user of the hub, with ELARA_INTERNAL_TOKEN_FILE or the data folder's secrets/ readable.",
        )
        return
    headers = {"Authorization": f"token {here.internal_token}"}
    answer = _ask(client, f"{here.service_url}{API_PREFIX}/internal/condition", headers=headers)
    if not isinstance(answer, httpx.Response):
        token = "403" in answer or "401" in answer
        yield problem(
            "database",
            f"The service {answer} when asked about its database.",
            "The hub and the service have different internal tokens: give both the same file."
            if token
            else "See the service's log; the database may be away.",
        )
        return
    condition = answer.json()
    if condition["version"] != __version__:
        yield problem(
            "version",
            f"The service is version {condition['version']}, this is {__version__}.",
            "Use the same version for every part.",
        )
    database = condition["database"]
    if database["revision"] == database["newest"]:
        yield ok("database", f"{database['backend']}, at the newest revision ({database['revision']}).")
    else:
        yield problem(
            "database",
            f"The {database['backend']} database has the revision {database['revision']}, and the service needs "
            f"{database['newest']}.",
            "Restart the service, which brings it up at its start; if it says that it cannot, restore a backup.",
        )
    listed = _ask(client, f"{here.service_url}{API_PREFIX}/nodes", headers=headers)
    if isinstance(listed, httpx.Response):
        yield from _nodes(listed.json()["nodes"])


def _nodes(nodes: list[dict[str, Any]]) -> Iterator[Finding]:
    if not nodes:
        yield problem(
            "nodes", "No node has joined, so nothing can be attached.", "Make a token: elara nodes token NAME"
        )
    for node in nodes:
        check = f"node {node['name']}"
        broken = [d for d in node["devices"] if not d.get("healthy", True)]
        if not node["connected"]:
            seen = node.get("last_seen") or "never"
            yield problem(
                check,
                f"It is not connected; last seen: {seen}.",
                "See whether its agent runs and reaches the service; `elara nodes remove` takes it out for good.",
            )
        elif broken:
            fault = broken[0].get("fault") or "it does not say why"
            yield warning(
                check,
                f"{len(broken)} of {len(node['devices'])} devices are not healthy: {fault}.",
                "Look at the node's log and its driver (nvidia-smi).",
            )
        else:
            yield ok(check, f"Connected, with {len(node['devices'])} healthy devices.")
