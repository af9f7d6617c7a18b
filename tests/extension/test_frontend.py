"""The front end's pure modules, by node's own test runner."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .jupyter_process import EXTENSION


def test_words_numbers_and_choices() -> None:
    lib = EXTENSION / "lib"
    assert lib.exists(), f"The JupyterLab extension is not built: see {EXTENSION / 'README.md'}"
    done = subprocess.run(
        ["node", "--test", *map(str, (Path(__file__).parent / "frontend").glob("*.test.mjs"))],
        capture_output=True,
        text=True,
        env={**os.environ, "ELARA_LIB": lib.as_uri(), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
