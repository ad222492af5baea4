"""What stands in Redis: nothing that nobody needs, and numbers it can hold."""

from __future__ import annotations

import pytest
from msgspec import Raw
from tests.backends.redis.conftest import MakeBackend
from tests.servers.redis import RedisServer

from ojs_backend_redis import scripts
from ojs_backend_redis.backend import RedisBackend
from ojs_core.backend import Commit, Removal
from ojs_core.failing import plan_failure
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent, Retention, plan_ack
from ojs_core.testing.clock import DAY, HOUR, MINUTE, NOW
from ojs_core.testing.contract.steps import accept, apply, claim, claim_ids, insert, insert_one
from ojs_core.testing.factories import make_beat, make_error, make_new, make_transition, make_unique

OF_THE_STORE = {"store", "queues", "workers", "seen", "events"}
"""What stays when there are no jobs; with `minutes` of each queue, which holds the last hour."""


def names(server: RedisServer, backend: RedisBackend) -> set[str]:
    """Return the keys of a store, without its prefix."""
    root = backend._root  # noqa: SLF001 - what the keys begin with
    return {key.decode().removeprefix(root) for key in server.ask("KEYS", "*") if key.decode().startswith(root)}


async def test_a_job_that_was_removed_leaves_no_key(shared: RedisServer, backend: RedisBackend) -> None:
    """Through every state, with everything a job can have."""
    job = await insert_one(
        backend,
        JobState.SCHEDULED,
        fingerprint="a" * 64,
        expires_at=NOW + DAY,
        workflow_id="019c5186-9a40-7000-8abc-00000000002a",
        as_sent=Raw(b"{}"),
    )
    await apply(backend, make_transition(LifecycleEvent.PROMOTE, job.id))
    [job] = (await claim(backend, worker_id="w")).jobs
    await backend.beat(make_beat("w", job.id))
    failure = plan_failure(job, NOW, Retention(), make_error(), 0.5)
    await apply(backend, make_transition(LifecycleEvent.RETRY, job.id, error=failure.error, changes=failure.changes))
    await apply(backend, make_transition(LifecycleEvent.PROMOTE, job.id))
    await claim(backend, worker_id="w")
    dead = {"dead": True, "discarded_at": NOW}
    await apply(backend, make_transition(LifecycleEvent.DISCARD, job.id, changes=dead, error=make_error()))
    await apply(backend, make_transition(LifecycleEvent.REVIVE, job.id, changes={"dead": False, "queue": "other"}))
    [job] = (await claim(backend, "other", worker_id="w")).jobs
    ack = plan_ack(job.id, NOW, Retention(), result=Raw(b"1"))
    job = (await apply(backend, ack)).job
    assert len(names(shared, backend)) > len(OF_THE_STORE)
    await accept(backend, removals=(Removal(job.id, job.version),))
    left = {name for name in names(shared, backend) if not name.startswith("minutes:")}
    assert left == OF_THE_STORE


async def test_finished_jobs_cost_what_retention_keeps(shared: RedisServer, backend: RedisBackend) -> None:
    """Memory goes back to where it was when they are removed, however many there were."""

    async def used(finished: int) -> int:
        jobs = await insert(
            backend, *(make_new(JobState.COMPLETED, wake_at=NOW + HOUR, events=()) for _ in range(finished))
        )
        await accept(backend, removals=tuple(Removal(job.id, job.version) for job in jobs))
        assert await backend.due_jobs(NOW + DAY, 10) == []
        return sum(shared.ask("MEMORY", "USAGE", key, "SAMPLES", 0) for key in shared.ask("KEYS", "*"))

    assert await used(10) == await used(3000)


async def test_the_last_hour_is_all_that_is_counted(shared: RedisServer, backend: RedisBackend) -> None:
    """A day of executions leaves the minutes of an hour behind."""
    for minute in range(0, 24 * 60, 7):
        now = NOW + minute * MINUTE
        job = await insert_one(backend, created_at=now)
        await claim_ids(backend, now=now)
        await apply(backend, plan_ack(job.id, now, Retention()))
    fields = shared.ask("HKEYS", f"{backend._root}minutes:default")  # noqa: SLF001 - the key
    assert len({field.partition(b":")[0] for field in fields}) <= 60 / 7 + 1


async def test_reset_leaves_counters_only(shared: RedisServer, backend: RedisBackend) -> None:
    await insert(backend, *(make_unique(f"{n:064x}", queue=f"q{n}") for n in range(50)))
    await backend.reset()
    assert names(shared, backend) == {"store", "events"}
    assert shared.ask("XLEN", f"{backend._root}events") == 0  # noqa: SLF001 - the key


