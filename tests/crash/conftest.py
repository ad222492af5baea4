"""Servers that a test starts and that do not outlive it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.crash.servers import Client, Server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ojs.db"


@pytest.fixture
def make_server(path: Path) -> Iterator[Callable[..., Server]]:
    """Make a server on the file of the test, not yet started: `make_server(OJS_WORKERS=2)`."""
    with ExitStack() as stack:

        def make(**options: Any) -> Server:
            server = Server(options.pop("path", path), **options)
            stack.callback(server.end)
            return server

        yield make


@pytest.fixture
def make_client() -> Iterator[Callable[..., Client]]:
    with ExitStack() as stack:

        def make(server: Server, **options: Any) -> Client:
            client = Client(server, **options)
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server().start()


@pytest.fixture
def client(server: Server, make_client: Callable[..., Client]) -> Client:
    return make_client(server)
