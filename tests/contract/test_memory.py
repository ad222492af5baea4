"""The reference backend keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ojs_core.backend import Backend
from ojs_core.memory import MemoryBackend
from ojs_core.testing.contract import BackendContract


class TestMemory(BackendContract):
    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        backend = MemoryBackend()
        await backend.open()
        yield backend
        await backend.close()

    @pytest.fixture
    def unopened(self) -> Backend:
        return MemoryBackend()
