"""Builds the fuzz targets with clang, libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TARGETS = ("attachment", "replies", "session")
SANITIZERS = (
    "-fsanitize=address,undefined",
    # torch's own types have no type information that would reach across its libraries
    "-fno-sanitize=vptr,function",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
)
ENVIRONMENT = {
    # torch keeps what it allocates once for as long as the process lives
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:detect_odr_violation=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "OMP_NUM_THREADS": "1",
}


def find_clang() -> str:
    """clang++, of the version whose libFuzzer lies beside it.

    Raises:
        RuntimeError: there is none; the text says what to install.
    """
    for name in ("clang++-14", "clang++"):
        found = shutil.which(name)
        if found:
            return found
    raise RuntimeError("Fuzzing needs clang and its run-time libraries: apt-get install clang libclang-rt-14-dev")


def build() -> Path:
    """Build what changed and return the folder of the executables `fuzz_<target>`."""
    import torch
    from torch.utils.cpp_extension import include_paths

    folder = ROOT / "remoting" / "build" / f"fuzz-torch-{torch.__version__.split('+')[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    library = Path(torch.__file__).parent / "lib"
    tools = Path(sys.executable).parent
    launcher = shutil.which("ccache")
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "CCACHE_SLOPPINESS": "pch_defines,time_macros",
    }
    subprocess.run(
        [
            "cmake",
            "-G",
            "Ninja",
            str(ROOT / "remoting"),
            "-DELARA_FUZZ=ON",
            "-DCMAKE_BUILD_TYPE=Fuzz",
            "-DCMAKE_CXX_FLAGS_FUZZ=-O1 -g1",
            f"-DCMAKE_CXX_COMPILER={find_clang()}",
            *([f"-DCMAKE_CXX_COMPILER_LAUNCHER={launcher}"] if launcher else []),
            f"-DELARA_SANITIZERS={';'.join(SANITIZERS)}",
            f"-DELARA_PYTHON={sys.executable}",
            f"-DPython3_EXECUTABLE={sys.executable}",
            f"-DELARA_TORCH_INCLUDES={';'.join(include_paths())}",
            f"-DELARA_TORCH_LIB={library}",
            f"-DELARA_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
            f"-DELARA_OUTPUT={folder / 'products'}",
        ],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    jobs = os.environ.get("ELARA_BUILD_JOBS") or str(os.cpu_count() or 2)
    subprocess.run(
        ["ninja", f"-j{jobs}", *(f"fuzz_{name}" for name in TARGETS)], cwd=folder, env=environment, check=True
    )
    return folder
