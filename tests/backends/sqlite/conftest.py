"""A database file for each test, and backends on it that are closed at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from ojs_backend_sqlite.backend import SQLiteBackend
from ojs_backend_sqlite.config import SQLiteConfig

Opener = Callable[..., Awaitable[SQLiteBackend]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ojs.db"


@pytest.fixture
async def open_backend(path: Path) -> AsyncIterator[Opener]:
    """Open one more backend on the file of the test; its settings may be overridden."""
    async with AsyncExitStack() as stack:

        async def open_one(**settings: Any) -> SQLiteBackend:
            backend = SQLiteBackend(SQLiteConfig(**{"path": str(path), **settings}))
            await backend.open()
            stack.push_async_callback(backend.close)
            return backend

        yield open_one


@pytest.fixture
async def backend(open_backend: Opener) -> SQLiteBackend:
    return await open_backend()
