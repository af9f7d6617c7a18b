"""Can kernels of this environment use a device? Found out without importing torch, which takes seconds."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

InstalledVersion = Callable[[str], str]


def why_no_devices(
    core_folder: Path | None = None,
    installed_version: InstalledVersion = metadata.version,
    image_note: str = "",
) -> str | None:
    """A sentence that says why kernels cannot see devices here, with what to do; None when they can.

    `core_folder` holds the built cores, one folder a minor version of torch; found by itself when left out.
    `image_note` is what the workspace's image says of itself where nothing can be attached (``ELARA_ATTACH_NOTE``).
    """
    if image_note:
        return image_note
    try:
        version = installed_version("torch")
    except metadata.PackageNotFoundError:
        return (
            "PyTorch is not installed in this environment, so there is nothing to attach a GPU to. "
            "Open a workspace with a PyTorch image, or install the version of PyTorch that this platform supports."
        )
    built = built_versions(core_folder if core_folder is not None else _core_folder())
    if not built:
        return (
            "Elara's core is not built in this environment, so kernels cannot see devices. "
            "Reinstall the package elara-remoting, or open a workspace with one of the catalogue's images."
        )
    minor = _minor(version)
    if minor not in built:
        return (
            f"PyTorch {version} is installed here, and Elara's core is built for {' and '.join(sorted(built))}. "
            f"Install torch=={sorted(built)[-1]}.* and restart the kernel, or open a workspace with one of the "
            "catalogue's images."
        )
    return None


def built_versions(core_folder: Path | None) -> set[str]:
    """The minor versions of torch (`2.13`) that a core was built for: the folders `torch_2_13` that hold a library."""
    if core_folder is None or not core_folder.is_dir():
        return set()
    found = set()
    for folder in core_folder.iterdir():
        match = re.fullmatch(r"torch_(\d+)_(\d+)", folder.name)
        if match and any(folder.glob("*.so")):
            found.add(f"{match.group(1)}.{match.group(2)}")
    return found


def _core_folder() -> Path | None:
    spec = importlib.util.find_spec("elara_remoting")
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) / "_core" if places else None


def _minor(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])
