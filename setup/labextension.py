"""Prints the path of the JupyterLab extension's wheel, which it builds when the cache does not have it.

.venv/bin/python setup/labextension.py
"""

from __future__ import annotations

import sys

import install


def main() -> int:
    """The path on standard output; exit status 1 with a sentence when the wheel cannot be built."""
    try:
        print(install.labextension_wheel())
    except install.SetupProblem as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
