"""Settings that make no sense stop the start with a message that names the variable and what it may be."""

from __future__ import annotations

import pytest

from ojs_backend_postgres.config import PostgresConfig
from ojs_core.errors import SettingsError
from ojs_core.registry import backend_settings, load_backend


def test_without_variables_the_defaults_hold() -> None:
    assert PostgresConfig.from_environ({}) == PostgresConfig()


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("DATABASE_URL", "mysql://secret@host/db", "a URL such as postgresql://"),
        ("DATABASE_URL", "host=secret", "a URL such as postgresql://"),
        ("OJS_POSTGRES_LISTEN_URL", "secret", "a URL such as postgresql://"),
        ("OJS_POSTGRES_SCHEMA", "Jobs", "a-z, 0-9 and _"),
        ("OJS_POSTGRES_SCHEMA", "a;drop", "a-z, 0-9 and _"),
        ("OJS_POSTGRES_SCHEMA", "pg_jobs", "a-z, 0-9 and _"),
        ("OJS_POSTGRES_SCHEMA", "x" * 41, "at most 40"),
        ("OJS_POSTGRES_POOL_SIZE", "0", "from 1 to 200"),
        ("OJS_POSTGRES_TIMEOUT_MS", "soon", "from 100 to 600000"),
        ("OJS_POSTGRES_POOLER", "perhaps", "true or false"),
        ("OJS_POSTGRES_MIGRATE", "sometimes", "one of auto, never"),
        ("OJS_POSTGRES_DURABILITY", "some", "one of server, on"),
    ],
)
def test_a_bad_value_is_named(variable: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        PostgresConfig.from_environ({variable: value})
    assert variable in str(caught.value)
    assert expected in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_backend_is_found_by_its_name() -> None:
    backend = load_backend("postgres", {"OJS_POSTGRES_DURABILITY": "off", "OJS_POSTGRES_POOLER": "yes"})
    assert (backend.capabilities.name, backend.capabilities.durable) == ("postgres", False)
    assert not backend.capabilities.push_wakeups
    assert {setting.variable for setting in backend_settings("postgres") if setting.secret} == {
        "DATABASE_URL",
        "OJS_POSTGRES_LISTEN_URL",
    }


def test_a_pooler_with_a_way_around_it_pushes() -> None:
    backend = load_backend(
        "postgres", {"OJS_POSTGRES_POOLER": "true", "OJS_POSTGRES_LISTEN_URL": "postgresql://localhost/x"}
    )
    assert backend.capabilities.push_wakeups
