"""Redis against the reference backend, command by command."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from tests.backends.redis.integrity import check_integrity, shards_of
from tests.servers.redis import RedisServer

from ojs_backend_redis.backend import RedisBackend
from ojs_backend_redis.config import RedisConfig, parse_url
from ojs_backend_redis.spread import SpreadBackend
from ojs_core.testing.model import model_test_case

_urls: list[str] = []


def _config(prefix: str, shards: int = 1) -> RedisConfig:
    return RedisConfig(target=parse_url(_urls[0]), prefix=f"{prefix}-{os.getpid()}", shards=shards)


class CheckedBackend(RedisBackend):
    """At the end of each sequence its indexes are compared with its records."""

    async def close(self) -> None:
        await check_integrity(self)
        await super().close()


class CheckedSpreadBackend(SpreadBackend):
    """The same, shard by shard; and nothing is left of commits over several of them."""

    async def close(self) -> None:
        for shard in shards_of(self):
            await check_integrity(shard)
        await super().close()


TestRedis = model_test_case(lambda: CheckedBackend(_config("model")))
TestShards = model_test_case(lambda: CheckedSpreadBackend(_config("shards", 3)), claims_in_order=False)


@pytest.fixture(autouse=True)
def _server(shared_redis: Callable[[str], RedisServer]) -> None:
    _urls[:] = [shared_redis("valkey").url]
