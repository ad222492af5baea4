"""Redis against the reference backend, command by command."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from tests.backends.redis.integrity import check_integrity
from tests.servers.redis import RedisServer

from ojs_backend_redis.backend import RedisBackend
from ojs_backend_redis.config import RedisConfig, parse_url
from ojs_core.testing.model import model_test_case

_urls: list[str] = []


class CheckedBackend(RedisBackend):
    """At the end of each sequence its indexes are compared with its records."""

    async def close(self) -> None:
        await check_integrity(self)
        await super().close()


TestRedis = model_test_case(
    lambda: CheckedBackend(RedisConfig(target=parse_url(_urls[0]), prefix=f"model-{os.getpid()}"))
)


@pytest.fixture(autouse=True)
def _server(shared_redis: Callable[[str], RedisServer]) -> None:
    _urls[:] = [shared_redis("valkey").url]
