"""The PostgreSQL backend against the reference backend, command by command."""

from __future__ import annotations

import pytest

from ojs_backend_postgres.backend import PostgresBackend
from ojs_backend_postgres.config import PostgresConfig
from ojs_core.testing.model import model_test_case

_found: dict[str, PostgresConfig] = {}


@pytest.fixture(scope="module", autouse=True)
def _store(postgres) -> None:
    _found["config"] = PostgresConfig(url=postgres.url, pool_size=4)


TestPostgres = model_test_case(lambda: PostgresBackend(_found["config"]), examples=25)
