"""Starting and stopping the servers under test, each a child process with a store of its own."""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ojs_core.testing.conformance.client import HEALTH_PATH, Client, TransportError

READY_MAX_S = 120.0
"""Many servers that start at once on few processors take a while; one that ends is noticed at once."""
HEALTH_TIMEOUT_S = 5.0
STOP_MAX_S = 10.0
POLL_EVERY_S = 0.05
LOG_SHOWN_CHARS_MAX = 4000
HOST = "127.0.0.1"
_OK = 200
_kept = contextlib.ExitStack()
atexit.register(_kept.close)


class ServerStartError(RuntimeError):
    """A server ended, or did not answer its health check in time; the message has the end of its output."""


@dataclass(frozen=True, slots=True)
class RemoteServer:
    """A server that somebody else runs."""

    base_url: str

    def death(self, within_s: float = 0) -> str | None:  # noqa: ARG002 - the protocol's signature
        """Return None: nothing is known about its process."""
        return None

    def log_position(self) -> int:
        """Return 0: its log is not ours to read."""
        return 0

    def log_since(self, position: int) -> str:  # noqa: ARG002 - the protocol's signature
        """Return nothing."""
        return ""


class Server:
    """One child process that serves HTTP on a loopback port."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], port: int, log_path: Path) -> None:
        """Start the process. What it writes to stdout and stderr goes to `log_path`. Raises `ServerStartError`."""
        self.base_url = f"http://{HOST}:{port}"
        self._log_path = log_path
        with log_path.open("wb") as log:
            try:
                # A session of its own: an interrupt typed at the terminal reaches us alone, who stop it in order.
                self._process = subprocess.Popen(  # noqa: S603 - the command is what the user asked to run
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            except OSError as error:
                raise ServerStartError(f"cannot run {shlex.join(command)}: {error}") from error

    def wait_ready(self, deadline: float) -> None:
        """Poll the health check until it answers 200.

        Raises `ServerStartError` at `deadline`, a time on `time.perf_counter`, or when the process ends.
        """
        client = Client(self.base_url, timeout_s=HEALTH_TIMEOUT_S)
        seen = "nothing"
        while (death := self.death()) is None and time.perf_counter() < deadline:
            try:
                status = client.send("GET", HEALTH_PATH).status
            except TransportError as error:
                seen = str(error)
            else:
                if status == _OK:
                    return
                seen = f"status {status}"
            time.sleep(POLL_EVERY_S)
        reason = death or f"not ready in time, GET {HEALTH_PATH} gave {seen}"
        raise ServerStartError(f"the server for {self.base_url} did not start: {reason}\n{self.log_since(0)}")

    def death(self, within_s: float = 0) -> str | None:
        """Return how the process ended, or None if it still runs after that many seconds."""
        try:
            code = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None
        return f"the server at {self.base_url} (process {self._process.pid}) ended with code {code}"

    def log_position(self) -> int:
        """Return the size of the log in bytes."""
        return self._log_path.stat().st_size

    def log_since(self, position: int) -> str:
        """Return the end of what was logged after `position`, at most `LOG_SHOWN_CHARS_MAX` characters."""
        with self._log_path.open("rb") as log:
            log.seek(position)
            return log.read().decode("utf-8", "replace")[-LOG_SHOWN_CHARS_MAX:]

    def ask_to_stop(self) -> None:
        """Send SIGTERM, unless the process has ended."""
        self._process.terminate()

    def stop(self, deadline: float) -> None:
        """Wait for the process to end until `deadline` on `time.perf_counter`, then kill it."""
        try:
            self._process.wait(max(0.0, deadline - time.perf_counter()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def running_servers(command: str, count: int, extra_environment: Mapping[str, str]) -> Iterator[list[Server]]:
    """Start `count` servers, wait until all are ready, and stop them at the end, whatever happens in between.

    `command` is split like a shell would, and run without one. Each process inherits our environment, with the address,
    test mode and SQLite file of its own on top, and then `extra_environment`, in whose values `{n}` is the server's
    number from 0. Raises `ServerStartError`, also for a command that cannot be split or run.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ServerStartError(f"cannot split the command {command!r}: {error}") from error
    if not words:
        raise ServerStartError("the command to start the server is empty")
    folder = Path(tempfile.mkdtemp(prefix="ojs-conformance-"))
    servers: list[Server] = []
    try:
        for number, port in enumerate(free_ports(count)):
            environment = {**os.environ, **server_environment(number, port, folder, extra_environment)}
            servers.append(Server(words, environment, port, folder / f"server-{number}.log"))
        deadline = time.perf_counter() + READY_MAX_S
        for server in servers:
            server.wait_ready(deadline)
        yield servers
    finally:
        for server in servers:
            server.ask_to_stop()
        deadline = time.perf_counter() + STOP_MAX_S
        for server in servers:
            server.stop(deadline)
        shutil.rmtree(folder, ignore_errors=True)


def server_environment(number: int, port: int, folder: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that server `number` gets on top of our own environment."""
    own = {
        "OJS_HOST": HOST,
        "OJS_PORT": str(port),
        "OJS_TEST_MODE": "true",
        "OJS_LOG_LEVEL": "warning",
        "OJS_SQLITE_PATH": str(folder / f"server-{number}.db"),
    }
    return {**own, **{name: value.replace("{n}", str(number)) for name, value in extra.items()}}


def free_ports(count: int) -> list[int]:
    """Return that many different loopback ports on which nobody listens.

    On Linux they are kept until this process ends: the system chooses them for nobody else, be it before a server
    listens there or between its end and its next start. A server may, as it sets SO_REUSEADDR, which all but a few do.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((HOST, 0))
        if sys.platform == "linux":
            _kept.push(stack.pop_all())
        return [opened.getsockname()[1] for opened in sockets]
