"""Enqueue inside an application's own transaction: rollback leaves nothing, commit is fetched at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import psycopg
import pytest
import sqlalchemy
from asyncpg import exceptions as pg
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from tests.backends.postgres.conftest import Opener
from tests.servers.postgres import PostgresServer

from ojs_backend_postgres.backend import PostgresBackend
from ojs_backend_postgres.enqueue import enqueue, enqueue_async
from ojs_core.backend import Commit, JobQuery
from ojs_core.envelope import new_job, parse_job_request
from ojs_core.errors import DuplicateJobError, InvalidRequestError, UnsupportedError
from ojs_core.job import Job, JobState, replace_fields
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import DAY, NOW
from ojs_core.testing.contract.doorbell import Bell
from ojs_core.testing.contract.steps import accept, claim_ids, counts, events, insert_one, listed, read, snapshot
from ojs_core.testing.factories import make_event, make_id, make_transition

Connect = Callable[..., Awaitable[asyncpg.Connection]]
FULL = {
    "type": "order.confirm",
    "args": [42, 1.0, "é\u0000'\"\\", {"b": 1, "a": [None, True]}],
    "meta": {"trace_id": "abc", "z": 1},
    "options": {"queue": "mail", "priority": 7, "retry": {"max_attempts": 2}, "timeout_ms": 5, "tags": ["a", 'b"\\']},
    "x_unknown": [1],
}
UNIQUE = {"type": "t", "args": [], "options": {"unique": {"keys": ["type"]}}}


def comparable(job: Job) -> Job:
    """Return a job without what time and place make of it."""
    return replace_fields(job, id="", seq=0, version=0, created_at=0, enqueued_at=0)


def made_by_core(request: dict[str, Any]) -> Job:
    return comparable(new_job(parse_job_request(msgspec.json.encode(request), 0), 0).job)


def commit_of(request: dict[str, Any]) -> Commit:
    """Return what the HTTP API makes of a request."""
    return Commit(inserts=(new_job(parse_job_request(msgspec.json.encode(request), NOW), NOW),))


class TestSql:
    async def test_commit_is_fetched_at_once(self, backend: PostgresBackend, connect: Connect) -> None:
        bell = Bell(backend)
        application = await connect()
        async with application.transaction():
            job_id = await application.fetchval("SELECT ojs.enqueue('order.confirm', '[42]', queue => 'mail')")
            await asyncio.sleep(0)
            assert (await snapshot(backend)).jobs == []
            assert bell.rings == []
        await bell.expect("mail")
        assert await claim_ids(backend, "mail") == [job_id]
        found = [(event.type, event.subject) for event in await events(backend)]
        assert found == [("job.enqueued", job_id), ("job.started", job_id)]

    async def test_rollback_leaves_nothing(self, backend: PostgresBackend, connect: Connect) -> None:
        before = await snapshot(backend)
        application = await connect()
        transaction = application.transaction()
        await transaction.start()
        await application.fetchval("SELECT ojs.enqueue('order.confirm', '[42]')")
        await transaction.rollback()
        assert await snapshot(backend) == before
        assert await application.fetchval("SELECT count(*) FROM ojs.outbox") == 0

    async def test_the_job_is_what_core_would_have_made(
        self, backend: PostgresBackend, sql: asyncpg.Connection
    ) -> None:
        job_id = await sql.fetchval(
            "SELECT ojs.enqueue('order.confirm', $1::text::json, queue => 'mail', meta => $2::text::json,"
            " priority => 7, max_attempts => 2, timeout_ms => 5, tags => $3)",
            '[42, 1.0,"\\u0000" ]',
            '{"z":1.0,"trace_id":"abc"}',
            ["a", 'b"\\'],
        )
        job = await read(backend, job_id)
        assert bytes(job.args) == b'[42, 1.0,"\\u0000" ]'
        text = (
            b'{"type":"order.confirm","args":[42, 1.0,"\\u0000" ],"meta":{"z":1.0,"trace_id":"abc"},"options":{"queue":'
            b'"mail","priority":7,"retry":{"max_attempts":2},"timeout_ms":5,"tags":["a","b\\"\\\\"]}}'
        )
        assert comparable(job) == comparable(new_job(parse_job_request(text, 0), 0).job)
        [event] = await events(backend)
        assert b'"trace_id":"abc"' in bytes(event.data)
        assert await counts(backend, "mail") == {"available": 1}

    async def test_a_later_start_and_an_end(self, backend: PostgresBackend, sql: asyncpg.Connection) -> None:
        at = datetime.now(UTC).replace(microsecond=123_000) + timedelta(days=1)
        job_id = await sql.fetchval(
            "SELECT ojs.enqueue('t', scheduled_at => $1, expires_at => $2)", at, at + timedelta(days=1)
        )
        job = await read(backend, job_id)
        at_ms = int(at.timestamp() * 1000)
        assert (job.state, job.scheduled_at, job.wake_at, job.enqueued_at) == (JobState.SCHEDULED, at_ms, at_ms, None)
        assert job.expires_at == at_ms + DAY
        [event] = await events(backend)
        assert event.type == "job.scheduled"
        assert at.strftime("%Y-%m-%dT%H:%M:%S.123Z").encode() in bytes(event.data)

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            ("'Order'", "type must be"),
            ("NULL", "type must be"),
            ("'a..b'", "type must be"),
            ("repeat('a', 256)", "type must be"),
            ("'t', '{}'", "args must be an array"),
            ("'t', queue => 'A'", "queue must be"),
            ("'t', queue => repeat('q', 129)", "queue must be"),
            ("'t', meta => '[]'", "meta must be an object"),
            ("'t', meta => json_build_object('x', repeat('x', 65536))", "meta may have"),
            ("'t', json_build_array(repeat('x', 1048576))", "1048576 bytes"),
            ("'t', priority => 101", "priority must be"),
            ("'t', id => 'x'", "id must be a lower-case UUIDv7"),
            ("'t', max_attempts => -1", "max_attempts"),
            ("'t', timeout_ms => -1", "timeout_ms"),
            ("'t', tags => ARRAY['a', NULL]", "tags must be strings"),
            ("'t', (repeat('[', 66) || repeat(']', 66))::json", "nested too deeply"),
            ("'t', fingerprint => repeat('A', 64)", "fingerprint must be"),
            ("'t', fingerprint => 'order-42'", "fingerprint must be"),
            ("'t', fingerprint => repeat('a', 64), on_conflict => 'replace'", "on_conflict must be reject or ignore"),
            ("'t', on_conflict => NULL", "on_conflict must be"),
        ],
    )
    async def test_what_the_http_api_refuses_is_refused(
        self, backend: PostgresBackend, sql: asyncpg.Connection, call: str, words: str
    ) -> None:
        with pytest.raises(pg.InvalidParameterValueError, match=words):
            await sql.fetchval(f"SELECT ojs.enqueue({call})")
        assert (await snapshot(backend)).jobs == []

    async def test_half_a_surrogate_pair_is_refused(self, backend: PostgresBackend, sql: asyncpg.Connection) -> None:  # noqa: ARG002 - the schema
        with pytest.raises(pg.PostgresError):
            await sql.fetchval("""SELECT ojs.enqueue('t', '["\\ud800"]')""")
        await sql.fetchval("""SELECT ojs.enqueue('t', '["\\ud83d\\ude00\\u0000"]')""")

    async def test_a_taken_id_is_refused(self, backend: PostgresBackend, sql: asyncpg.Connection) -> None:
        job_id = make_id()
        assert await sql.fetchval("SELECT ojs.enqueue('t', id => $1)", job_id) == job_id
        with pytest.raises(pg.UniqueViolationError, match="already there and available"):
            await sql.fetchval("SELECT ojs.enqueue('t', id => $1)", job_id)
        with pytest.raises(pg.UniqueViolationError, match="already there"):
            await sql.fetch("SELECT ojs.enqueue('t', id => i) FROM unnest(ARRAY[$1, $1]) i", make_id())
        assert await claim_ids(backend) == [job_id]

    @pytest.mark.parametrize(
        ("unique", "selected"),
        [
            ({"keys": ["type"]}, '{"type":"order.confirm"}'),
            ({"keys": ["type", "queue"]}, '{"queue":"mail","type":"order.confirm"}'),
            ({"keys": ["type", "args"]}, '{"args":[42,{"a":"é","b":1.5}],"type":"order.confirm"}'),
            ({"keys": ["args"], "args_keys": ["b"]}, '{"args":{"b":1.5},"type":"order.confirm"}'),
            ({"keys": ["type", "meta"], "meta_keys": ["x"]}, '{"meta":{"x":1},"type":"order.confirm"}'),
        ],
    )
    async def test_a_unique_job_by_its_fingerprint(
        self, backend: PostgresBackend, sql: asyncpg.Connection, unique: dict[str, Any], selected: str
    ) -> None:
        """Of what a policy selects, in canonical form, it is that of the HTTP API: either finds the other's job."""
        args, meta = '[42.0, {"b": 1.50, "a": "e\\u0301"}]', '{"y": 2, "x": 1.0}'
        text = f'{{"type":"order.confirm","args":{args},"meta":{meta},"options":{{"queue":"mail","unique":{{}}}}}}'
        request = msgspec.json.decode(text)
        request["options"]["unique"] = unique
        enqueue_by_hand = (
            "SELECT ojs.enqueue('order.confirm', $1::text::json, queue => 'mail', meta => $2::text::json,"
            " fingerprint => encode(sha256(convert_to($3, 'UTF8')), 'hex'), on_conflict => $4)"
        )
        first = await sql.fetchval(enqueue_by_hand, args, meta, selected, "reject")
        assert (await read(backend, first)).fingerprint == made_by_core(request).fingerprint
        [(conflict,)] = [refused.conflicts for refused in await backend.commit([commit_of(request)])]  # type: ignore[union-attr]
        assert (conflict.kind, conflict.job) == ("hold", await read(backend, first))
        assert await claim_ids(backend, "mail") == [first]
        await accept(backend, transitions=(make_transition(LifecycleEvent.ACK, first),))
        [committed] = await backend.commit([commit_of(request)])
        [second] = committed.inserted  # type: ignore[union-attr]
        with pytest.raises(pg.UniqueViolationError, match=f"{second.id} is already there and available"):
            await sql.fetchval(enqueue_by_hand, args, meta, selected, "reject")
        assert await sql.fetchval(enqueue_by_hand, args, meta, selected, "ignore") == second.id
        assert set(await listed(backend)) == {first, second.id}

    async def test_a_unique_job_is_waited_for(
        self, backend: PostgresBackend, sql: asyncpg.Connection, connect: Connect
    ) -> None:
        """The function, the helper and the server take the same lock."""
        application = await connect()
        fingerprint = made_by_core(UNIQUE).fingerprint
        transaction = application.transaction()
        await transaction.start()
        job_id = await application.fetchval("SELECT ojs.enqueue('t', fingerprint => $1)", fingerprint)
        waiting = asyncio.create_task(backend.commit([commit_of(UNIQUE)]))
        async with asyncio.timeout(30):
            while not await sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0)
        await transaction.commit()
        [refused] = await waiting
        assert [conflict.job.id for conflict in refused.conflicts] == [job_id]  # type: ignore[union-attr]

    async def test_a_long_transaction_holds_nobody_up(self, backend: PostgresBackend, connect: Connect) -> None:
        application = await connect()
        async with application.transaction():
            first = await application.fetchval("SELECT ojs.enqueue('t')")
            second = (await insert_one(backend)).id
            await accept(backend, events=(make_event(subject="mine"),))
            assert [event.subject for event in await events(backend)] == [second, "mine"]
            assert await claim_ids(backend) == [second]
        assert await claim_ids(backend) == [first]

    async def test_an_application_needs_no_right_but_to_look_into_the_schema(
        self, backend: PostgresBackend, postgres: PostgresServer, sql: asyncpg.Connection, connect: Connect
    ) -> None:
        await sql.execute("DROP ROLE IF EXISTS shop")
        await sql.execute("CREATE ROLE shop LOGIN")
        await sql.execute("GRANT USAGE ON SCHEMA ojs TO shop")
        shop = await connect(f"postgresql://shop@127.0.0.1:{postgres.port}/postgres")
        job_id = await shop.fetchval("SELECT ojs.enqueue('t')")
        assert await claim_ids(backend) == [job_id]
        with pytest.raises(pg.InsufficientPrivilegeError):
            await shop.fetch("SELECT * FROM ojs.job")
        await sql.execute("DROP OWNED BY shop; DROP ROLE shop")


