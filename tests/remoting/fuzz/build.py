"""Builds the fuzz targets with clang, libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

from pathlib import Path

from tests.remoting import native

TARGETS = ("attachment", "hello", "replies", "session")
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


def configure() -> Path:
    """The build's folder, ready to make targets in."""
    return native.configure("fuzz", native.find_clang(), "-O1 -g1", SANITIZERS, "-DELARA_FUZZ=ON")


def build() -> Path:
    """Build what changed and return the folder of the executables `fuzz_<target>`."""
    folder = configure()
    native.make(folder, *(f"fuzz_{name}" for name in TARGETS))
    return folder
