"""`make sanitize`: the remoting suites on a core built with AddressSanitizer and UndefinedBehaviorSanitizer, then what
has threads with ThreadSanitizer: both ends of a session's byte stream without torch, and the client in Python.

    python -m tests.remoting.sanitize [--only address|threads] [pytest arguments]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from tests.remoting.sanitize import build, suites

SUITES = ("tests/remoting/server", "tests/remoting/client")
# How much memory a process has is not what it was, the core is not where another one would be looked for, and a signal
# that a test sends is reported like any other.
UNFIT = (
    "not keeps_for_a_replay and not memory_stays_flat and not another_torch and not crash_of_one_session"
    " and not client_without_memory"
)

THREADS = tuple(
    f"tests/remoting/client/test_{name}.py" for name in ("threads", "forwarding", "lifecycle", "many_devices", "resume")
)


def address(arguments: list[str]) -> bool:
    """Whether both suites pass without a report."""
    outcome = suites.run(build.build(), arguments or [*SUITES, "-k", UNFIT], seconds=7200, show=True)
    print(outcome if not outcome.clean else "AddressSanitizer and UndefinedBehaviorSanitizer: no report")
    return outcome.clean


def threads(arguments: list[str]) -> bool:
    """Whether both ends of the byte stream, and then the whole client, run under many threads without a report."""
    program = build.build_link_threads()
    done = subprocess.run([str(program), "200"], env={**os.environ, **build.THREADS_ENVIRONMENT}, check=False)
    if done.returncode != 0:
        return False
    chosen = arguments or [*THREADS, "-k", UNFIT]
    outcome = suites.run(build.build_threads(), chosen, seconds=7200, show=True, threads=True)
    print(outcome if not outcome.clean else "ThreadSanitizer: no report")
    return outcome.clean


def main() -> int:
    """Exit status 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.remoting.sanitize", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("address", "threads"), help="only this half")
    options, arguments = parser.parse_known_args()
    parts = {"address": address, "threads": threads}
    clean = [part(arguments) for name, part in parts.items() if options.only in (None, name)]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