class TestPython:
    async def test_asyncpg(self, backend: PostgresBackend, connect: Connect) -> None:
        connection = await connect()
        async with connection.transaction():
            job_id = await enqueue_async(connection, FULL)
        assert comparable(await read(backend, job_id)) == made_by_core(FULL)

    async def test_psycopg(self, backend: PostgresBackend, postgres: PostgresServer) -> None:
        def work() -> str:
            with psycopg.connect(postgres.url) as connection:
                return enqueue(connection, FULL)

        assert comparable(await read(backend, await asyncio.to_thread(work))) == made_by_core(FULL)

    async def test_psycopg_async(self, backend: PostgresBackend, postgres: PostgresServer) -> None:
        async with await psycopg.AsyncConnection.connect(postgres.url) as connection:
            job_id = await enqueue_async(connection, FULL)
        assert comparable(await read(backend, job_id)) == made_by_core(FULL)

    async def test_sqlalchemy(self, backend: PostgresBackend, postgres: PostgresServer) -> None:
        def work() -> str:
            engine = sqlalchemy.create_engine(postgres.url.replace("postgresql:", "postgresql+psycopg:"))
            with Session(engine) as session:
                job_id = enqueue(session, FULL)
                session.commit()
            engine.dispose()
            return job_id

        assert comparable(await read(backend, await asyncio.to_thread(work))) == made_by_core(FULL)

    @pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
    async def test_sqlalchemy_async(self, backend: PostgresBackend, postgres: PostgresServer, driver: str) -> None:
        engine = create_async_engine(postgres.url.replace("postgresql:", f"postgresql+{driver}:"))
        async with AsyncSession(engine) as session:
            job_id = await enqueue_async(session, FULL)
            await session.commit()
        await engine.dispose()
        assert comparable(await read(backend, job_id)) == made_by_core(FULL)

    async def test_bytes_stay_as_they_are(self, backend: PostgresBackend, sql: asyncpg.Connection) -> None:
        job_id = await enqueue_async(sql, b'{"type":"t","args":[ 1.0, 1e2 ],"meta":{"b" :1}}')
        job = await read(backend, job_id)
        assert (bytes(job.args), bytes(job.meta)) == (b"[ 1.0, 1e2 ]", b'{"b" :1}')

    async def test_what_is_wrong_is_named(self, sql: asyncpg.Connection) -> None:
        with pytest.raises(InvalidRequestError, match="priority"):
            await enqueue_async(sql, {"type": "t", "args": [], "options": {"priority": 1000}})
        replaces = {"type": "t", "args": [], "options": {"unique": {"on_conflict": "replace"}}}
        with pytest.raises(UnsupportedError, match="replaces"):
            await enqueue_async(sql, replaces)

    async def test_a_unique_job_is_enqueued_once(self, backend: PostgresBackend, connect: Connect) -> None:
        """Also within one transaction, and across two of which one has not ended."""
        first, second = [await connect() for _ in range(2)]
        ignoring = {**UNIQUE, "options": {"unique": {"keys": ["type"], "on_conflict": "ignore"}}}
        transaction = first.transaction()
        await transaction.start()
        job_id = await enqueue_async(first, UNIQUE)
        with pytest.raises(DuplicateJobError) as caught:
            await enqueue_async(first, UNIQUE)
        assert caught.value.details["existing_job_id"] == job_id
        waiting = asyncio.create_task(enqueue_async(second, ignoring))
        async with asyncio.timeout(30):
            while not await first.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0)
        await transaction.commit()
        assert await waiting == job_id
        assert (await backend.list_jobs(JobQuery())).total == 1

    async def test_a_stale_snapshot_cannot_tell_what_is_unique(self, connect: Connect) -> None:
        connection = await connect()
        with pytest.raises(pg.FeatureNotSupportedError, match="READ COMMITTED"):
            async with connection.transaction(isolation="repeatable_read"):
                await enqueue_async(connection, UNIQUE)

    async def test_another_schema(self, open_backend: Opener, sql: asyncpg.Connection) -> None:
        other = await open_backend(schema="other")
        await other.reset()
        bell = Bell(other)
        job_id = await enqueue_async(sql, {"type": "t", "args": []}, schema="other")
        await bell.expect("default")
        assert await claim_ids(other) == [job_id]
