"""Redis keeps the contract: on Valkey, on the Redis of the system, and on a cluster of three nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count

import pytest
from tests.servers.redis import RedisCluster, RedisServer

from ojs_backend_redis.backend import RedisBackend
from ojs_backend_redis.config import RedisConfig, parse_url
from ojs_backend_redis.spread import SpreadBackend
from ojs_core.backend import Backend
from ojs_core.testing.contract import BackendContract

_numbers = count(1)


class OnRedis(BackendContract):
    """Each test has a prefix of its own; the server is emptied behind it."""

    @pytest.fixture
    def make(self) -> Callable[[], Backend]:
        """Override: make a backend that nobody has opened yet, always on the same store."""
        raise NotImplementedError

    @pytest.fixture
    async def backend(self, make: Callable[[], Backend]) -> AsyncIterator[Backend]:
        backend = make()
        await backend.open()
        yield backend
        await backend.close()

    @pytest.fixture
    async def second(self, make: Callable[[], Backend]) -> AsyncIterator[Backend]:
        second = make()
        await second.open()
        yield second
        await second.close()

    @pytest.fixture
    def unopened(self, make: Callable[[], Backend]) -> Backend:
        return make()


def maker(url: str) -> Callable[[], Backend]:
    config = RedisConfig(target=parse_url(url), prefix=f"t{next(_numbers)}", timeout_ms=60_000)
    return lambda: RedisBackend(config)


class TestValkey(OnRedis):
    @pytest.fixture
    def make(self, shared_redis: Callable[[str], RedisServer]) -> Iterator[Callable[[], Backend]]:
        server = shared_redis("valkey")
        yield maker(server.url)
        server.ask("FLUSHALL")


class TestRedis(OnRedis):
    @pytest.fixture
    def make(self, shared_redis: Callable[[str], RedisServer]) -> Iterator[Callable[[], Backend]]:
        server = shared_redis("redis")
        yield maker(server.url)
        server.ask("FLUSHALL")


class TestCluster(OnRedis):
    @pytest.fixture
    def make(self, shared_cluster: RedisCluster) -> Iterator[Callable[[], Backend]]:
        yield maker(shared_cluster.url)
        shared_cluster.flush()


class TestShards(OnRedis):
    """Queues are spread over the nodes of a cluster."""

    @pytest.fixture
    def make(self, shared_cluster: RedisCluster) -> Iterator[Callable[[], Backend]]:
        config = RedisConfig(
            target=parse_url(shared_cluster.url), prefix=f"t{next(_numbers)}", shards=3, timeout_ms=60_000
        )
        yield lambda: SpreadBackend(config)
        shared_cluster.flush()
