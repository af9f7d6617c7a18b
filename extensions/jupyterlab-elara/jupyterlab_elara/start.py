"""`elara-workspace COMMAND...`: the entry point of a workspace container. Prepares the home and becomes COMMAND."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from jupyterlab_elara.home import copy_examples, make_environment

EXAMPLES = Path("/usr/share/elara/examples")


def prepare(environment: Mapping[str, str]) -> None:
    """What the image's variables name: the user's environment, the examples, Jupyter's runtime folder.

    Raises:
        OSError: the home cannot be written.
    """
    if runtime := environment.get("JUPYTER_RUNTIME_DIR"):
        Path(runtime).mkdir(parents=True, exist_ok=True, mode=0o700)
    make_environment(Path(environment["ELARA_ENVIRONMENT"]))
    copy_examples(EXAMPLES, Path(environment["HOME"]))


def main() -> None:
    """A home that cannot be written (a full disk) is told and no reason to stop: its user must get in to mend it."""
    os.umask(0o002)  # what is written in shared folders belongs to the group
    try:
        prepare(os.environ)
    except OSError as error:
        print(
            f"Elara: your home could not be prepared ({error.filename}: {error.strerror}), so what you installed "
            "yourself may be missing. Free some space in it, or ask your administrator, then restart the workspace.",
            file=sys.stderr,
            flush=True,
        )
    command = sys.argv[1:] or ["jupyterhub-singleuser"]
    try:
        os.execvp(command[0], command)  # noqa: S606 - it becomes what the container was started for
    except OSError as error:
        print(f"Elara: {command[0]} cannot be started: {error.strerror}.", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main()
