"""The `ojs-server` command in processes of its own, and a client that knows what it does not know."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.crash.history import Store

PATIENCE_S = 60
"""Longest wait for anything that is bound to happen; a busy machine is slow, a hanging server never answers."""
LISTENING = re.compile(r"Listening on http://127\.0\.0\.1:(\d+)")


class Server:
    """The command on one database file, started and ended as often as a test likes; each time on a new port."""

    def __init__(
        self,
        path: Path,
        *,
        prefix: Sequence[str] = (),
        **variables: object,
    ) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("OJS_")}
        given = {"OJS_PORT": 0, "OJS_SQLITE_PATH": path, **variables}
        self._environ = environ | {name: str(value) for name, value in given.items()}
        self._command = [*prefix, sys.executable, "-m", "ojs_api.cli"]
        self.path = path
        self.port: int | None = None
        self.lines: list[str] = []
        """What it logged since its last start."""
        self.up = threading.Event()
        self._process: subprocess.Popen[str] | None = None

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> Server:
        """Start, and wait until it serves."""
        self.launch()
        return self.await_up()

    def await_up(self) -> Server:
        """Wait until it serves."""
        while (match := LISTENING.search(self.next_line())) is None:
            pass
        self.port = int(match[1])
        self.up.set()
        return self

    def launch(self) -> None:
        """Start, and wait for nothing."""
        # A session of its own: an interrupt at the terminal reaches the test alone, which ends the server in order.
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            self._command,
            env=self._environ,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines = []
        self._news: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(self._process, self._news))
        self._reader.start()

    @staticmethod
    def _read(process: subprocess.Popen[str], news: queue.SimpleQueue[str | None]) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                news.put(line.rstrip())
        news.put(None)

    def next_line(self) -> str:
        """Wait for the next line of the log."""
        try:
            line = self._news.get(timeout=PATIENCE_S)
        except queue.Empty:
            line = None
        assert line is not None, "\n".join(["the server says nothing more", *self.lines])
        self.lines.append(line)
        return line

    def await_line(self, pattern: str) -> None:
        """Wait until a line since the start has matched."""
        while not any(re.search(pattern, line) for line in self.lines):
            self.next_line()

    def signal(self, number: int) -> None:
        """Send a signal to the process that was started; clients come no more."""
        self.up.clear()
        self.port = None
        self.process.send_signal(number)

    def await_end(self) -> int:
        """Wait until every process that was started has ended; return the exit code of the first."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert not self._reader.is_alive(), "a process outlives the one that was started"
        while (line := self._news.get()) is not None:
            self.lines.append(line)
        return code

    def kill(self) -> None:
        """Kill the process that was started, at once, and wait until the last of its own is gone."""
        self.signal(signal.SIGKILL)
        assert self.await_end() == -signal.SIGKILL

    def stop(self) -> None:
        """Have it drain, and wait for that."""
        self.signal(signal.SIGTERM)
        assert self.await_end() == 0, "\n".join(self.lines)

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._reader.join()

    def read_store(self, events: list[dict[str, Any]], stats: dict[str, dict[str, int]]) -> Store:
        """Return what there is, once it has stopped; a server on another store says how."""
        return Store.read(self.path, events, stats)

    def worker_pids(self) -> list[int]:
        """Return the processes that serve, where there are several."""
        rows = [line.split(maxsplit=2) for line in _ps("-A", "-ww", "-o", "pid=,ppid=,command=").splitlines()]
        ours = [row for row in rows if len(row) == 3 and int(row[1]) == self.process.pid]
        return [int(pid) for pid, _, command in ours if "spawn_main" in command]

    def resident_bytes(self) -> int:
        """Return the memory that the process has in use."""
        return int(_ps("-o", "rss=", "-p", str(self.process.pid))) * 1024


def _ps(*options: str) -> str:
    return subprocess.run(["ps", *options], capture_output=True, text=True, check=True).stdout  # noqa: S603, S607


class Answer(NamedTuple):
    """What a server said."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


class GoneError(Exception):
    """The server is down, and the client will not wait for it."""


class Client:
    """A client of whatever port the server has now, on one connection at a time."""

    def __init__(self, server: Server, *, patience_s: float = PATIENCE_S) -> None:
        self.server = server
        self._patience_s = patience_s
        self._connection: http.client.HTTPConnection | None = None

    def send(self, method: str, path: str, body: object = None) -> Answer | None:
        """Send a request once; None: no answer came, so nobody knows whether it was done.

        While the server is down it is waited for: what was never sent is not unknown.
        """
        self.begin(method, path, body)
        return self.finish()

    def begin(self, method: str, path: str, body: object = None) -> None:
        """Send a request."""
        connection = self._connect()
        payload = None if body is None else json.dumps(body)
        with contextlib.suppress(ConnectionError):
            connection.request(method, path, payload, {"Content-Type": "application/json"} if payload else {})

    def finish(self) -> Answer | None:
        """Wait for the answer to what was sent."""
        assert self._connection is not None
        try:
            with self._connection.getresponse() as response:
                body = json.loads(response.read())
        except (http.client.HTTPException, ConnectionError):
            self.close()
            return None
        if response.will_close:
            self.close()
        return Answer(response.status, body, {name.lower(): value for name, value in response.getheaders()})

    def _connect(self) -> http.client.HTTPConnection:
        give_up_at = time.monotonic() + self._patience_s
        while self._connection is None or self._connection.sock is None:
            if not self.server.up.wait(max(0.0, give_up_at - time.monotonic())):
                raise GoneError("no server came up in time")
            if self.server.port is None:
                continue
            connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE_S)
            with contextlib.suppress(ConnectionError):
                connection.connect()
                self._connection = connection
        return self._connection

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Send a request that is to succeed; return the body of the answer."""
        answer = self.send(method, path, body)
        assert answer is not None, f"{method} {path} was not answered"
        assert answer.status < 300, answer
        return answer.body

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def events(client: Client) -> list[dict[str, Any]]:
    """Return the whole event log."""
    found: list[dict[str, Any]] = []
    more = True
    while more:
        after = f"&after={found[-1]['id']}" if found else ""
        page = client.ask("GET", f"/ojs/v1/events?limit=1000{after}")
        found += page["events"]
        more = page["has_more"]
    return found
