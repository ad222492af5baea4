"""The PostgreSQL backend keeps the contract: on a real server, and as two servers of one schema."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ojs_backend_postgres.backend import PostgresBackend
from ojs_backend_postgres.config import PostgresConfig
from ojs_core.backend import Backend
from ojs_core.testing.contract import BackendContract


class TestPostgres(BackendContract):
    @pytest.fixture
    async def backend(self, postgres_config: PostgresConfig) -> AsyncIterator[Backend]:
        backend = PostgresBackend(postgres_config)
        await backend.open()
        await backend.reset()
        yield backend
        await backend.close()

    @pytest.fixture
    async def second(self, postgres_config: PostgresConfig, backend: Backend) -> AsyncIterator[Backend]:  # noqa: ARG002 - opens first
        second = PostgresBackend(postgres_config)
        await second.open()
        yield second
        await second.close()

    @pytest.fixture
    def unopened(self, postgres_config: PostgresConfig) -> Backend:
        return PostgresBackend(postgres_config)
