"""Redis against the reference backend, command by command."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from tests.servers.redis import RedisServer

from ojs_backend_redis.backend import RedisBackend
from ojs_backend_redis.config import RedisConfig, parse_url
from ojs_core.testing.model import model_test_case

_urls: list[str] = []
TestRedis = model_test_case(
    lambda: RedisBackend(RedisConfig(target=parse_url(_urls[0]), prefix=f"model-{os.getpid()}"))
)


@pytest.fixture(autouse=True)
def _server(shared_redis: Callable[[str], RedisServer]) -> None:
    _urls[:] = [shared_redis("valkey").url]
