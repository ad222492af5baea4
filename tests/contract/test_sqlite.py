"""The embedded store keeps the contract: on a file, as two servers on one file, and in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ojs_backend_sqlite.backend import SQLiteBackend
from ojs_backend_sqlite.config import SQLiteConfig
from ojs_core.backend import Backend
from ojs_core.testing.contract import BackendContract


class TestFile(BackendContract):
    @pytest.fixture
    def config(self, tmp_path: Path) -> SQLiteConfig:
        # Contents are what is tested here, not what a power loss leaves of them: that takes thousands of disk flushes.
        return SQLiteConfig(path=str(tmp_path / "ojs.db"), synchronous="off")

    @pytest.fixture
    async def backend(self, config: SQLiteConfig) -> AsyncIterator[Backend]:
        backend = SQLiteBackend(config)
        await backend.open()
        yield backend
        await backend.close()

    @pytest.fixture
    async def second(self, config: SQLiteConfig, backend: Backend) -> AsyncIterator[Backend]:  # noqa: ARG002 - opens first
        second = SQLiteBackend(config)
        await second.open()
        yield second
        await second.close()

    @pytest.fixture
    def unopened(self, config: SQLiteConfig) -> Backend:
        return SQLiteBackend(config)


class TestInMemory(BackendContract):
    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        backend = SQLiteBackend(SQLiteConfig(path=":memory:"))
        await backend.open()
        yield backend
        await backend.close()

    @pytest.fixture
    def unopened(self) -> Backend:
        return SQLiteBackend(SQLiteConfig(path=":memory:"))
