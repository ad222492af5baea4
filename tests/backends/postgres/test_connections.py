"""Lending connections: none is lost, whoever leaves, and whatever it was doing then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from ojs_backend_postgres.config import PostgresConfig
from ojs_backend_postgres.connections import Connections
from ojs_core.errors import BackendUnavailableError

HOLD = "SELECT pg_advisory_lock(815)"
LET_GO = "SELECT pg_advisory_unlock(815)"
WAIT = "SELECT pg_backend_pid() FROM (SELECT pg_advisory_lock(815), pg_advisory_unlock(815)) l"
COUNT = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lent' AND wait_event = 'advisory'"


@pytest.fixture
async def lent(postgres_config: PostgresConfig) -> AsyncIterator[Connections]:
    connections = Connections(postgres_config, 2, "lent")
    await connections.open()
    yield connections
    await connections.close()


async def until_waiting(sql: asyncpg.Connection, number: int) -> None:
    async with asyncio.timeout(30):
        while await sql.fetchval(COUNT) != number:
            await asyncio.sleep(0)


async def both_work(lent: Connections, sql: asyncpg.Connection) -> None:
    """Check that both connections can be had at once, and no third one."""
    await sql.execute(HOLD)
    callers = [asyncio.create_task(lent.fetch_value(WAIT)) for _ in range(6)]
    await until_waiting(sql, 2)
    await sql.execute(LET_GO)
    async with asyncio.timeout(30):
        assert len(set(await asyncio.gather(*callers))) == 2


async def test_there_are_never_more_than_asked_for(lent: Connections, sql: asyncpg.Connection) -> None:
    await both_work(lent, sql)
    await both_work(lent, sql)


async def test_a_caller_who_leaves(lent: Connections, sql: asyncpg.Connection) -> None:
    await sql.execute(HOLD)
    callers = [asyncio.create_task(lent.fetch_value(WAIT)) for _ in range(2)]
    leaving = asyncio.create_task(lent.fetch_value("SELECT 2"))
    waiting = asyncio.create_task(lent.fetch_value("SELECT 1"))
    await until_waiting(sql, 2)
    leaving.cancel()
    callers[0].cancel()
    # Its statement is cancelled too, and its connection is there for who waits.
    async with asyncio.timeout(30):
        assert await waiting == 1
    assert leaving.cancelled()
    assert callers[0].cancelled()
    await sql.execute(LET_GO)
    await callers[1]
    await both_work(lent, sql)


async def test_a_caller_who_leaves_at_the_moment_it_is_served(lent: Connections, sql: asyncpg.Connection) -> None:
    """Whatever the order in which the two things happen, the connection goes to somebody else."""
    for _ in range(20):
        callers = [asyncio.create_task(lent.fetch_value("SELECT 1")) for _ in range(6)]
        await asyncio.wait(callers, return_when=asyncio.FIRST_COMPLETED)
        for caller in callers[2:5]:
            caller.cancel()
        results = await asyncio.gather(*callers, return_exceptions=True)
        assert results[5] == 1
    await both_work(lent, sql)


async def test_connections_that_cannot_be_made_leave_their_places(
    postgres_config: PostgresConfig, lent: Connections, sql: asyncpg.Connection
) -> None:
    await sql.execute(HOLD)
    holding = asyncio.create_task(lent.fetch_value(WAIT))
    await until_waiting(sql, 1)
    lent._config = PostgresConfig(url="postgresql://127.0.0.1:1/postgres")  # noqa: SLF001 - gone from here on
    for _ in range(3):
        with pytest.raises(BackendUnavailableError, match="cannot be reached"):
            await lent.fetch("SELECT 1")
    lent._config = postgres_config  # noqa: SLF001 - and back
    await sql.execute(LET_GO)
    await holding
    await both_work(lent, sql)


async def test_closing_lets_finish_what_runs_and_refuses_what_waits(lent: Connections, sql: asyncpg.Connection) -> None:
    await sql.execute(HOLD)
    callers = [asyncio.create_task(lent.fetch_value(WAIT)) for _ in range(3)]
    await until_waiting(sql, 2)
    closing = asyncio.create_task(lent.close())
    for refused in (callers[2], lent.fetch_value("SELECT 1")):
        with pytest.raises(BackendUnavailableError, match="not open"):
            await refused
    assert not closing.done()
    await sql.execute(LET_GO)
    await asyncio.gather(closing, *callers[:2])
    await lent.open()
    await both_work(lent, sql)
