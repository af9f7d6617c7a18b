"""No file of the remoting core over 400 lines: one that is has more than one reason to change.

.venv/bin/python setup/sizes.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("remoting/csrc", "remoting/elara_remoting")
MOST = 400


def main() -> int:
    """Exit status 1 when a file is too long."""
    files = [f for folder in FOLDERS for f in (ROOT / folder).rglob("*") if f.suffix in (".cpp", ".h", ".py")]
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    for file, lines in sorted(lengths.items()):
        if lines > MOST:
            print(f"{file.relative_to(ROOT)} has {lines} lines; split it by concern ({MOST} at most).")
    return 1 if max(lengths.values()) > MOST else 0


if __name__ == "__main__":
    sys.exit(main())
