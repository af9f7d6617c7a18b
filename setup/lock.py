"""Writes requirements/*.txt from requirements/*.in: each package of theirs and what it needs, at the installed version.

    .venv/bin/python setup/lock.py

Install or upgrade in .venv first, run the tests, then lock. PyTorch is left out: its build is chosen by
setup/install.py.
"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
LEFT_OUT = {"torch", "elara-hub", "elara-remoting", "jupyterlab-elara"}
_HEAD = "# Written by setup/lock.py from {source}; do not edit by hand.\n"


def wanted(file: Path) -> list[Requirement]:
    """The requirements of an .in file; lines that begin with # are comments."""
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def closure(roots: list[Requirement]) -> dict[str, str]:
    """Name to version of everything that `roots` need on this machine. Raises SystemExit for what is not installed."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(root, "") for root in roots]
    while queue:
        requirement, extra = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in LEFT_OUT or not _applies(requirement, extra):
            continue
        try:
            installed: Distribution = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"{name} is not installed in this environment: pip install it first.") from None
        found[name] = installed.version.split("+")[0]
        for extra_name in ("", *requirement.extras):
            if (name, extra_name) not in seen:
                seen.add((name, extra_name))
                queue += [(Requirement(line), extra_name) for line in installed.requires or ()]
    return found


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def main() -> int:
    """Write the lock files. A package that `run` has is left out of `test`, which is installed on top of it."""
    base: dict[str, str] = {}
    for name in ("run", "test"):
        source = FOLDER / f"{name}.in"
        versions = {k: v for k, v in closure(wanted(source)).items() if k not in base}
        base.update(versions)
        lines = "".join(f"{package}=={versions[package]}\n" for package in sorted(versions))
        (FOLDER / f"{name}.txt").write_text(_HEAD.format(source=source.name) + lines)
        print(f"{name}.txt: {len(versions)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
