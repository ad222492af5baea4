"""Many jobs at once: Redis serves everybody else in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.backends.redis.conftest import MakeBackend
from tests.servers.redis import RedisServer

from ojs_backend_redis import backend as backend_module
from ojs_backend_redis.backend import RedisBackend
from ojs_core.backend import Commit, EventQuery, JobQuery, Removal, WorkflowWrite
from ojs_core.job import JobState
from ojs_core.lifecycle import plan_promote
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.steps import accept, claim_ids, counts, insert, insert_one
from ojs_core.testing.factories import make_claim, make_new, make_workflow, raw

LONGEST_S = 0.25
"""Processor time that Redis takes for one look and what it leads to; it is a few hundredths."""
PER_LOOK = 500
"""Jobs that core handles at once."""


def busy_s(server: RedisServer) -> float:
    """Return the processor time that the server's only thread for commands has taken."""
    with server.client() as client:
        cpu = client.info("cpu")
    return cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"]


async def test_many_jobs_due_at_once(make_server: Callable[..., RedisServer], make_backend: MakeBackend) -> None:
    """They are promoted a few at a time, in order; no script holds Redis up, however many are still due."""
    jobs = 10_000
    server = make_server()
    backend = await make_backend(server.url, prefix="scale")
    other = await make_backend(server.url, prefix="scale")
    for _ in range(jobs // 1000):
        await insert(backend, *(make_new(JobState.SCHEDULED, scheduled_at=NOW, queue="due") for _ in range(1000)))
    promoted = 0
    taken_s = []

    async def promote() -> None:
        nonlocal promoted
        before = busy_s(server)
        while due := await backend.due_jobs(NOW, PER_LOOK):
            assert len(due) <= PER_LOOK
            await backend.commit([Commit(transitions=(plan_promote(job, NOW),)) for job in due])
            promoted += len(due)
            after = busy_s(server)
            taken_s.append(after - before)
            before = after

    async def work() -> int:
        served = 0
        while promoted < jobs:
            job = await insert_one(other)
            assert await claim_ids(other) == [job.id]
            await other.list_jobs(JobQuery(limit=50))
            await other.list_events(EventQuery(limit=50))
            served += 1
        return served

    _, served = await asyncio.gather(promote(), work())
    assert served > 1, "everybody else had to wait until all were promoted"
    assert await counts(other, "due") == {"available": jobs}
    assert max(taken_s) < LONGEST_S


@pytest.mark.parametrize("most_bytes", [1, 10_000])
async def test_large_records_due_at_once(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch, most_bytes: int
) -> None:
    """They come in portions that arrive in time, each of at least one."""
    monkeypatch.setattr(backend_module, "DUE_MAX_BYTES", most_bytes)
    size = 3000
    large = raw(["x" * size])
    jobs = await insert(backend, *(make_new(JobState.COMPLETED, wake_at=NOW, args=large) for _ in range(20)))
    flows = [make_workflow(input=large, wake_at=NOW) for _ in range(20)]
    await accept(backend, workflows=tuple(WorkflowWrite(flow.id, flow, 0) for flow in flows))
    left = {job.id for job in jobs}
    while due := await backend.due_jobs(NOW, PER_LOOK):
        assert len(due) <= most_bytes // size + 1
        await accept(backend, removals=tuple(Removal(job.id, job.version) for job in due))
        left -= {job.id for job in due}
    assert not left
    left = {flow.id for flow in flows}
    while found := await backend.due_workflows(NOW, PER_LOOK):
        assert len(found) <= most_bytes // size + 1
        await accept(backend, workflows=tuple(WorkflowWrite(flow.id, None, flow.version) for flow in found))
        left -= {flow.id for flow in found}
    assert not left


@pytest.mark.parametrize(("most_bytes", "portion"), [(1, 1), (10_000, 3)])
async def test_large_jobs_are_handed_out_in_portions(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch, most_bytes: int, portion: int
) -> None:
    """In their order, and each once; who asked for more gets less, and who asked with others gets its own."""
    monkeypatch.setattr(backend_module, "CLAIMED_MAX_BYTES", most_bytes)
    jobs = await insert(backend, *(make_new(args=raw(["x" * 3000])) for _ in range(20)))
    request = make_claim("nothing", "default", count=7)
    answers = [*await backend.claim([request] * 3), *await backend.claim([request])]
    assert [len(answer.jobs) for answer in answers] == [portion] * 4
    assert [job.id for answer in answers for job in answer.jobs] == [job.id for job in jobs[: 4 * portion]]
    monkeypatch.undo()
    assert await claim_ids(backend, count=100) == [job.id for job in jobs[4 * portion :]]


async def test_events_are_pruned_a_few_at_a_time(backend: RedisBackend) -> None:
    """By number and by age, from the front, as many as asked for."""
    for n in range(20):
        await insert(backend, *(make_new(created_at=NOW + n) for _ in range(1000)))
    assert await backend.prune_events(NOW, 15_000, 5000) == 5000
    assert await backend.prune_events(NOW + 10, 15_000, 5000) == 5000
    assert await backend.prune_events(NOW + 10, 15_000, 5000) == 0
    [oldest] = (await backend.list_events(EventQuery(limit=1))).events
    assert oldest.at == NOW + 10


async def test_a_million_events_while_the_clock_of_redis_stands_still(
    shared: RedisServer, backend: RedisBackend
) -> None:
    """As when it was set back: they all get a number of the one millisecond, which has room for a million."""
    [job] = await insert(backend, make_new())
    log = f"{backend._root}events"  # noqa: SLF001 - the key
    [(_, entry)] = shared.ask("XRANGE", log, "-", "+")
    ahead_ms = 4_000_000_000_001
    shared.ask("XADD", log, f"{ahead_ms}-{2**20 - 2}", *(text for pair in entry.items() for text in pair))
    jobs = [job, job, *[await insert_one(backend) for _ in range(5)]]
    seen = []
    after = None
    for more in reversed(range(len(jobs))):
        page = await backend.list_events(EventQuery(after=after, limit=1))
        assert page.has_more == (more > 0)
        [event] = page.events
        seen.append(event.subject)
        after = event.id
    assert seen == [job.id for job in jobs]
