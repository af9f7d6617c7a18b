"""The front end's pure modules, by node's own test runner."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .jupyter_process import EXTENSION


def test_words_numbers_and_choices() -> None:
    lib = EXTENSION / "lib"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if not lib.exists():
        # An extension that came from the cache of builds has only the bundle; its modules are compiled here.
        for command in (["jlpm", "install", "--immutable"], ["jlpm", "build:lib"]):
            built = subprocess.run(command, cwd=EXTENSION, capture_output=True, text=True, env=environment)
            assert built.returncode == 0, built.stdout + built.stderr
    done = subprocess.run(
        ["node", "--test", *map(str, (Path(__file__).parent / "frontend").glob("*.test.mjs"))],
        capture_output=True,
        text=True,
        env={**environment, "ELARA_LIB": lib.as_uri()},
    )
    assert done.returncode == 0, done.stdout + done.stderr
