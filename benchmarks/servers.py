"""Starts servers as processes of their own, says what they use, and stops them whatever happens."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Self

from client import Connection, get

HERE = Path(__file__).parent
SERVER = (sys.executable, "-m", "ojs_api.cli")
CEILING = (sys.executable, str(HERE / "ceiling.py"))
START_MAX_S = 30.0
STOP_MAX_S = 30.0
_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ServerFailedError(Exception):
    """A server did not start, or is gone."""


class Server:
    """A server that answers. `start_s`: from its spawn to the first healthy answer."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.start_s = 0.0
        self._log = log

    async def wait_until_healthy(self, spawned_at: float) -> None:
        """Ask until the answer is 200. Raises `ServerFailedError`."""
        while perf_counter() - spawned_at < START_MAX_S:
            self.check_alive()
            try:
                connection = await Connection.open(self.port)
                status, _ = await connection.ask(get("/ojs/v1/health"))
                connection.close()
            except OSError:
                status = 0
            if status == 200:
                self.start_s = perf_counter() - spawned_at
                return
            await asyncio.sleep(0.002)
        raise ServerFailedError(f"The server was not healthy within {START_MAX_S:g} s:\n{self.log_tail()}")

    def check_alive(self) -> None:
        """Raise `ServerFailedError` if the process has ended."""
        if self.process.poll() is not None:
            raise ServerFailedError(f"The server ended with code {self.process.returncode}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the end of what the server wrote."""
        return self._log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """End the process and wait for it."""
        self.process.terminate()
        try:
            self.process.wait(STOP_MAX_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    # What it uses; None where the system does not say (no /proc).

    def rss_mib(self) -> float | None:
        """Return the memory of its processes, in MiB."""
        if not _PROC.is_dir():
            return None
        pages = [int((_PROC / pid / "statm").read_text().split()[1]) for pid in self._pids()]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def cpu_s(self) -> float | None:
        """Return the processor time its processes have taken, in seconds (resolution 10 ms)."""
        if not _PROC.is_dir():
            return None
        return sum(_cpu_ticks(pid) for pid in self._pids()) / _TICKS_PER_S

    def _pids(self) -> list[str]:
        found = [str(self.process.pid)]
        for pid in found:
            found += (_PROC / pid / "task" / pid / "children").read_text().split()
        return found


def _cpu_ticks(pid: str) -> int:
    # The name of the process, in brackets, may contain anything.
    fields = (_PROC / pid / "stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class Servers:
    """All servers of a run, each with a port, a log and a database of its own. Leaving the context stops them."""

    def __init__(self, backend: str, environ: Mapping[str, str]) -> None:
        self._backend = backend
        # A developer's own settings must not change what is measured.
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("OJS_")}
        self._added = dict(environ)
        self._stack = ExitStack()
        self._count = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ojs-bench-")))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    async def start(self, command: tuple[str, ...] = SERVER) -> Server:
        """Start a server with an empty store, and wait until it is healthy."""
        self._count += 1
        port = _free_port()
        environ = {**self._environ, "OJS_PORT": str(port), "OJS_BACKEND": self._backend, "OJS_LOG_LEVEL": "warning"}
        if self._backend == "sqlite":
            environ["OJS_SQLITE_PATH"] = str(self.folder / f"{self._count}.db")
        elif self._backend == "postgres":
            # A new schema in the database that `--env DATABASE_URL=` names. It stays behind, to be looked at.
            environ["OJS_POSTGRES_SCHEMA"] = f"bench_{os.getpid()}_{self._count}"
        elif self._backend == "redis":
            environ["OJS_REDIS_PREFIX"] = f"bench-{os.getpid()}-{self._count}"
        environ |= self._added
        log = self.folder / f"{self._count}.log"
        spawned_at = perf_counter()
        server = Server(_spawn(command, environ, log), port, log)
        self._stack.callback(server.stop)
        await server.wait_until_healthy(spawned_at)
        return server


def _spawn(command: tuple[str, ...], environ: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603 - our own command
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the benchmark, which then stops its servers one by one
        )


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
