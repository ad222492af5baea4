"""Races: many callers at once, on one server or on several that share a store, of whom exactly one may win.

`ConcurrencyContract` runs them on one server, `SharedContract` across two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ojs_core.backend import Backend, Change, Commit, Committed, CronWrite, Refused, WorkflowWrite
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.steps import (
    accept,
    claim,
    claim_ids,
    commit,
    counts,
    event_types,
    events,
    insert,
    insert_one,
    job_in,
    read,
)
from ojs_core.testing.factories import (
    make_beat,
    make_claim,
    make_cron,
    make_event,
    make_new,
    make_transition,
    make_unique,
    make_workflow,
)

RIVALS = 64


async def race(servers: Sequence[Backend], commits: Sequence[Commit]) -> list[Committed | Refused]:
    """Ask all commits at once, in turn on each server, and return the answers in the order asked."""
    calls = [servers[n % len(servers)].commit([one]) for n, one in enumerate(commits)]
    return [answer for [answer] in await asyncio.gather(*calls)]


async def race_for_one_job(*servers: Backend) -> None:
    """64 claimers, one job."""
    job = await insert_one(servers[0])
    requests = [make_claim(worker_id=f"w{n}") for n in range(RIVALS)]
    answers = await asyncio.gather(*(servers[n % len(servers)].claim([one]) for n, one in enumerate(requests)))
    winners = [claimed for [answer] in answers for claimed in answer.jobs]
    assert [winner.id for winner in winners] == [job.id]
    assert await read(servers[-1], job.id) == winners[0]
    assert await event_types(servers[-1], types=("job.started",)) == ["job.started"]


async def race_for_many_jobs(*servers: Backend) -> None:
    """64 claimers, 150 jobs: the first of the queue go, each once, and each claimer has its share in order."""
    jobs = await insert(servers[0], *(make_new(priority=n % 3) for n in range(150)))
    places = {job.id: (-job.priority, job.seq) for job in jobs}
    sizes = [n % 3 + 1 for n in range(RIVALS)]
    answers = await asyncio.gather(*(claim_ids(servers[n % len(servers)], count=size) for n, size in enumerate(sizes)))
    assert [len(answer) for answer in answers] == sizes
    for answer in answers:
        assert answer == sorted(answer, key=places.__getitem__)
    handed = [job_id for answer in answers for job_id in answer]
    assert len(handed) == len(set(handed))
    assert sorted(handed, key=places.__getitem__) == sorted(places, key=places.__getitem__)[: len(handed)]
    assert (await counts(servers[-1])).get("active") == len(handed)


async def race_for_one_fingerprint(*servers: Backend) -> None:
    """64 equal unique inserts: one is stored, and all others are shown it."""
    news = [make_unique("a" * 64) for _ in range(RIVALS)]
    answers = await race(servers, [Commit(inserts=(new,)) for new in news])
    [winner] = [answer.inserted[0] for answer in answers if isinstance(answer, Committed)]
    for answer in answers:
        if isinstance(answer, Refused):
            assert [(conflict.kind, conflict.index, conflict.job) for conflict in answer.conflicts] == [
                ("hold", 0, winner)
            ]
    assert await counts(servers[-1]) == {"available": 1}
    assert await claim_ids(servers[-1]) == [winner.id]


async def race_to_replace(*servers: Backend) -> None:
    """64 replacements of one job: one ends it and takes its place."""
    [old] = await insert(servers[0], make_unique("a" * 64))
    cancel = make_transition(LifecycleEvent.CANCEL, old.id, version=old.version)
    commits = [Commit(transitions=(cancel,), inserts=(make_unique("a" * 64),)) for _ in range(RIVALS)]
    answers = await race(servers, commits)
    assert sum(isinstance(answer, Committed) for answer in answers) == 1
    assert await counts(servers[-1]) == {"available": 1, "cancelled": 1}


async def race_for_one_id(*servers: Backend) -> None:
    """64 inserts with the same id: one is stored, whole."""
    first = make_new()
    news = [make_new(id=first.job.id, priority=n) for n in range(RIVALS)]
    answers = await race(servers, [Commit(inserts=(new, make_new(queue="with"))) for new in news])
    [winner] = [answer.inserted[0] for answer in answers if isinstance(answer, Committed)]
    assert await read(servers[-1], first.job.id) == winner
    assert await counts(servers[-1]) == {"available": 1}
    assert await counts(servers[-1], "with") == {"available": 1}


async def race_to_end_a_job(*servers: Backend) -> None:
    """64 acks, failures, cancellations, lapses, requeues: one happens, the others see what it made of the job."""
    job = await job_in(servers[0], JobState.ACTIVE, worker_id="w")
    kinds = (
        LifecycleEvent.ACK,
        LifecycleEvent.RETRY,
        LifecycleEvent.DISCARD,
        LifecycleEvent.CANCEL,
        LifecycleEvent.LAPSE,
        LifecycleEvent.REQUEUE,
    )
    swaps = [make_transition(kinds[n % len(kinds)], job.id, version=job.version) for n in range(RIVALS)]
    answers = await race(servers, [Commit(transitions=(swap,)) for swap in swaps])
    [change] = [answer.changed[0] for answer in answers if isinstance(answer, Committed)]
    assert isinstance(change, Change)
    for answer in answers:
        if isinstance(answer, Refused):
            assert [(conflict.kind, conflict.job) for conflict in answer.conflicts] == [("transition", change.job)]
    assert await read(servers[-1], job.id) == change.job
    assert await counts(servers[-1]) == {change.job.state: 1}


async def race_beats_and_swaps(*servers: Backend) -> None:
    """Beats and a swap of one job: each that happened counts one version, and what has ended is not renewed."""
    job = await job_in(servers[0], JobState.ACTIVE, worker_id="w")
    beats = [servers[n % len(servers)].beat(make_beat("w", job.id, now=NOW + n)) for n in range(RIVALS)]
    ack = commit(servers[-1], transitions=(make_transition(LifecycleEvent.ACK, job.id),))
    first, answer, second = await asyncio.gather(
        asyncio.gather(*beats[: RIVALS // 2]), ack, asyncio.gather(*beats[RIVALS // 2 :])
    )
    assert isinstance(answer, Committed)
    renewed = [after.version for beaten in (*first, *second) for after in beaten.extended]
    assert len(renewed) == len(set(renewed))
    ended = answer.changed[0].job
    assert ended.version == job.version + len(renewed) + 1
    assert all(version < ended.version for version in renewed)
    assert await read(servers[0], job.id) == ended
    [worker] = await servers[0].list_workers()
    assert worker.beats == RIVALS
    assert await event_types(servers[0], types=("worker.started",)) == ["worker.started"]


async def race_to_fire(*servers: Backend) -> None:
    """64 firings of one occurrence and 64 advances of one workflow: one of each (C-CRN-17, C-WF-13)."""
    flow = make_workflow()
    await accept(servers[0], cron=CronWrite("c", make_cron("c"), 0), workflows=(WorkflowWrite(flow.id, flow, 0),))
    fires = [Commit(inserts=(make_new(),), cron=CronWrite("c", make_cron("c"), 1)) for _ in range(RIVALS)]
    steps = [
        Commit(inserts=(make_new(queue="steps"),), workflows=(WorkflowWrite(flow.id, flow, 1),)) for _ in range(RIVALS)
    ]
    fired, advanced = await asyncio.gather(race(servers, fires), race(servers, steps))
    assert sum(isinstance(answer, Committed) for answer in fired) == 1
    assert sum(isinstance(answer, Committed) for answer in advanced) == 1
    assert await counts(servers[-1]) == {"available": 1}
    assert await counts(servers[-1], "steps") == {"available": 1}


async def race_to_insert(*servers: Backend) -> None:
    """64 inserts at once: all stored, numbered without a tie, one event each, and handed out in that order."""
    news = [make_new() for _ in range(RIVALS)]
    answers = await race(servers, [Commit(inserts=(new,)) for new in news])
    stored = [answer.inserted[0] for answer in answers if isinstance(answer, Committed)]
    assert len(stored) == len({job.seq for job in stored}) == RIVALS
    assert await counts(servers[-1]) == {"available": RIVALS}
    ids = [event.id for event in await events(servers[-1])]
    assert len(set(ids)) == RIVALS
    assert await claim_ids(servers[-1]) == [job.id for job in sorted(stored, key=lambda job: job.seq)]


async def race_for_a_rate(*servers: Backend) -> None:
    """64 claimers of a limited queue in one instant get no more than the limit together (C-RL-01)."""
    await insert(servers[0], *(make_new(max_per_second=5) for _ in range(100)))
    answers = await asyncio.gather(*(claim(servers[n % len(servers)], count=3) for n in range(RIVALS)))
    assert sum(len(answer.jobs) for answer in answers) == 5


async def race_to_remove_a_worker(*servers: Backend) -> None:
    """64 servers notice a silent worker: one forgets it, and one event says so."""
    await servers[0].beat(make_beat("w"))
    calls = [servers[n % len(servers)].remove_worker("w", NOW + 1, make_event()) for n in range(RIVALS)]
    assert sum(await asyncio.gather(*calls)) == 1
    assert await event_types(servers[-1], types=("worker.stopped",)) == ["worker.stopped"]


async def race_to_pause(*servers: Backend) -> None:
    """64 pauses: one change, one event, one time, for all to see."""
    calls = [servers[n % len(servers)].set_paused("q", NOW + n, paused=True) for n in range(RIVALS)]
    assert len({queue.paused_at for queue in await asyncio.gather(*calls)}) == 1
    assert await event_types(servers[-1]) == ["queue.paused"]


RACES = (
    race_for_one_job,
    race_for_many_jobs,
    race_for_one_fingerprint,
    race_to_replace,
    race_for_one_id,
    race_to_end_a_job,
    race_beats_and_swaps,
    race_to_fire,
    race_to_insert,
    race_for_a_rate,
    race_to_remove_a_worker,
    race_to_pause,
)
