"""Stands for a workspace's own server in tests of the spawner: answers everything, quickly. MODE makes it misbehave."""

import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

mode = os.environ.get("MODE", "")
print("The server starts", flush=True)
if mode == "dies":
    print("Traceback: the settings in your home are broken", flush=True)
    sys.exit(7)
if mode == "hangs":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("Still reading your settings", flush=True)
    time.sleep(3600)
if mode == "hogs":
    print("Reading everything", flush=True)
    everything = [b"x" * 2**20 for _ in range(2000)]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        return


ThreadingHTTPServer(("0.0.0.0", 8888), Handler).serve_forever()
