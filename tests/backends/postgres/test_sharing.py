"""What several servers, and applications, do to one schema at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from tests.backends.postgres.conftest import Opener

from ojs_backend_postgres.backend import PostgresBackend
from ojs_core.backend import Commit, Committed, EventQuery, JobQuery, Refused
from ojs_core.errors import PartlyUnavailableError
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.contract.steps import accept, claim_ids, counts, events, insert, insert_one
from ojs_core.testing.factories import make_claim, make_event, make_id, make_new, make_transition, make_unique

Connect = Callable[..., Awaitable[asyncpg.Connection]]


async def test_sixty_unique_enqueues_at_once_on_a_pool_of_ten(open_backend: Opener) -> None:
    first, second = [await open_backend(pool_size=10) for _ in range(2)]
    await first.reset()
    answers = await asyncio.gather(
        *((first, second)[n % 2].commit([Commit(inserts=(make_unique("a" * 64),))]) for n in range(60))
    )
    assert sum(isinstance(answer, Committed) for [answer] in answers) == 1
    assert await counts(first) == {"available": 1}


async def test_what_happened_before_an_outage_is_answered(open_backend: Opener, connect: Connect) -> None:
    """A call of several transactions may end in the middle; what was committed, or handed out, by then stays so."""
    backend = await open_backend(timeout_ms=500)
    await backend.reset()
    await insert(backend, *(make_new(queue="a") for _ in range(2)), make_new(queue="b", max_per_second=9))
    held = await insert_one(backend, queue="c")
    other = await connect()
    await other.execute("BEGIN; SELECT FROM ojs.queue WHERE name = 'b' FOR UPDATE")
    await other.execute(f"SELECT FROM ojs.job WHERE id = '{held.id}' FOR UPDATE")
    new = make_new(queue="c")
    cancels = tuple(make_transition(LifecycleEvent.CANCEL, job_id) for job_id in (new.job.id, held.id))
    with pytest.raises(PartlyUnavailableError) as caught:
        await backend.commit([Commit(inserts=(new,)), Commit(transitions=cancels)])
    first, second = caught.value.answers
    assert isinstance(first, Committed)
    assert second is None
    with pytest.raises(PartlyUnavailableError) as caught:
        await backend.claim([make_claim("a", count=4000), make_claim("b", count=4000)])
    claimed, none = caught.value.answers
    assert (len(claimed.jobs), none) == (2, None)
    await other.execute("ROLLBACK")
    assert [await counts(backend, name) for name in "abc"] == [{"active": 2}, {"available": 1}, {"available": 2}]


async def test_claims_of_limited_queues_never_wait_in_a_circle(backend: PostgresBackend, connect: Connect) -> None:
    """Workers ask for the same queues in different orders; who waits for one must not hold another."""
    await insert(backend, *(make_new(queue=name, max_per_second=9) for name in ("a", "b")))
    other = await connect()
    await other.execute("BEGIN; SELECT FROM ojs.queue WHERE name = 'a' FOR UPDATE")
    claiming = asyncio.create_task(backend.claim([make_claim("b", "a", count=2)]))
    onlooker = await connect()
    while not await onlooker.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
        """The claim has not met the lock yet."""
    await other.execute("SELECT FROM ojs.queue WHERE name = 'b' FOR UPDATE NOWAIT; COMMIT")
    [claimed] = await claiming
    assert [job.queue for job in claimed.jobs] == ["b", "a"]


async def test_a_reader_of_the_log_misses_nothing_that_is_not_visible_yet(
    backend: PostgresBackend, connect: Connect
) -> None:
    """An event with a smaller number that commits later is not passed over."""
    slow = await connect()
    await slow.execute("BEGIN")
    await slow.execute("SELECT ojs.set_paused('slow', 5, true, '{}')")
    await accept(backend, events=(make_event(subject="quick"),))
    assert await events(backend) == []  # complete up to here
    await slow.execute("COMMIT")
    found = await events(backend)
    assert [event.subject for event in found] == ["slow", "quick"]


async def test_what_was_rolled_back_leaves_no_gap_to_wait_for(backend: PostgresBackend, connect: Connect) -> None:
    broken = await connect()
    await broken.execute("BEGIN")
    await broken.execute("SELECT ojs.set_paused('broken', 5, true, '{}')")
    await accept(backend, events=(make_event(subject="next"),))
    await broken.execute("ROLLBACK")
    assert [event.subject for event in await events(backend)] == ["next"]


async def test_a_cursor_over_a_busy_log_sees_every_event_once(open_backend: Opener) -> None:
    first, second = [await open_backend(pool_size=4) for _ in range(2)]
    await first.reset()
    done = asyncio.Event()
    seen: list[str] = []

    async def write(backend: PostgresBackend, name: str) -> None:
        for n in range(60):
            await accept(backend, events=(make_event(subject=f"{name}{n}"),))

    async def read() -> None:
        after = None
        while True:
            last_look = done.is_set()
            page = await second.list_events(EventQuery(after=after, limit=50))
            seen.extend(event.subject for event in page.events)
            after = page.events[-1].id if page.events else after
            if last_look and not page.events:
                return

    reading = asyncio.create_task(read())
    await asyncio.gather(*(write((first, second)[n % 2], "abcdef"[n]) for n in range(6)))
    done.set()
    await reading
    assert sorted(seen) == sorted(f"{name}{n}" for name in "abcdef" for n in range(60))


async def test_the_counts_agree_with_the_jobs_whoever_counts_up(open_backend: Opener, sql: asyncpg.Connection) -> None:
    backends = [await open_backend(pool_size=4) for _ in range(2)]
    await backends[0].reset()

    async def work(backend: PostgresBackend, queue: str) -> None:
        for _ in range(15):
            await insert_one(backend, queue=queue)
            [claimed] = await backend.claim([make_claim("a", "b", count=2)])
            await backend.commit(
                [Commit(transitions=(make_transition(LifecycleEvent.ACK, job.id),)) for job in claimed.jobs]
            )

    async def count_up() -> None:
        connection = await asyncpg.connect(sql_url)
        for _ in range(30):
            await connection.fetchval("SELECT ojs.count_up()")
        await connection.close()

    sql_url = backends[0]._config.url  # noqa: SLF001
    await asyncio.gather(*(work(backends[n % 2], "ab"[n % 2]) for n in range(4)), count_up(), count_up())
    for queue in "ab":
        rows = await sql.fetch("SELECT state, count(*) AS jobs FROM ojs.job WHERE queue = $1 GROUP BY 1", queue)
        assert await counts(backends[0], queue) == {row["state"]: row["jobs"] for row in rows}
    await sql.fetchval("SELECT ojs.count_up()")
    assert await sql.fetchval("SELECT count(*) FROM ojs.tally") == 0
    page = await backends[0].list_jobs(JobQuery(states=frozenset({JobState.COMPLETED})))
    assert page.total == sum([(await counts(backends[0], queue)).get("completed", 0) for queue in "ab"])


async def test_two_schemas_of_one_database_do_not_meet(open_backend: Opener) -> None:
    ours, theirs = await open_backend(), await open_backend(schema="other")
    for backend in (ours, theirs):
        await backend.reset()
    job = await insert_one(ours)
    assert await claim_ids(theirs) == []
    await insert_one(theirs, id=job.id)
    assert await claim_ids(ours) == await claim_ids(theirs) == [job.id]


async def test_a_claim_does_not_wait_for_a_locked_job(backend: PostgresBackend, connect: Connect) -> None:
    first, second = [await insert_one(backend) for _ in range(2)]
    other = await connect()
    await other.execute("BEGIN")
    await other.execute("SELECT FROM ojs.job WHERE id = $1 FOR UPDATE", first.id)
    assert await claim_ids(backend) == [second.id]
    await other.execute("ROLLBACK")
    assert await claim_ids(backend) == [first.id]


async def test_an_insert_that_another_server_was_quicker_with_is_refused(
    backend: PostgresBackend, connect: Connect
) -> None:
    """The other one's row is not visible when we look, and there when we write: we look again."""
    new = make_new()
    waiting = await connect()
    await waiting.execute("BEGIN")
    await waiting.execute(
        "INSERT INTO ojs.job SELECT (jsonb_populate_record(j, jsonb_build_object('id', $1::text))).*"
        " FROM ojs.job j WHERE j.id = $2",
        new.job.id,
        (await insert_one(backend)).id,
    )
    asked = asyncio.create_task(backend.commit([Commit(inserts=(new, make_new()))]))
    async with asyncio.timeout(30):
        while not await waiting.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0)
    await waiting.execute("COMMIT")
    [answer] = await asked
    assert [(conflict.kind, conflict.index) for conflict in answer.conflicts] == [("id", 0)]
    assert len(await claim_ids(backend)) == 2


