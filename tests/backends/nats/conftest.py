"""A server of the test's own, for tests that do it harm, and what a client does then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.servers.nats import NatsServer

from ojs_backend_nats.config import NATSConfig
from ojs_core.errors import BackendUnavailableError

PATIENCE_S = 60


async def recovered(call: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat a call, as a client told to retry does, until it is served."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await call()
            except BackendUnavailableError:
                await asyncio.sleep(0)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats").start()
    yield server
    server.stop()


@pytest.fixture
def own_config(own_server: NatsServer, nats_config: NATSConfig) -> NATSConfig:
    """Settings for that server."""
    return msgspec.structs.replace(nats_config, servers=(own_server.url,))
