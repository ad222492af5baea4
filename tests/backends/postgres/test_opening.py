"""Opening: what is made, by whom, and what a database that will not do is answered with."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from tests.backends.postgres.conftest import Opener
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import proxy_to

from ojs_backend_postgres.backend import PostgresBackend
from ojs_backend_postgres.config import PostgresConfig
from ojs_backend_postgres.migrations import STEPS
from ojs_backend_postgres.schema import check_version
from ojs_core.errors import BackendUnavailableError, SettingsError
from ojs_core.testing.conformance.servers import free_ports
from ojs_core.testing.contract.steps import claim_ids, insert_one

SHAPE = """
    SELECT 'column', table_name || '.' || column_name, data_type FROM information_schema.columns
    WHERE table_schema = $1
    UNION ALL SELECT 'routine', routine_name, md5(replace(routine_definition, $1, 'ojs'))
    FROM information_schema.routines WHERE routine_schema = $1
    UNION ALL SELECT 'index', indexname, replace(indexdef, $1, 'ojs') FROM pg_indexes WHERE schemaname = $1
    ORDER BY 1, 2, 3
"""


def new_schema() -> str:
    return f"t_{secrets.token_hex(6)}"


def test_the_steps_have_no_gaps() -> None:
    assert [step.number for step in STEPS] == list(range(1, len(STEPS) + 1))


async def test_servers_may_start_at_once(open_backend: Opener) -> None:
    schema = new_schema()
    backends = await asyncio.gather(*(open_backend(schema=schema, pool_size=1) for _ in range(6)))
    job = await insert_one(backends[0])
    assert await claim_ids(backends[-1]) == [job.id]


async def test_migrating_is_open_without_serving(postgres: PostgresServer) -> None:
    backend = PostgresBackend(PostgresConfig(url=postgres.url, schema=new_schema()))
    names = [step.name for step in STEPS]
    assert await backend.pending_migrations() == names
    assert await backend.migrate() == names
    assert await backend.pending_migrations() == await backend.migrate() == []


async def test_the_script_makes_the_same(postgres: PostgresServer, sql: asyncpg.Connection) -> None:
    by_server, by_hand = (PostgresBackend(PostgresConfig(url=postgres.url, schema=new_schema())) for _ in range(2))
    await by_server.migrate()
    await sql.execute(by_hand.migration_script())
    schemas = [backend._config.schema for backend in (by_server, by_hand)]  # noqa: SLF001
    first, second = [await sql.fetch(SHAPE, schema) for schema in schemas]
    assert len(first) > 100
    assert first == second
    assert await by_hand.pending_migrations() == []


async def test_a_role_without_rights_is_told_what_to_run_and_serves_then(
    postgres: PostgresServer, sql: asyncpg.Connection, open_backend: Opener
) -> None:
    schema = new_schema()
    role = f"server_{schema}"
    await sql.execute(f"CREATE ROLE {role} LOGIN")
    url = f"postgresql://{role}@127.0.0.1:{postgres.port}/postgres"
    with pytest.raises(SettingsError, match="Run 'ojs-server migrate' with a DATABASE_URL that may"):
        await open_backend(url=url, schema=schema)
    with pytest.raises(SettingsError, match="OJS_POSTGRES_MIGRATE=never"):
        await open_backend(url=url, schema=schema, migrate="never")
    await PostgresBackend(PostgresConfig(url=postgres.url, schema=schema)).migrate()
    # What docs/backends.md grants.
    await sql.execute(f"""
        GRANT USAGE ON SCHEMA {schema} TO {role};
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};
        GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role};
    """)
    for migrate in ("never", "auto"):
        backend = await open_backend(url=url, schema=schema, migrate=migrate)
        job = await insert_one(backend)
        assert await claim_ids(backend) == [job.id]
        await backend.close()


async def test_a_newer_schema_is_refused(sql: asyncpg.Connection, open_backend: Opener) -> None:
    schema = new_schema()
    await open_backend(schema=schema)
    await sql.execute(f"INSERT INTO {schema}.migration (number, name) VALUES (9999, 'from the future')")  # noqa: S608
    with pytest.raises(SettingsError, match="newer ojs-backend-postgres"):
        await open_backend(schema=schema)


def test_an_old_server_is_refused() -> None:
    check_version(150_000)
    with pytest.raises(SettingsError, match="PostgreSQL 14; this server needs 15 or newer"):
        check_version(140_012)


async def test_a_missing_server_or_database(postgres: PostgresServer, open_backend: Opener) -> None:
    with pytest.raises(BackendUnavailableError, match="cannot be reached"):
        await open_backend(url=f"postgresql://postgres@127.0.0.1:{free_ports(1)[0]}/postgres")
    with pytest.raises(BackendUnavailableError, match="no such database"):
        await open_backend(url=postgres.url_of("nothing"))


async def test_several_hosts_of_which_one_is_there(postgres: PostgresServer, open_backend: Opener) -> None:
    hosts = f"127.0.0.1:{free_ports(1)[0]},127.0.0.1:{postgres.port}"
    backend = await open_backend(url=f"postgresql://postgres@{hosts}/postgres?target_session_attrs=primary")
    await backend.ping()


async def test_a_host_that_hangs(postgres: PostgresServer, open_backend: Opener) -> None:
    """It takes connections and says nothing: the others are asked in time."""
    async with proxy_to(postgres.port) as proxy:
        proxy.hold()
        hosts = f"127.0.0.1:{proxy.port},127.0.0.1:{postgres.port}"
        backend = await open_backend(url=f"postgresql://postgres@{hosts}/postgres", connect_timeout_ms=2000)
        await backend.ping()


@pytest.mark.parametrize("rest", ["secret@host:port/db", "secret@host/db?sslmode=nonsense"])
async def test_a_url_that_cannot_be_read(open_backend: Opener, rest: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL cannot be read") as caught:
        await open_backend(url=f"postgresql://{rest}")
    assert "secret" not in str(caught.value)


async def test_a_wrong_password(
    own_server: PostgresServer, connect: Callable[..., Awaitable[asyncpg.Connection]]
) -> None:
    connection = await connect(own_server.url)
    await connection.execute("CREATE ROLE known LOGIN PASSWORD 'right'")
    own_server.demand_passwords()
    url = f"postgresql://known:wrong@127.0.0.1:{own_server.port}/postgres"
    with pytest.raises(SettingsError, match=r"DATABASE_URL: .* refused the user or the password") as caught:
        await PostgresBackend(PostgresConfig(url=url)).open()
    assert "wrong" not in str(caught.value)


async def test_dangerous_settings_are_named(open_backend: Opener) -> None:
    backend = await open_backend(pooler=False)
    found = "\n".join(await backend.warnings())
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        assert f"{name} = off" in found
    backend = await open_backend(durability="off")
    assert any("OJS_POSTGRES_DURABILITY=off" in line for line in await backend.warnings())


async def test_a_durable_server_has_no_warnings(own_server: PostgresServer, open_backend: Opener) -> None:
    backend = await open_backend(url=own_server.url)
    assert await backend.warnings() == []
