"""One NATS server for all tests of a process, and backends on a stream of their own each."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from tests.servers.nats import NatsServer, running_cluster

from ojs_backend_nats.backend import NATSBackend
from ojs_backend_nats.config import NATSConfig

NATSOpener = Callable[..., Awaitable[NATSBackend]]


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def nats_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NatsServer]]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


@pytest.fixture
def nats_config(nats_server: NatsServer) -> NATSConfig:
    """Settings of a stream that nobody else uses."""
    return NATSConfig(servers=(nats_server.url,), stream=f"T{uuid.uuid4().hex}")


@pytest.fixture
async def open_nats(nats_config: NATSConfig) -> AsyncIterator[NATSOpener]:
    """Open one more backend on the stream of the test; its settings may be overridden. The stream is removed after."""
    async with AsyncExitStack() as stack:

        async def open_one(config: NATSConfig = nats_config, **settings: Any) -> NATSBackend:
            backend = NATSBackend(msgspec.structs.replace(config, **settings))
            stack.push_async_callback(backend.close)
            await backend.open()
            return backend

        yield open_one