async def test_stores_with_different_prefixes_do_not_meet(shared: RedisServer, make_backend: MakeBackend) -> None:
    """Not even where one prefix begins with the other, or has what patterns are made of."""
    prefixes = ("a", "ab", "a*", "a?", "[ab]", "a\\", "é")
    backends = [await make_backend(shared.url, prefix=prefix) for prefix in prefixes]
    jobs = [await insert_one(backend) for backend in backends]
    await backends[2].reset()
    await backends[4].reset()
    for position, (backend, job) in enumerate(zip(backends, jobs, strict=True)):
        assert await claim_ids(backend) == ([] if position in (2, 4) else [job.id])


# Places.


@pytest.mark.parametrize("priority", [-100, 0, 100])
async def test_neighbours_do_not_tie(shared: RedisServer, backend: RedisBackend, priority: int) -> None:
    """The largest score that a store can ever give out is an integer that a double holds, and so are all below it."""
    last = 2**44 - 8
    assert (100 + 100) * 2**44 + 2**44 < 2**53
    shared.ask("HSET", f"{backend._root}store", "seq", last)  # noqa: SLF001 - the key
    jobs = await insert(backend, *(make_new(priority=priority) for _ in range(7)))
    assert [job.seq for job in jobs] == list(range(last + 1, last + 8))
    scores = shared.ask("ZRANGE", f"{backend._root}ready:default", 0, -1, "WITHSCORES")  # noqa: SLF001 - the key
    expected = [(100 - priority) * 2**44 + job.seq for job in jobs]
    assert [int(pair[1] if isinstance(pair, (list, tuple)) else pair) for pair in _scores(scores)] == expected
    assert await claim_ids(backend) == [job.id for job in jobs]


def _scores(reply: list) -> list:
    return reply if reply and isinstance(reply[0], (list, tuple)) else reply[1::2]


async def test_scripts_say_what_they_take_and_return(shared: RedisServer) -> None:
    """Each begins with a header, and is known to Redis by its digest."""
    for script in vars(scripts).values():
        if isinstance(script, scripts.Script):
            own = (
                script.text.removeprefix(scripts.COMMITTING)
                .removeprefix(scripts.COMMON)
                .removeprefix(scripts.MAY_WRITE)
            )
            header = own.strip().partition("\n\n")[0]
            assert all(line.startswith("--") for line in header.splitlines()), script.name
            assert "Result" in header, script.name
            assert shared.ask("SCRIPT", "LOAD", script.text) in (script.digest, script.digest.encode())


async def test_a_commit_of_any_size_is_served(shared: RedisServer, make_backend: MakeBackend) -> None:
    """Lua's own limits (8000 values on its stack) are never met; how long it takes is another matter."""
    backend = await make_backend(shared.url, timeout_ms=60_000)
    news = tuple(make_new(queue=f"q{n % 50}") for n in range(10_000))
    [answer] = await backend.commit([Commit(inserts=news)])
    assert [job.id for job in answer.inserted] == [new.job.id for new in news]
    names_of_queues = tuple(f"q{n}" for n in range(50))
    assert len(await claim_ids(backend, *names_of_queues, count=10_000)) == 10_000
    assert len(await backend.get_jobs([new.job.id for new in news])) == 10_000


async def test_a_record_that_somebody_deleted_holds_nobody_up(shared: RedisServer, backend: RedisBackend) -> None:
    """As an eviction policy does that `check` warns of: the job is lost, the others are not."""
    gone, stays = await insert(backend, make_new(expires_at=NOW + HOUR), make_new(expires_at=NOW + HOUR))
    shared.ask("DEL", f"{backend._root}j:{gone.id}")  # noqa: SLF001 - the key
    assert [job.id for job in await backend.due_jobs(NOW + DAY, 9)] == [stays.id]
    assert await backend.get_jobs([gone.id, stays.id]) == [None, stays]
    assert await claim_ids(backend) == [stays.id]


async def test_records_that_somebody_deleted_do_not_stop_the_clock(shared: RedisServer, backend: RedisBackend) -> None:
    """However many are due before the others: each look gets past some."""
    *gone, stays = await insert(backend, *(make_new(expires_at=NOW + n) for n in range(4)))
    shared.ask("DEL", *(f"{backend._root}j:{job.id}" for job in gone))  # noqa: SLF001 - the keys
    looks = [await backend.due_jobs(NOW + DAY, 2) for _ in range(2)]
    assert [job.id for job in looks[-1]] == [stays.id]


async def test_a_large_batch_of_unique_jobs(shared: RedisServer, backend: RedisBackend) -> None:
    """The holds of one batch do not look at each other's jobs one by one."""
    shared.ask("CONFIG", "RESETSTAT")
    [answer] = await backend.commit([Commit(inserts=tuple(make_unique(f"{n:064x}") for n in range(3000)))])
    assert len(answer.inserted) == 3000
    assert shared.ask("INFO", "commandstats")["cmdstat_zrangebyscore"]["calls"] == 3000 * 5
