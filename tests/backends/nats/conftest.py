"""A server of the test's own, for tests that do it harm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.servers.nats import NatsServer

from ojs_backend_nats.config import NATSConfig


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats").start()
    yield server
    server.stop()


@pytest.fixture
def own_config(own_server: NatsServer, nats_config: NATSConfig) -> NATSConfig:
    """Settings for that server."""
    return msgspec.structs.replace(nats_config, servers=(own_server.url,))
