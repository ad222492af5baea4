"""What an operation costs: trips, as Redis counts them, and the commands its script runs for each job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable
from typing import Any

import pytest
from msgspec import Raw
from tests.servers.redis import RedisServer

from ojs_backend_redis.backend import RedisBackend
from ojs_core.backend import Commit, EventQuery, JobQuery
from ojs_core.job import Job, JobState
from ojs_core.lifecycle import Retention, plan_ack, plan_cancel
from ojs_core.testing.clock import DAY, NOW
from ojs_core.testing.contract.steps import claim_ids, insert, insert_one
from ojs_core.testing.factories import make_beat, make_claim, make_event, make_new, make_unique

TRIPS = {"evalsha", "eval"}


class Meter:
    """Counts the commands that Redis ran."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    async def count(self, call: Awaitable[Any]) -> tuple[Any, Counter[str]]:
        """Return the answer of a call, and the commands it took; those of scripts count beside the script."""
        before = self._read()
        answer = await call
        # Reading the numbers is a command of its own.
        spent = self._read() - before - Counter({"info": 1})
        return answer, spent

    def _read(self) -> Counter[str]:
        with self._server.client() as client:
            found = client.info("commandstats")
        return Counter({name.removeprefix("cmdstat_"): stats["calls"] for name, stats in found.items()}) - Counter(
            {
                name: found[f"cmdstat_{name}"]["calls"]
                for name in ("client|setinfo", "hello")
                if f"cmdstat_{name}" in found
            }
        )


@pytest.fixture
async def meter(shared: RedisServer, backend: RedisBackend) -> Meter:
    """Counts what `backend` does from here on; its connections are made, its scripts are loaded."""
    job = await insert_one(backend, queue="warm")
    await claim_ids(backend, "warm", worker_id="w")
    await backend.beat(make_beat("w", job.id))
    await backend.commit([Commit(transitions=(plan_cancel(job.id, NOW, Retention()),))])
    for call in (
        backend.get_jobs([job.id]),
        backend.due_jobs(NOW, 1),
        backend.due_crons(NOW, 1),
        backend.queue_stats("warm", NOW),
        backend.set_paused("warm", NOW, paused=True),
        backend.list_workers(),
        backend.set_directive("w", "running"),
        backend.remove_worker("x", NOW, make_event()),
        backend.prune_events(0, 100, 1),
    ):
        await call
    return Meter(shared)


def trips(spent: Counter[str]) -> int:
    return sum(spent[name] for name in TRIPS)


async def test_every_write_is_one_trip(backend: RedisBackend, meter: Meter) -> None:
    """Whatever the number of queues, and of requests that came together."""
    news = tuple(make_new(queue=f"q{n % 7}") for n in range(300))
    queues = tuple(f"q{n}" for n in range(7))
    _, spent = await meter.count(backend.commit([Commit(inserts=news)]))
    assert trips(spent) == 1
    _, spent = await meter.count(backend.commit([Commit(inserts=(make_unique(f"{n:064x}"),)) for n in range(100)]))
    assert trips(spent) == 1
    answers, spent = await meter.count(
        backend.claim([make_claim(*queues, count=3, worker_id=f"w{n}") for n in range(30)])
    )
    assert trips(spent) == 1
    jobs: list[Job] = [job for answer in answers for job in answer.jobs]
    assert len(jobs) == 90
    _, spent = await meter.count(backend.beat(make_beat("w0", *(job.id for job in jobs))))
    assert trips(spent) == 1
    acks = [Commit(transitions=(plan_ack(job.id, NOW, Retention(), fence=job.fence),)) for job in jobs[:100]]
    _, spent = await meter.count(backend.commit(acks))
    assert trips(spent) == 1
    for call in (
        backend.set_paused("q0", NOW, paused=True),
        backend.set_directive("w0", "quiet"),
        backend.remove_worker("w1", NOW + 1, make_event()),
        backend.prune_events(NOW, 10, 100),
    ):
        _, spent = await meter.count(call)
        assert trips(spent) == 1


async def test_many_changes_of_many_callers_are_a_few_trips(backend: RedisBackend, meter: Meter) -> None:
    """What nobody asked to be one step lets others in between; one commit of any size is one step."""
    news = [make_new() for _ in range(250)]
    _, spent = await meter.count(backend.commit([Commit(inserts=(new,)) for new in news]))
    assert trips(spent) == 2
    commits = [Commit(inserts=(make_new(),)), Commit(inserts=tuple(make_new() for _ in range(500))), Commit()]
    _, spent = await meter.count(backend.commit(commits))
    assert trips(spent) == 3
    answers, spent = await meter.count(backend.claim([make_claim(count=40) for _ in range(20)]))
    assert [len(answer.jobs) for answer in answers] == [40] * 18 + [31, 0]
    assert trips(spent) == 4


