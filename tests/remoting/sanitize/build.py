"""Builds with sanitizers: the core with AddressSanitizer and UndefinedBehaviorSanitizer, or with ThreadSanitizer, and
both ends of a session's byte stream with the latter.

A sanitizer's run-time library is loaded into a Python that was not built with it, before anything else.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.remoting import native
from tests.remoting.fuzz import build as fuzz

THREADS = ("-fsanitize=thread", "-fno-omit-frame-pointer")
THREADS_ENVIRONMENT = {"TSAN_OPTIONS": "halt_on_error=1:exitcode=66"}


def build() -> Path:
    """Build what changed of the whole core; returns the folder of its libraries."""
    sanitizers = (*fuzz.SANITIZERS, "-shared-libasan")
    folder = native.configure("sanitize-address", native.find_clang(), "-O1 -g1", sanitizers)
    native.make(folder)
    return folder / "products"


def build_threads() -> Path:
    """Build what changed of the whole core for ThreadSanitizer; returns the folder of its libraries."""
    folder = native.configure("sanitize-threads", native.find_clang(), "-O1 -g1", THREADS)
    native.make(folder)
    return folder / "products"


def build_server() -> Path:
    """Build the device server's module of what the fuzz targets are made of; returns its folder."""
    folder = fuzz.configure()
    native.make(folder, "sanitized_server")
    return folder / "products" / "sanitized"


def build_link_threads() -> Path:
    """Build the two ends of a session's byte stream, without torch, for ThreadSanitizer; returns the executable."""
    folder = native.configure("sanitize-link", native.find_clang(), "-O1 -g1", THREADS, "-DELARA_LINK_THREADS=ON")
    native.make(folder, "link_threads")
    return folder / "link_threads"


def environment(core: Path, reports: Path) -> dict[str, str]:
    """What a Python process needs to load the core that was built, on top of this one's environment.

    Each process that finds something writes a file `reports`.<pid>, and ends.
    """
    # The C++ library has to be there first, or a sanitizer does not find what it wraps of it (__cxa_throw).
    libraries = [_library(name) for name in ("libclang_rt.asan-x86_64.so", "libstdc++.so.6")]
    options = f"log_path={reports}:halt_on_error=1"
    return {
        "LD_PRELOAD": ":".join(libraries),
        "ELARA_CORE": str(core),
        "OMP_NUM_THREADS": "1",
        # torch and Python keep what they allocate once.
        "ASAN_OPTIONS": f"{options}:detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": f"{options}:print_stacktrace=1",
    }


def threads_environment(core: Path, reports: Path) -> dict[str, str]:
    """The same for ThreadSanitizer, of which a process may write several reports.

    gcc's library serves what clang compiled: clang's own, of version 14, ends any program that it is loaded into.
    """
    libraries = [_library(name, "g++") for name in ("libtsan.so", "libstdc++.so.6")]
    return {
        "LD_PRELOAD": ":".join(libraries),
        "ELARA_CORE": str(core),
        "OMP_NUM_THREADS": "1",
        # What Python and torch do by themselves is not looked at; their locks are seen.
        "TSAN_OPTIONS": f"log_path={reports}:ignore_noninstrumented_modules=1:report_signal_unsafe=0:die_after_fork=0",
    }


def _library(name: str, compiler: str | None = None) -> str:
    asked = [compiler or native.find_clang(), f"-print-file-name={name}"]
    found = subprocess.run(asked, capture_output=True, text=True, check=True)
    path = Path(found.stdout.strip())
    if not path.is_absolute():
        raise RuntimeError(f"{name} was not found: apt-get install clang libclang-rt-14-dev g++")
    return str(path.resolve())
