"""What operations cost: statements per call, whatever the size of the group, and rows touched, whatever the history."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count

import asyncpg
import pytest

from ojs_backend_postgres.backend import PostgresBackend
from ojs_core.backend import Commit, Committed, CronWrite, EventQuery, JobQuery, Removal, WorkflowWrite
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.steps import claim, insert, job_in
from ojs_core.testing.factories import (
    make_beat,
    make_claim,
    make_cron,
    make_event,
    make_new,
    make_transition,
    make_unique,
    make_workflow,
    raw,
)

Statements = Callable[[], Awaitable[dict[str, int]]]
FINISHED = """
    INSERT INTO ojs.job
    SELECT (jsonb_populate_record(j, jsonb_build_object(
        'id', 'finished-' || n, 'state', 'completed', 'wake_at', j.created_at + n))).*
    FROM ojs.job j, generate_series(1, 20000) n WHERE j.id = $1
"""


@pytest.fixture
async def statements(sql: asyncpg.Connection, backend: PostgresBackend) -> AsyncIterator[Statements]:
    """Return, and forget, the statements that requests sent since the last time."""
    await sql.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    async def take() -> dict[str, int]:
        rows = await sql.fetch(
            "SELECT query, sum(calls)::int AS calls, sum(shared_blks_hit + shared_blks_read)::int AS blocks"
            " FROM pg_stat_statements WHERE toplevel AND query LIKE '%ojs.%' AND query NOT LIKE '%count_up%'"
            " AND query NOT LIKE '%pg_stat%' GROUP BY 1"
        )
        await sql.fetchval("SELECT pg_stat_statements_reset()::text")
        return {row["query"]: row["calls"] for row in rows}

    await backend.claim([make_claim("warm")])
    await take()
    return take


async def blocks_of(sql: asyncpg.Connection, part: str) -> int:
    blocks: int = await sql.fetchval(
        "SELECT sum(shared_blks_hit + shared_blks_read)::int FROM pg_stat_statements"
        " WHERE toplevel AND query LIKE '%' || $1 || '%'",
        part,
    )
    await sql.fetchval("SELECT pg_stat_statements_reset()::text")
    return blocks


@pytest.mark.parametrize("size", [1, 8, 100])
async def test_a_group_is_one_statement(backend: PostgresBackend, statements: Statements, size: int) -> None:
    await backend.commit([Commit(inserts=(make_new(),)) for _ in range(size)])
    assert list((await statements()).values()) == [1]
    answers = await backend.claim([make_claim("empty", "default", worker_id=f"w{n}") for n in range(size)])
    assert list((await statements()).values()) == [1]
    acks = [make_transition(LifecycleEvent.ACK, answer.jobs[0].id) for answer in answers]
    await backend.commit([Commit(transitions=(ack,)) for ack in acks])
    assert list((await statements()).values()) == [1]


async def test_a_batch_of_a_thousand_is_one_statement(backend: PostgresBackend, statements: Statements) -> None:
    await backend.commit([Commit(inserts=tuple(make_unique(f"{n:064}") for n in range(1000)))])
    assert list((await statements()).values()) == [1]


async def test_what_would_take_too_long_is_several_statements(backend: PostgresBackend, statements: Statements) -> None:
    """However many large requests arrive together, each call ends in time, and each request is served."""
    answers = await backend.commit([Commit(inserts=tuple(make_new() for _ in range(1000))) for _ in range(7)])
    assert all(isinstance(answer, Committed) for answer in answers)
    assert sum((await statements()).values()) == 2
    claimed = await backend.claim([make_claim(count=1000) for _ in range(9)])
    assert [len(answer.jobs) for answer in claimed] == [1000] * 7 + [0, 0]
    assert sum((await statements()).values()) == 2
    large = raw(["x" * 900_000])
    await backend.commit([Commit(inserts=(make_new(args=large),)) for _ in range(50)])
    assert sum((await statements()).values()) == 2


async def test_each_operation_is_one_statement(backend: PostgresBackend, statements: Statements) -> None:
    [job, other] = await insert(backend, make_new(), make_new(queue="other"))
    await claim(backend, "other")
    flow = make_workflow()
    every_part = Commit(
        inserts=(make_unique("a" * 64), make_unique("b" * 64)),
        transitions=(make_transition(LifecycleEvent.ACK, other.id),),
        removals=(Removal(job.id, 1),),
        workflows=(WorkflowWrite(flow.id, flow, 0),),
        cron=CronWrite("c", make_cron("c"), 0),
        events=(make_event(),),
    )
    await statements()
    for call in (
        backend.commit([every_part]),
        backend.beat(make_beat("w", other.id)),
        backend.get_jobs([job.id, other.id]),
        backend.due_jobs(NOW, 100),
        backend.next_wake_at(),
        backend.list_queues(),
        backend.queue_stats("default", NOW),
        backend.set_paused("default", NOW, paused=True),
        backend.list_workers(),
        backend.set_directive("w", "quiet"),
        backend.remove_worker("w", NOW * 2, make_event()),
        backend.get_cron("c"),
        backend.list_crons(),
        backend.due_crons(NOW, 1),
        backend.get_workflow(flow.id),
        backend.due_workflows(NOW, 1),
        backend.prune_events(NOW, 10, 100),
    ):
        name = call.__qualname__
        await call
        assert list((await statements()).values()) == [1], name


@pytest.mark.parametrize("query", [JobQuery(), JobQuery(queue="default", job_type="x"), JobQuery(dead=True)])
async def test_a_listing_is_two(backend: PostgresBackend, statements: Statements, query: JobQuery) -> None:
    """The page, and how many there are."""
    await backend.list_jobs(query)
    assert sum((await statements()).values()) == 2
    await backend.list_events(EventQuery())
    assert sum((await statements()).values()) == 2


async def test_finished_jobs_cost_a_claim_nothing(
    backend: PostgresBackend, statements: Statements, sql: asyncpg.Connection
) -> None:
    """Counted in pages looked at, which, unlike time, do not depend on the machine."""
    pattern = await job_in(backend, JobState.COMPLETED, queue="old")

    async def claim_ten() -> int:
        await insert(backend, *(make_new() for _ in range(10)))
        await statements()
        assert len((await claim(backend, "old", "default", count=10)).jobs) == 10
        return await blocks_of(sql, "ojs.claim")

    before = min([await claim_ten() for _ in range(3)])
    await sql.execute(FINISHED, pattern.id)
    await sql.execute("VACUUM (ANALYZE) ojs.job")  # earlier tests left dead rows
    after = min([await claim_ten() for _ in range(3)])
    # Indexes that hold all jobs may have grown by a level.
    assert after <= before * 1.5


async def test_a_backlog_that_the_database_has_not_counted_yet_costs_nothing(
    backend: PostgresBackend, statements: Statements, sql: asyncpg.Connection
) -> None:
    """When it last counted there was one job; with that in mind any plan looks as good as another."""
    await job_in(backend, JobState.COMPLETED)
    await sql.execute("VACUUM (ANALYZE) ojs.job")
    fingerprints = count(1)

    async def blocks_of_each() -> dict[str, int]:
        kept, held, gone = make_new(queue="q"), make_unique(f"{next(fingerprints):064}"), make_new()
        ack = make_transition(LifecycleEvent.ACK, kept.job.id)
        found = {}
        for name, part, call in (
            ("insert", "ojs.commit(", backend.commit([Commit(inserts=(kept, held, gone))])),
            ("claim", "ojs.claim(", backend.claim([make_claim("q", worker_id="w")])),
            ("beat", "ojs.beat(", backend.beat(make_beat("w", kept.job.id))),
            ("ack", "ojs.commit(", backend.commit([Commit(transitions=(ack,))])),
            ("get", "ojs.job WHERE id", backend.get_jobs([kept.job.id, held.job.id])),
            ("remove", "ojs.commit(", backend.commit([Commit(removals=(Removal(gone.job.id, 1),))])),
        ):
            await statements()
            await call
            found[name] = await blocks_of(sql, part)
        return found

    for _ in range(6):  # the driver's plans are made anew a few times, before one is kept
        before = await blocks_of_each()
    await insert(backend, *(make_new() for _ in range(5000)))
    after = await blocks_of_each()
    # Without a look at all jobs, of which each has an index full and the table itself several hundred.
    assert {name: blocks for name, blocks in after.items() if blocks > 3 * before[name] + 30} == {}


async def test_looking_at_the_clock_reads_what_is_due_and_no_more(
    backend: PostgresBackend, statements: Statements, sql: asyncpg.Connection
) -> None:
    pattern = await job_in(backend, JobState.COMPLETED)
    await sql.execute(FINISHED, pattern.id)
    await sql.execute("VACUUM (ANALYZE) ojs.job")  # earlier tests left dead rows
    await statements()
    await backend.next_wake_at()
    assert await blocks_of(sql, "ojs.cron WHERE wake_at IS NOT NULL") < 20
    due = await backend.due_jobs(pattern.created_at + 10, 100)
    assert [job.wake_at for job in due] == [pattern.created_at + n for n in range(1, 11)]
    assert await blocks_of(sql, "ORDER BY wake_at, seq, id") < 60


async def test_a_long_log_is_pruned_without_a_look_at_what_is_kept(
    backend: PostgresBackend, statements: Statements, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        "INSERT INTO ojs.event (at, type, subject, data)"
        " SELECT $1::bigint + n, 't', 's', '{}' FROM generate_series(1, 50000) n",
        NOW,
    )
    await sql.execute("VACUUM (ANALYZE) ojs.event")  # earlier tests left dead rows
    await statements()
    assert await backend.prune_events(0, 49_990, 100) == 10
    assert await backend.prune_events(NOW + 15, 49_990, 100) == 4
    assert await blocks_of(sql, "FROM oldest") < 2 * 60


async def test_dead_letters_and_a_workers_jobs_are_found_without_a_look_at_the_others(
    backend: PostgresBackend, statements: Statements, sql: asyncpg.Connection
) -> None:
    """Every server asks for them every minute, or second."""
    pattern = await job_in(backend, JobState.COMPLETED)
    await job_in(backend, JobState.DISCARDED, queue="q", changes={"dead": True, "discarded_at": NOW})
    held = await job_in(backend, JobState.ACTIVE, queue="r", worker_id="w")
    await sql.execute(FINISHED, pattern.id)
    await sql.execute("VACUUM (ANALYZE) ojs.job")  # earlier tests left dead rows
    await statements()
    assert (await backend.list_jobs(JobQuery(dead=True, offset=10))).total == 1
    assert await blocks_of(sql, "FROM ojs.job") < 40
    page = await backend.list_jobs(JobQuery(worker_id="w", states=frozenset({JobState.ACTIVE})))
    assert page.jobs == (held,)
    assert await blocks_of(sql, "FROM ojs.job") < 40
