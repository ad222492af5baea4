"""Backends on a schema that the test empties first, or on a server of the test's own; all closed at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from tests.servers.postgres import PostgresServer

from ojs_backend_postgres.backend import PostgresBackend
from ojs_backend_postgres.config import PostgresConfig

Opener = Callable[..., Awaitable[PostgresBackend]]


@pytest.fixture
async def open_backend(postgres_config: PostgresConfig) -> AsyncIterator[Opener]:
    """Open one more backend on the shared server; its settings may be overridden."""
    async with AsyncExitStack() as stack:

        async def open_one(**settings: Any) -> PostgresBackend:
            backend = PostgresBackend(msgspec.structs.replace(postgres_config, **settings))
            stack.push_async_callback(backend.close)
            await backend.open()
            return backend

        yield open_one


@pytest.fixture
async def backend(open_backend: Opener) -> PostgresBackend:
    backend = await open_backend()
    await backend.reset()
    return backend


@pytest.fixture
def own_server(postgres_binaries: Path) -> Iterator[PostgresServer]:
    """A server for this test alone, as durable as it is by default."""
    server = PostgresServer(postgres_binaries)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
async def connect(postgres_config: PostgresConfig) -> AsyncIterator[Callable[..., Awaitable[asyncpg.Connection]]]:
    """Make connections of the test's own, as an application would."""
    async with AsyncExitStack() as stack:

        async def make(url: str = postgres_config.url) -> asyncpg.Connection:
            connection = await asyncpg.connect(url)
            stack.push_async_callback(connection.close, timeout=5)
            return connection

        yield make


@pytest.fixture
async def sql(connect: Callable[..., Awaitable[asyncpg.Connection]]) -> asyncpg.Connection:
    return await connect()
