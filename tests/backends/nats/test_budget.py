"""What an operation costs the store: requests to NATS, counted on the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from tests.servers.nats_fixtures import NATSOpener

from ojs_backend_nats.backend import NATSBackend
from ojs_core.backend import Commit, CronWrite, EventQuery, JobQuery, Removal, WorkflowWrite
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.steps import accept, apply, claim, claim_ids, counts, insert, insert_one, job_in, refuse
from ojs_core.testing.factories import make_beat, make_claim, make_cron, make_new, make_transition, make_unique
from ojs_core.testing.factories import make_workflow as flow_of


@pytest.fixture
async def backend(open_nats: NATSOpener) -> NATSBackend:
    return await open_nats()


async def cost(backend: NATSBackend, *calls: Awaitable[Any]) -> int:
    """Return how many requests NATS got for calls made at once."""
    link = backend._parts.link  # noqa: SLF001 - what it costs is nothing a backend tells
    before = link.requests
    await asyncio.gather(*calls)
    return link.requests - before


async def test_each_operation_is_one_request(backend: NATSBackend) -> None:
    assert await cost(backend, insert_one(backend)) == 1
    assert await cost(backend, insert(backend, make_unique("a" * 64))) == 1
    assert await cost(backend, insert(backend, *(make_new(queue=f"q{n % 5}") for n in range(100)))) == 1
    [job] = (await claim(backend, worker_id="w")).jobs
    assert await cost(backend, claim(backend, worker_id="w")) == 1
    assert await cost(backend, backend.beat(make_beat("w", job.id))) == 1
    assert await cost(backend, apply(backend, make_transition(LifecycleEvent.ACK, job.id))) == 1
    assert await cost(backend, backend.set_paused("q", NOW, paused=True)) == 1
    assert await cost(backend, backend.set_directive("w", "quiet")) == 1
    assert await cost(backend, backend.prune_events(NOW, 5, 100)) == 1


async def test_a_step_of_a_workflow_or_of_cron_is_one_request(backend: NATSBackend) -> None:
    flow = flow_of()
    made = accept(backend, workflows=(WorkflowWrite(flow.id, flow, 0),), cron=CronWrite("c", make_cron("c"), 0))
    assert await cost(backend, made) == 1
    step = accept(backend, workflows=(WorkflowWrite(flow.id, flow, 1),), inserts=tuple(make_new() for _ in range(50)))
    assert await cost(backend, step) == 1
    fire = accept(backend, cron=CronWrite("c", make_cron("c"), 1), inserts=(make_unique("a" * 64),))
    assert await cost(backend, fire) == 1


async def test_an_answer_without_a_change_is_one_request_too(backend: NATSBackend) -> None:
    """That asks whether there is anything newer: also an empty queue and a refusal are the latest there is."""
    job = await insert_one(backend)
    assert await cost(backend, claim_ids(backend, "empty", "none", "nothing")) == 1
    assert await cost(backend, refuse(backend, inserts=(make_new(id=job.id),))) == 1
    for call in (
        backend.get_jobs([job.id]),
        backend.due_jobs(NOW, 100),
        backend.next_wake_at(),
        backend.list_jobs(JobQuery()),
        backend.queue_stats("default", NOW),
        backend.list_queues(),
        backend.list_workers(),
        backend.list_events(EventQuery()),
        backend.ping(),
    ):
        assert await cost(backend, call) == 1


async def test_what_arrives_together_is_written_together(backend: NATSBackend) -> None:
    """Whatever it is: one entry for all that came while the last one was under way."""
    jobs = [*await insert(backend, *(make_new() for _ in range(64)))]
    active = (await claim(backend, count=32)).jobs
    mixed = [
        backend.commit([Commit(inserts=(make_new(queue="other"),)) for _ in range(300)]),
        backend.claim([make_claim(worker_id=f"w{n}") for n in range(16)]),
        *(backend.commit([Commit(transitions=(make_transition(LifecycleEvent.ACK, job.id),))]) for job in active),
        backend.get_jobs([job.id for job in jobs]),
        backend.list_queues(),
    ]
    assert await cost(backend, *mixed) == 1


async def test_the_end_of_a_job_costs_no_read(backend: NATSBackend) -> None:
    """Where it is refused, its record is shown, and read from the log only if the job has ended."""
    job = await job_in(backend, JobState.ACTIVE)
    ack = make_transition(LifecycleEvent.ACK, job.id)
    assert await cost(backend, apply(backend, ack)) == 1
    assert await cost(backend, refuse(backend, transitions=(ack,))) == 2
    assert await cost(backend, backend.get_jobs([job.id])) == 2
    assert await cost(backend, accept(backend, removals=(Removal(job.id, job.version + 1),))) == 1


async def test_costs_do_not_grow_with_the_backlog(backend: NATSBackend) -> None:
    """Neither requests nor, for what looks at the front of an index, work."""
    for n in range(10):
        await insert(backend, *(make_new(JobState.SCHEDULED, wake_at=NOW + 1000 + n) for _ in range(1000)))
        await insert(backend, *(make_new(queue="backlog") for _ in range(1000)))
    job = await insert_one(backend, JobState.SCHEDULED, wake_at=NOW)
    assert await cost(backend, backend.due_jobs(NOW, 100)) == 1
    assert [due.id for due in await backend.due_jobs(NOW, 100)] == [job.id]
    assert await cost(backend, claim(backend, "backlog", count=10)) == 1


async def test_any_number_of_jobs_may_be_active_at_once(backend: NATSBackend) -> None:
    """No consumer stands between a queue and its workers that would count them."""
    jobs = await insert(backend, *(make_new() for _ in range(3000)))
    claimed = [job_id for _ in range(3) for job_id in await claim_ids(backend, count=1000)]
    assert claimed == [job.id for job in jobs]
    assert await counts(backend) == {"active": 3000}
