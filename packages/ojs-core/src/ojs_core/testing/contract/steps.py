"""What the tests of the contract do to a store and ask of it, one short step each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from ojs_core.backend import (
    Backend,
    Change,
    Claimed,
    ClaimRequest,
    Commit,
    Committed,
    Conflict,
    EventQuery,
    JobQuery,
    NewJob,
    Refused,
)
from ojs_core.events import Event
from ojs_core.job import Job, JobState, replace_fields
from ojs_core.lifecycle import RELEASED, LifecycleEvent, Transition
from ojs_core.records import CronEntry, Queue, QueueStats, Worker, Workflow
from ojs_core.testing.clock import DAY, HOUR, NOW
from ojs_core.testing.factories import make_claim, make_new, make_transition

FAR = 1 << 60
"""Later than everything a test writes."""


async def commit(backend: Backend, **parts: Any) -> Committed | Refused:
    """Ask for one commit and return its answer."""
    answers = await backend.commit([Commit(**parts)])
    assert len(answers) == 1
    return answers[0]


async def accept(backend: Backend, **parts: Any) -> Committed:
    """Ask for one commit that has to happen."""
    answer = await commit(backend, **parts)
    assert isinstance(answer, Committed), f"refused: {answer}"
    return answer


async def refuse(backend: Backend, **parts: Any) -> tuple[Conflict, ...]:
    """Ask for one commit that must not happen, and return the conflicts."""
    answer = await commit(backend, **parts)
    assert isinstance(answer, Refused), f"accepted: {answer}"
    assert answer.conflicts
    return answer.conflicts


async def insert(backend: Backend, *news: NewJob) -> list[Job]:
    """Insert jobs in one commit and return them as stored."""
    return list((await accept(backend, inserts=news)).inserted)


async def insert_one(backend: Backend, state: JobState = JobState.AVAILABLE, **fields: Any) -> Job:
    """Insert one job made by `make_new`, and return it as stored."""
    [job] = await insert(backend, make_new(state, **fields))
    return job


async def apply(backend: Backend, transition: Transition) -> Change:
    """Make a swap that has to happen."""
    [change] = (await accept(backend, transitions=(transition,))).changed
    return change


async def claim(backend: Backend, *queues: str, **fields: Any) -> Claimed:
    """Ask one claim, made by `make_claim`."""
    return await claim_as(backend, make_claim(*queues, **fields))


async def claim_as(backend: Backend, request: ClaimRequest) -> Claimed:
    """Ask one claim."""
    answers = await backend.claim([request])
    assert len(answers) == 1
    return answers[0]


async def claim_ids(backend: Backend, *queues: str, **fields: Any) -> list[str]:
    """Ask one claim, by default of everything, and return the ids handed out."""
    return [job.id for job in (await claim(backend, *queues, **{"count": 1000, **fields})).jobs]


async def read(backend: Backend, job_id: str) -> Job:
    """Read a job that has to be there."""
    [job] = await backend.get_jobs([job_id])
    assert job is not None
    return job


_WAYS = {
    JobState.COMPLETED: (LifecycleEvent.ACK, "completed_at"),
    JobState.RETRYABLE: (LifecycleEvent.RETRY, "next_retry_at"),
    JobState.CANCELLED: (LifecycleEvent.CANCEL, "cancelled_at"),
    JobState.DISCARDED: (LifecycleEvent.DISCARD, "discarded_at"),
}
"""How an active job gets into a state, and the time it leaves behind."""


async def job_in(
    backend: Backend,
    state: JobState,
    *,
    worker_id: str | None = None,
    changes: dict[str, Any] | None = None,
    **fields: Any,
) -> Job:
    """Bring a new job into `state` by ordinary steps, all at its creation; no other job of its queue may be available.

    `worker_id` claims it, `changes` go with the swap into `state`.
    """
    if state in (JobState.AVAILABLE, JobState.SCHEDULED, JobState.PENDING):
        return await insert_one(backend, state, **fields)
    inserted = await insert_one(backend, **fields)
    at = inserted.created_at
    [job] = (await claim(backend, inserted.queue, worker_id=worker_id, now=at)).jobs
    assert job.id == inserted.id
    if state is JobState.ACTIVE:
        return job
    event, stamp = _WAYS[state]
    later = at + (HOUR if state is JobState.RETRYABLE else DAY)
    stamped = {stamp: later if state is JobState.RETRYABLE else at}
    transition = make_transition(
        event,
        job.id,
        at=at,
        changes={**RELEASED, **stamped, **(changes or {})},
        wake_at=later,
        member_wake_at=at + 1000,
    )
    return (await apply(backend, transition)).job


def without_place(job: Job) -> Job:
    """Return a job without what the store is free to number as it likes."""
    return replace_fields(job, seq=0)


def data_of(event: Event) -> dict[str, Any]:
    """Return the data of an event, decoded."""
    data = msgspec.json.decode(event.data)
    assert isinstance(data, dict)
    return data


async def events(backend: Backend, **query: Any) -> list[Event]:
    """Return all events that match."""
    page = await backend.list_events(EventQuery(**{"limit": 100_000, **query}))
    assert not page.has_more
    return list(page.events)


async def event_types(backend: Backend, **query: Any) -> list[str]:
    """Return the types of all events that match."""
    return [event.type for event in await events(backend, **query)]


async def listed(backend: Backend, **query: Any) -> list[str]:
    """Return the ids of all jobs that match, in the order of the listing."""
    page = await backend.list_jobs(JobQuery(**{"limit": 10_000, **query}))
    assert page.total == len(page.jobs)
    return [job.id for job in page.jobs]


async def counts(backend: Backend, queue: str = "default", now: int = NOW) -> dict[str, int]:
    """Return how many jobs of a queue are in each state, leaving out the states that have none."""
    stats = await backend.queue_stats(queue, now)
    assert stats is not None
    assert set(stats.states) == set(JobState)
    return {state: number for state, number in stats.states.items() if number}


class Snapshot(Struct, frozen=True):
    """Everything a store shows, to tell that nothing changed."""

    jobs: list[Job]
    due: list[Job]
    next_wake_at: int | None
    queues: list[Queue]
    stats: list[QueueStats | None]
    workers: list[Worker]
    crons: list[CronEntry]
    workflows: list[Workflow | None]
    events: list[Event]


async def snapshot(backend: Backend, workflow_ids: Sequence[str] = (), now: int = NOW) -> Snapshot:
    """Read everything the store shows; workflows by id."""
    queues = await backend.list_queues()
    return Snapshot(
        jobs=list((await backend.list_jobs(JobQuery(limit=100_000))).jobs),
        due=await backend.due_jobs(FAR, 100_000),
        next_wake_at=await backend.next_wake_at(),
        queues=queues,
        stats=[await backend.queue_stats(queue.name, now) for queue in queues],
        workers=await backend.list_workers(),
        crons=await backend.list_crons(),
        workflows=[await backend.get_workflow(workflow_id) for workflow_id in workflow_ids],
        events=await events(backend),
    )


def text(value: Raw | None) -> bytes:
    """Return the JSON text of a raw value."""
    assert value is not None
    return bytes(value)
