"""A tiny server that a test starts as a child process, the way the runner starts a real one.

Every GET answers how often it was asked since the last reset; `GET /env/NAME` answers that variable too, and `GET /die`
ends the process. With `STUB_NOTIFY=PORT` it reports its process id there when it is wiped; with `STUB_STUBBORN` it does
not stop on SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COUNT = {"since_reset": 0}


class Handler(BaseHTTPRequestHandler):
    """The routes."""

    def do_GET(self) -> None:
        """Answer health, environment, count and death."""
        if self.path == "/die":
            sys.stderr.write("dying as told\n")
            sys.stderr.flush()
            os._exit(7)
        COUNT["since_reset"] += self.path != "/ojs/v1/health"
        name = self.path.removeprefix("/env/")
        self._answer({"value": os.environ.get(name), "count": COUNT["since_reset"], "pid": os.getpid()})

    def do_POST(self) -> None:
        """Wipe the count."""
        COUNT["since_reset"] = 0
        if port := os.environ.get("STUB_NOTIFY"):
            with socket.create_connection(("127.0.0.1", int(port))) as connection:
                connection.sendall(str(os.getpid()).encode())
        self._answer({"reset": True})

    def _answer(self, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    if os.environ.get("STUB_STUBBORN"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("the stub starts", flush=True)  # noqa: T201 - something for the log
    ThreadingHTTPServer((os.environ["OJS_HOST"], int(os.environ["OJS_PORT"])), Handler).serve_forever()
