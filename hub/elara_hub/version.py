"""The control plane's version, as installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("elara-hub")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "0+checkout"


__version__ = _installed()
