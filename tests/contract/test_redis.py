"""Redis keeps the contract: on Valkey, on Redis 7, and on a cluster of three nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count

import pytest
from tests.servers.redis import RedisServer

from ojs_backend_redis.backend import RedisBackend
from ojs_backend_redis.config import RedisConfig, parse_url
from ojs_core.backend import Backend
from ojs_core.testing.contract import BackendContract

_numbers = count(1)


class OnServer(BackendContract):
    """One server for all tests of a worker process, emptied behind each."""

    kind: str

    @pytest.fixture
    def server(self, shared_redis: Callable[[str], RedisServer]) -> RedisServer:
        return shared_redis(self.kind)

    @pytest.fixture
    def make(self, server: RedisServer) -> Iterator[Callable[[], Backend]]:
        config = RedisConfig(target=parse_url(server.url), prefix=f"t{next(_numbers)}")
        yield lambda: RedisBackend(config)
        server.ask("FLUSHALL")

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


class TestValkey(OnServer):
    kind = "valkey"
