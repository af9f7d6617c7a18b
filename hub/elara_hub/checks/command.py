"""`elara admin check`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from elara_hub import options
from elara_hub.checks.finding import OK, PROBLEM, WARNING, Finding, problem

_MARKS = {OK: ("ok", "green"), WARNING: ("warning", "yellow"), PROBLEM: ("PROBLEM", "red")}


@click.command()
@options.data_folder
@options.as_json
def check(data: Path, as_json: bool) -> None:
    """Test this deployment: every part, the database, certificate, clocks, Docker, disk and permissions.

    Beside the data folder of a running `elara up`, or where the hub runs (in its container: docker compose exec hub
    elara admin check). Exit status 1 when there is a problem, 0 when there are only warnings or none. Nothing is
    changed.
    """
    findings = []
    for finding in examine(data.absolute()):
        findings.append(finding)
        if not as_json:
            _tell(finding)
    problems = sum(finding.state == PROBLEM for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not problems, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        warnings = sum(finding.state == WARNING for finding in findings)
        click.echo(f"{len(findings)} checks, {problems} problems, {warnings} warnings.")
    sys.exit(1 if problems else 0)


def examine(data: Path) -> Iterator[Finding]:
    """Every check in turn."""
    from elara_hub.checks import certificate, machine, parts
    from elara_hub.checks.surroundings import find

    here = find(data, os.environ)
    if here is None:
        yield problem(
            "deployment",
            f"Nothing runs on {data}, and no environment variables say where its parts are.",
            "Start it (elara up), name its folder with --data, or run this in the hub's container.",
        )
        return
    yield from machine.check(here.data)
    yield from parts.check(here)
    yield certificate.check(here.public_url)
    if here.engine == "docker":
        try:
            from elara_hub.checks import containers
        except ImportError as error:
            yield problem(
                "docker",
                f"Docker's client library is missing ({error}).",
                "Install it (`make build` does), then start Elara again: no workspace can be started without it.",
            )
            return
        from elara_hub.supervisor.found import checkout

        catalogue = Path(os.environ.get("ELARA_CATALOGUE") or checkout() / "images" / "catalogue.yaml")
        yield from asyncio.run(containers.check(here, catalogue))


def _tell(finding: Finding) -> None:
    word, colour = _MARKS[finding.state]
    click.echo(f"{click.style(f'{word:8}', fg=colour)} {finding.check}: {finding.message}")
    if finding.next_step:
        click.echo(f"{'':8} -> {finding.next_step}")
