"""Behind PgBouncer in transaction mode: the same guarantees, no prepared statement missed, wake-ups by the side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.backends.postgres.conftest import Opener
from tests.servers.missing import missing
from tests.servers.postgres import PgBouncer, PostgresServer

from ojs_backend_postgres.backend import PostgresBackend
from ojs_backend_postgres.config import PostgresConfig
from ojs_core.backend import Backend, Commit, Committed, Refused
from ojs_core.testing.contract.claims import ClaimContract
from ojs_core.testing.contract.commits import CommitContract
from ojs_core.testing.contract.concurrency import ConcurrencyContract
from ojs_core.testing.contract.doorbell import Bell
from ojs_core.testing.contract.leases import LeaseContract
from ojs_core.testing.contract.steps import claim_ids, insert_one
from ojs_core.testing.factories import make_new, make_unique


@pytest.fixture(scope="module")
def bouncer(postgres: PostgresServer) -> Iterator[PgBouncer]:
    if not PgBouncer.BINARY.exists():
        missing("pgbouncer: apt-get install pgbouncer")
    bouncer = PgBouncer(postgres, connections=3)
    yield bouncer
    bouncer.close()


class TestThroughPooler(ClaimContract, CommitContract, ConcurrencyContract, LeaseContract):
    @pytest.fixture
    async def backend(self, bouncer: PgBouncer) -> AsyncIterator[Backend]:
        backend = PostgresBackend(PostgresConfig(url=bouncer.url, pooler=True))
        await backend.open()
        await backend.reset()
        yield backend
        await backend.close()


async def test_more_callers_than_connections(bouncer: PgBouncer, open_backend: Opener) -> None:
    backends = [await open_backend(url=bouncer.url, pooler=True) for _ in range(3)]
    await backends[0].reset()
    answers = await asyncio.gather(
        *(backends[n % 3].commit([Commit(inserts=(make_new(), make_unique(f"{n % 20:064}")))]) for n in range(60))
    )
    assert sum(isinstance(answer, Committed) for [answer] in answers) == 20
    assert sum(isinstance(answer, Refused) for [answer] in answers) == 40
    assert len(await claim_ids(backends[1])) == 40


async def test_settings_hold_for_each_transaction(bouncer: PgBouncer, open_backend: Opener) -> None:
    backend = await open_backend(url=bouncer.url, pooler=True, timeout_ms=1234, durability="local")
    for name, value in (("statement_timeout", "1234ms"), ("synchronous_commit", "local"), ("enable_seqscan", "off")):
        assert await backend._requests.fetch_value("SELECT current_setting($1)", name) == value  # noqa: SLF001


async def test_without_a_way_around_it_is_polled(bouncer: PgBouncer, open_backend: Opener) -> None:
    backend = await open_backend(url=bouncer.url, pooler=True)
    assert not backend.capabilities.push_wakeups
    assert any("polling" in line for line in await backend.warnings())
    bell = Bell(backend)
    await insert_one(backend, queue="here")
    await bell.expect("here")  # what this server did itself, it knows


async def test_with_a_way_around_it_is_told(bouncer: PgBouncer, postgres: PostgresServer, open_backend: Opener) -> None:
    first, second = [await open_backend(url=bouncer.url, pooler=True, listen_url=postgres.url) for _ in range(2)]
    bell = Bell(second)
    await insert_one(first, queue="there")
    await bell.expect("there")
