"""Configures the C++ core for developers' builds beside the product: with sanitizers, for fuzzing, for clang-tidy."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def find_clang() -> str:
    """clang++, of the version whose run-time libraries lie beside it.

    Raises:
        RuntimeError: there is none; the text says what to install.
    """
    for name in ("clang++-14", "clang++"):
        found = shutil.which(name)
        if found:
            return found
    raise RuntimeError("This build needs clang and its run-time libraries: apt-get install clang libclang-rt-14-dev")


def _environment() -> dict[str, str]:
    tools = Path(sys.executable).parent
    return {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "CCACHE_SLOPPINESS": "pch_defines,time_macros",
    }


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two tests may want the same build at once."""
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def configure(name: str, compiler: str, flags: str, sanitizers: Sequence[str] = (), *options: str) -> Path:
    """Run cmake for the installed torch and return the build's folder; its products go to `products` in there."""
    import torch
    from torch.utils.cpp_extension import include_paths

    folder = ROOT / "remoting" / "build" / f"{name}-torch-{torch.__version__.split('+')[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    launcher = shutil.which("ccache")
    settings = {
        "CMAKE_BUILD_TYPE": "Developer",
        "CMAKE_CXX_FLAGS_DEVELOPER": flags,
        "CMAKE_CXX_COMPILER": compiler,
        **({"CMAKE_CXX_COMPILER_LAUNCHER": launcher} if launcher else {}),
        "ELARA_SANITIZERS": ";".join(sanitizers),
        "ELARA_PYTHON": sys.executable,
        "Python3_EXECUTABLE": sys.executable,
        "ELARA_TORCH_INCLUDES": ";".join(include_paths()),
        "ELARA_TORCH_LIB": str(Path(torch.__file__).parent / "lib"),
        "ELARA_CXX11_ABI": str(int(torch._C._GLIBCXX_USE_CXX11_ABI)),
        "ELARA_OUTPUT": str(folder / "products"),
    }
    command = ["cmake", "-G", "Ninja", str(ROOT / "remoting")]
    command += [*(f"-D{name}={value}" for name, value in settings.items()), *options]
    with _alone(folder):
        subprocess.run(command, cwd=folder, env=_environment(), check=True, stdout=subprocess.DEVNULL)
    return folder


def make(folder: Path, *targets: str) -> None:
    """Build what changed of the targets (default: all)."""
    jobs = os.environ.get("ELARA_BUILD_JOBS") or str(os.cpu_count() or 2)
    with _alone(folder):
        subprocess.run(["ninja", f"-j{jobs}", *targets], cwd=folder, env=_environment(), check=True)
