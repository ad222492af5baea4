"""The NATS store keeps the contract: on one server, as two job servers on one stream."""

from __future__ import annotations

import pytest
from tests.servers.nats_fixtures import NATSOpener

from ojs_backend_nats.backend import NATSBackend
from ojs_backend_nats.config import NATSConfig
from ojs_core.backend import Backend
from ojs_core.testing.contract import BackendContract


class TestNATS(BackendContract):
    @pytest.fixture
    async def backend(self, open_nats: NATSOpener) -> Backend:
        return await open_nats()

    @pytest.fixture
    async def second(self, open_nats: NATSOpener, backend: Backend) -> Backend:  # noqa: ARG002 - opens first
        return await open_nats()

    @pytest.fixture
    def unopened(self, nats_config: NATSConfig) -> Backend:
        return NATSBackend(nats_config)
