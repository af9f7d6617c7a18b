"""Builds the C++ core with CMake against the torch that is installed.

`pip install --no-build-isolation -e .` and `python setup.py build_ext --inplace` both come here. The build folder is
kept, so that a second build compiles only what changed.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class BuildCore(build_ext):
    """Runs cmake and ninja; the products go to elara_remoting/_core/torch_<major>_<minor>/."""

    def run(self) -> None:
        try:
            import torch
            from torch.utils.cpp_extension import include_paths
        except ImportError as error:
            raise SystemExit(
                "elara-remoting is compiled against the installed PyTorch, and there is none. "
                "Install it first (pip install torch), then build with pip install --no-build-isolation."
            ) from error
        minor = "_".join(torch.__version__.split(".")[:2])
        base = ROOT if self.inplace or self.editable_mode else Path(self.build_lib).resolve()
        output = base / "elara_remoting" / "_core" / f"torch_{minor}"
        build = ROOT / "build" / f"torch-{torch.__version__.split('+')[0]}"
        if os.environ.get("ELARA_CORE_BUILT") == "1" and any(output.glob("libelara_core*")):
            return  # the installer put a core there that it built from these very sources before
        build.mkdir(parents=True, exist_ok=True)
        output.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                "cmake",
                "-G",
                "Ninja",
                str(ROOT),
                "-DCMAKE_BUILD_TYPE=Release",
                f"-DELARA_PYTHON={sys.executable}",
                f"-DPython3_EXECUTABLE={sys.executable}",
                f"-DELARA_TORCH_INCLUDES={';'.join(include_paths())}",
                f"-DELARA_TORCH_LIB={Path(torch.__file__).parent / 'lib'}",
                f"-DELARA_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
                f"-DELARA_OUTPUT={build / 'products'}",
            ],
            cwd=build,
            check=True,
        )
        jobs = os.environ.get("ELARA_BUILD_JOBS") or str(os.cpu_count() or 2)
        subprocess.run(["ninja", f"-j{jobs}"], cwd=build, check=True)
        for product in sorted((build / "products").glob("*.so")):
            _put(product, output / product.name)

    def get_source_files(self) -> list[str]:
        return [str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()]

    def get_outputs(self) -> list[str]:
        return []


def _put(product: Path, place: Path) -> None:
    """Copy by atomic rename: running processes keep the file they have mapped, and nobody meets half a library."""
    if place.exists() and filecmp.cmp(product, place, shallow=False):
        return
    temporary = place.with_name(f".{place.name}.new")
    shutil.copy2(product, temporary)
    temporary.replace(place)


def requirements() -> list[str]:
    """What the package needs; of PyTorch the minor version that is installed: its C++ interface changes with each."""
    needed = ["click>=8.1", "rich>=13", "cryptography>=43", "httpx>=0.27", "websockets>=13", "psutil>=6"]
    try:
        minor = ".".join(metadata.version("torch").split(".")[:2])
    except metadata.PackageNotFoundError:
        return [*needed, "nvidia-ml-py>=13", "torch"]  # building says what is missing
    return [*needed, "nvidia-ml-py>=13", f"torch=={minor}.*"]


# The extension is named only so that setuptools runs build_ext and tags the wheel for this platform.
setup(
    ext_modules=[Extension("elara_remoting._core", sources=[])],
    cmdclass={"build_ext": BuildCore},
    install_requires=requirements(),
)
