"""Backends on Redis servers: the one that tests share, or one of a test's own that it may ill-treat."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from itertools import count
from typing import Any

import pytest
from tests.servers.redis import RedisServer

from ojs_backend_redis.backend import RedisBackend
from ojs_backend_redis.config import RedisConfig, parse_url

MakeBackend = Callable[..., Awaitable[RedisBackend]]
_numbers = count(1)


@pytest.fixture
def shared(shared_redis: Callable[[str], RedisServer]) -> Iterator[RedisServer]:
    server = shared_redis("valkey")
    yield server
    server.ask("FLUSHALL")


@pytest.fixture
def make_server() -> Iterator[Callable[..., RedisServer]]:
    """Start a server of the test's own: `make_server("redis", "--appendonly", "yes")`."""
    with ExitStack() as stack:

        def make(kind: str = "valkey", *options: str, **settings: Any) -> RedisServer:
            return stack.enter_context(RedisServer(kind, options, **settings))

        yield make


@pytest.fixture
async def make_backend() -> AsyncIterator[MakeBackend]:
    """Open a backend on a URL; the settings are those of `RedisConfig`, the prefix by default one of its own."""
    async with AsyncExitStack() as stack:

        async def make(url: str, **settings: Any) -> RedisBackend:
            config = RedisConfig(target=parse_url(url), **{"prefix": f"s{next(_numbers)}", **settings})
            backend = RedisBackend(config)
            stack.push_async_callback(backend.close)
            await backend.open()
            return backend

        yield make


@pytest.fixture
async def backend(shared: RedisServer, make_backend: MakeBackend) -> RedisBackend:
    return await make_backend(shared.url)
