"""Where the compiled core lies: one folder per minor version of PyTorch, because its C++ interface changes with each.

Nothing here imports torch; `load` is called by code that has.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

_HERE = Path(__file__).parent


class CoreNotBuilt(ImportError):
    """The core was not built for the installed PyTorch; the text says what to install."""


def folder_for(torch_version: str) -> Path:
    """The folder of the core for `torch_version` ("2.13.0+cpu"), whether it exists or not.

    `ELARA_CORE` names another one: for developers, a build with sanitizers.
    """
    other = os.environ.get("ELARA_CORE")
    if other:
        return Path(other)
    return _HERE / ("torch_" + "_".join(torch_version.split(".")[:2]))


def built_versions() -> list[str]:
    """The minor versions of PyTorch that there is a core for, such as ["2.13"]."""
    return sorted(p.name.removeprefix("torch_").replace("_", ".") for p in _HERE.glob("torch_*") if any(p.glob("*.so")))


def load(name: str, torch_version: str) -> ModuleType:
    """Import the extension module `name` ("_client" or "_server"); torch must have been imported.

    Raises:
        CoreNotBuilt: there is no core for this PyTorch, or it does not fit the one that is running.
    """
    known = sys.modules.get(f"elara_remoting.{name}.core")
    if known is not None:
        return known
    folder = folder_for(torch_version)
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.exists():
            break
    else:
        raise CoreNotBuilt(_advice(torch_version))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        raise CoreNotBuilt(f"{_advice(torch_version)} ({error})") from error
    sys.modules[f"elara_remoting.{name}.core"] = module
    return module


def _advice(torch_version: str) -> str:
    versions = built_versions()
    if not versions:
        return (
            "the core of elara-remoting has not been built: run `pip install --no-build-isolation elara-remoting` "
            "in this environment"
        )
    wanted = " or ".join(f"torch=={version}.*" for version in versions)
    return (
        f"elara-remoting is built for {wanted}, but torch {torch_version} is installed, so no GPU can be attached: "
        f"install {wanted}, or rebuild elara-remoting with `pip install --no-build-isolation`"
    )