async def test_a_hold_does_not_count_on_a_swap_that_will_not_happen(backend: PostgresBackend) -> None:
    """In one call: the commit that would have cancelled the holder is refused, for whatever reason."""
    [taken, holder] = await insert(backend, make_new(), make_unique("a" * 64))
    cancel = make_transition(LifecycleEvent.CANCEL, holder.id)
    stale = make_transition(LifecycleEvent.CANCEL, taken.id, version=9)
    for broken in (
        Commit(inserts=(make_new(id=taken.id),), transitions=(cancel,)),
        Commit(transitions=(cancel, stale)),
        Commit(inserts=(make_new(id=make_id()),) * 2, transitions=(cancel,)),
    ):
        answers = await backend.commit([broken, Commit(inserts=(make_unique("a" * 64),))])
        assert [isinstance(answer, Refused) for answer in answers] == [True, True]
        assert [conflict.kind for conflict in answers[1].conflicts] == ["hold"]
    answers = await backend.commit([Commit(transitions=(cancel,)), Commit(inserts=(make_unique("a" * 64),))])
    assert [isinstance(answer, Committed) for answer in answers] == [True, True]


async def test_a_hold_does_not_see_a_later_swap(backend: PostgresBackend) -> None:
    [holder] = await insert(backend, make_unique("a" * 64))
    cancel = Commit(transitions=(make_transition(LifecycleEvent.CANCEL, holder.id),))
    answers = await backend.commit([Commit(inserts=(make_unique("a" * 64),)), cancel])
    assert [type(answer) for answer in answers] == [Refused, Committed]
    assert answers[0].conflicts[0].job == holder