async def test_every_read_is_one_trip(backend: RedisBackend, meter: Meter) -> None:
    """But the listing, which takes a few."""
    jobs = await insert(backend, *(make_new(JobState.SCHEDULED, queue=f"q{n % 5}") for n in range(50)))
    for call in (
        backend.get_jobs([job.id for job in jobs]),
        backend.due_jobs(NOW + DAY, 50),
        backend.due_crons(NOW, 5),
        backend.due_workflows(NOW, 5),
        backend.queue_stats("q1", NOW),
        backend.list_workers(),
    ):
        _, spent = await meter.count(call)
        assert trips(spent) == 1
    _, spent = await meter.count(backend.next_wake_at())
    assert spent == {"zrange": 3}
    _, spent = await meter.count(backend.list_events(EventQuery()))
    assert spent == {"xrange": 1}
    _, spent = await meter.count(backend.list_jobs(JobQuery(queue="q1", limit=5)))
    assert spent == {"zcount": 8, "zrevrange": 1, "evalsha": 1, "hgetall": 5}


async def test_the_commands_of_a_job(backend: RedisBackend, meter: Meter) -> None:
    """What each step of an ordinary job makes Redis do; a step that takes more must be worth it."""
    jobs = 100
    _, spent = await meter.count(backend.commit([Commit(inserts=(make_new(),)) for _ in range(jobs)]))
    once = {"evalsha": 1, "hincrby": 1, "hget": 1, "publish": 1}
    assert spent - Counter(once) == {"exists": 100, "hset": 101, "zadd": 200, "xadd": 100}
    answers, spent = await meter.count(backend.claim([make_claim(worker_id="w") for _ in range(jobs)]))
    taken = [job for answer in answers for job in answer.jobs]
    assert spent == {
        "evalsha": 1,
        "hget": 101,  # is the worker told to stop? once per request; and the queue, once
        "zpopmin": 100,
        "hgetall": 100,
        "hset": 100,
        "zrem": 100,  # no longer listed as available
        "zadd": 400,  # listed as active, its clock, held by its worker; and the worker was seen
        "xadd": 100,
    }
    acks = [plan_ack(job.id, NOW, Retention(), worker_id="w", fence=job.fence, result=Raw(b"1")) for job in taken]
    _, spent = await meter.count(backend.commit([Commit(transitions=(ack,)) for ack in acks]))
    assert spent - Counter({"evalsha": 1, "hexists": 1, "hincrby": 4, "hkeys": 1}) == {
        "hgetall": 100,
        "hset": 100,
        "zrem": 200,  # no longer listed as active, no longer held
        "zadd": 200,  # listed as completed, its clock
        "xadd": 100,
    }


async def test_an_empty_queue_costs_one_look_for_all_who_ask(backend: RedisBackend, meter: Meter) -> None:
    """Many long polls of an empty queue are no load."""
    await insert_one(backend, queue="empty")
    await claim_ids(backend, "empty")
    _, spent = await meter.count(backend.claim([make_claim("empty", "unknown") for _ in range(200)]))
    assert spent == {"evalsha": 1, "hget": 2, "zpopmin": 1}


async def test_costs_do_not_grow_with_history(backend: RedisBackend, meter: Meter) -> None:
    """The same commands with a thousand finished jobs as with none."""

    async def cycle() -> list[Counter[str]]:
        _, first = await meter.count(backend.commit([Commit(inserts=(make_unique("a" * 64),))]))
        [answer], second = await meter.count(backend.claim([make_claim()]))
        ack = plan_ack(answer.jobs[0].id, NOW, Retention())
        _, third = await meter.count(backend.commit([Commit(transitions=(ack,))]))
        _, fourth = await meter.count(backend.due_jobs(NOW, 10))
        return [first, second, third, fourth]

    await cycle()
    before = await cycle()
    for _ in range(10):
        await insert(
            backend, *(make_new(JobState.COMPLETED, fingerprint="a" * 64, wake_at=NOW + DAY) for _ in range(100))
        )
    assert await cycle() == before
