"""How tests start Debian's Chromium; Playwright's own download is not needed."""

from __future__ import annotations

from typing import Any

LAUNCH: dict[str, Any] = {
    "executable_path": "/usr/bin/chromium",
    "args": [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ],
}
"""Keywords for Playwright's `chromium.launch`, of the synchronous and the asynchronous kind alike."""
