"""Builds the core with sanitizers: AddressSanitizer with UndefinedBehaviorSanitizer, and ThreadSanitizer.

Their run-time libraries are loaded into a Python that was not built with them, before anything else.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.remoting import native
from tests.remoting.fuzz import build as fuzz

SANITIZERS = {
    "address": (*fuzz.SANITIZERS, "-shared-libasan"),
    "thread": ("-fsanitize=thread", "-fno-omit-frame-pointer"),
}
_RUNTIMES = {"address": "libclang_rt.asan-x86_64.so", "thread": "libtsan.so"}
THREADS_ENVIRONMENT = {"TSAN_OPTIONS": "halt_on_error=1:exitcode=66"}
_SUPPRESSIONS = Path(__file__).with_name("thread-suppressions.txt")


def _compiler(kind: str) -> str:
    """clang, whose checks are more; but its ThreadSanitizer has no library that Python could load, and gcc's has."""
    return native.find_clang() if kind == "address" else shutil.which("g++") or "g++"


def build(kind: str) -> Path:
    """Build what changed of the whole core; returns the folder of its libraries. `kind`: address, thread."""
    folder = native.configure(f"sanitize-{kind}", _compiler(kind), "-O1 -g1", SANITIZERS[kind])
    native.make(folder)
    return folder / "products"


def build_server() -> Path:
    """Build the device server's module of what the fuzz targets are made of; returns its folder."""
    folder = fuzz.configure()
    native.make(folder, "sanitized_server")
    return folder / "products" / "sanitized"


def build_link_threads() -> Path:
    """Build the two ends of a session's byte stream, without torch, for ThreadSanitizer; returns the executable."""
    folder = native.configure(
        "sanitize-link", native.find_clang(), "-O1 -g1", SANITIZERS["thread"], "-DELARA_LINK_THREADS=ON"
    )
    native.make(folder, "link_threads")
    return folder / "link_threads"


def environment(kind: str, core: Path, reports: Path) -> dict[str, str]:
    """What a Python process needs to load the core that was built, on top of this one's environment.

    Each process that finds something writes a file `reports`.<pid>, and ends.
    """
    # The C++ library has to be there first, or a sanitizer does not find what it wraps of it (__cxa_throw).
    libraries = [_library(kind, name) for name in (_RUNTIMES[kind], "libstdc++.so.6")]
    options = f"log_path={reports}:halt_on_error=1"
    quiet = "ignore_noninstrumented_modules=1:report_signal_unsafe=0"
    return {
        "LD_PRELOAD": ":".join(libraries),
        "ELARA_CORE": str(core),
        "OMP_NUM_THREADS": "1",
        # torch and Python keep what they allocate once; addresses of devices lie in memory that nobody may touch.
        "ASAN_OPTIONS": f"{options}:detect_leaks=0:allocator_may_return_null=1:handle_segv=1",
        "UBSAN_OPTIONS": f"{options}:print_stacktrace=1",
        # What Python and torch do by themselves is not looked at; their locks are seen.
        "TSAN_OPTIONS": f"{options}:suppressions={_SUPPRESSIONS}:{quiet}",
    }


def _library(kind: str, name: str) -> str:
    asked = [_compiler(kind), f"-print-file-name={name}"]
    found = subprocess.run(asked, capture_output=True, text=True, check=True)
    path = Path(found.stdout.strip())
    if not path.is_absolute():
        raise RuntimeError(f"{name} was not found: apt-get install clang libclang-rt-14-dev g++")
    return str(path.resolve())
