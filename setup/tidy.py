"""clang-tidy over the C++ core, two files at a time, with what .clang-tidy at the root says.

.venv/bin/python setup/tidy.py [FILE ...]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "remoting" / "csrc"


def check(program: str, folder: Path, file: Path) -> tuple[Path, str]:
    """A file, and what clang-tidy has to say of it."""
    done = subprocess.run(
        [program, "-p", str(folder), "--quiet", "--extra-arg=-Wno-unknown-warning-option", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    return file, "" if done.returncode == 0 else (done.stdout + done.stderr).strip()


def main(arguments: list[str]) -> int:
    """Exit status 1 when something was found."""
    program = shutil.which("clang-tidy-14") or shutil.which("clang-tidy")
    if program is None:
        print("clang-tidy is not installed: apt-get install clang-tidy", file=sys.stderr)
        return 1
    sys.path.insert(0, str(ROOT))
    from tests.remoting import native

    # The fuzz targets and what else is no product is in the sources too, and needs the same options.
    folder = native.configure("tidy", native.find_clang(), "-O1", (), "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
    native.make(folder, "elara_operators")
    files = [Path(a).resolve() for a in arguments] or sorted(
        file for file in SOURCES.rglob("*.cpp") if file.parent.name not in ("fuzz", "sanitize")
    )
    begun, found = time.monotonic(), 0
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        for file, said in pool.map(lambda file: check(program, folder, file), files):
            if said:
                found += 1
                print(f"{file.relative_to(ROOT)}\n{said}\n", flush=True)
    print(f"{len(files)} files in {time.monotonic() - begun:.0f} s, {found} with findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
