"""A part for the supervisor's tests that behaves as it is told to: python actor.py PORT BEHAVIOUR.

good       answers; dies       exits with 3 after a word; mute       never says that it is ready; stubborn   ignores
SIGTERM; littering  good, and leaves a child in its own session; parent     good, and starts a child in a session of
that child's own.
"""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys


class Answer(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def main() -> None:
    port, behaviour = int(sys.argv[1]), sys.argv[2]
    print(f"I am {behaviour}, and my secret is {os.environ.get('ACTOR_SECRET')}", flush=True)
    if behaviour == "dies":
        print("there is no flour in the house", flush=True)
        sys.exit(3)
    if behaviour == "mute":
        Answer.status = 503
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour in ("littering", "parent"):
        child = subprocess.Popen(["sleep", "1000"], start_new_session=behaviour == "parent")
        print(f"child {child.pid}", flush=True)
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer).serve_forever()


if __name__ == "__main__":
    main()
