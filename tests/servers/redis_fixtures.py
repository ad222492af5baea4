"""Servers that the tests of one process share: each kind is started once, when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from tests.servers.redis import RedisCluster, RedisServer


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[Callable[[str], RedisServer]]:
    """Return the running server of a kind: `shared_redis("valkey")`."""
    servers: dict[str, RedisServer] = {}
    with ExitStack() as stack:

        def get(kind: str) -> RedisServer:
            if kind not in servers:
                servers[kind] = stack.enter_context(RedisServer(kind))
            return servers[kind]

        yield get


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[RedisCluster]:
    """Return a running cluster of three nodes."""
    with RedisCluster() as cluster:
        yield cluster
