"""Several servers, one store: what one writes the other sees, and they share every guarantee.

Selected by `capabilities.shared`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from ojs_core.backend import Backend, CronWrite, EventQuery, JobQuery, WorkflowWrite
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.doorbell import Bell
from ojs_core.testing.contract.races import RACES
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import (
    accept,
    apply,
    claim,
    claim_ids,
    counts,
    events,
    insert,
    insert_one,
    job_in,
    read,
    refuse,
    snapshot,
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


class SharedContract(BackendFixtures):
    """`backend` and `second` are two servers."""

    @pytest.mark.parametrize("race", RACES, ids=lambda race: race.__name__)
    async def test_one_winner_across_servers(
        self, backend: Backend, second: Backend, race: Callable[..., Awaitable[None]]
    ) -> None:
        """See the race."""
        await race(backend, second)

    async def test_both_see_the_same(self, backend: Backend, second: Backend) -> None:
        """Everything either shows, whichever wrote it."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="w")
        flow = make_workflow(wake_at=NOW)
        await accept(second, cron=CronWrite("c", make_cron("c"), 0), workflows=(WorkflowWrite(flow.id, flow, 0),))
        await backend.set_paused("p", NOW, paused=True)
        await second.beat(make_beat("w", job.id))
        await second.set_directive("w", "quiet")
        await accept(backend, events=(make_event(),))
        assert await snapshot(backend, [flow.id]) == await snapshot(second, [flow.id])
        assert await backend.due_workflows(NOW, 9) == await second.due_workflows(NOW, 9)
        assert await backend.due_crons(NOW * 2, 9) == await second.due_crons(NOW * 2, 9)

    async def test_what_one_answered_the_other_finds(self, backend: Backend, second: Backend) -> None:
        """At once: inserted here, claimed there, ended here, read there (stateless servers)."""
        for here, there in ((backend, second), (second, backend)):
            job = await insert_one(here)
            assert await claim_ids(there) == [job.id]
            await apply(here, make_transition(LifecycleEvent.ACK, job.id))
            assert (await read(there, job.id)).state is JobState.COMPLETED
            assert await claim_ids(here) == []

    async def test_guards_hold_across_servers(self, backend: Backend, second: Backend) -> None:
        """Ids, holds and versions, with the job the other one wrote."""
        [job] = await insert(backend, make_unique("a" * 64))
        [conflict] = await refuse(second, inserts=(make_new(id=job.id),))
        assert (conflict.kind, conflict.job) == ("id", job)
        [conflict] = await refuse(second, inserts=(make_unique("a" * 64),))
        assert (conflict.kind, conflict.job) == ("hold", job)
        [claimed] = (await claim(second)).jobs
        [conflict] = await refuse(
            backend, transitions=(make_transition(LifecycleEvent.CANCEL, job.id, version=job.version),)
        )
        assert conflict.job == claimed

    async def test_order_is_of_the_store(self, backend: Backend, second: Backend) -> None:
        """Jobs are handed out in the order they were accepted, whichever server accepted them (C-OPS-11)."""
        ids = []
        for n in range(40):
            ids.append((await insert_one((backend, second)[n % 2])).id)
            if n % 10 == 9:
                requeued = (await claim((backend, second)[n % 2 - 1])).jobs[0].id
                await apply(backend, make_transition(LifecycleEvent.REQUEUE, requeued))
                ids.remove(requeued)
                ids.append(requeued)
        found = [job_id for n in range(20) for job_id in await claim_ids((backend, second)[n % 2], count=2)]
        assert found == ids

    async def test_the_log_is_of_the_store(self, backend: Backend, second: Backend) -> None:
        """One order, ids ascending, also when the servers' clocks differ (C-EVT-07)."""
        for n in range(20):
            await accept((backend, second)[n % 2], events=(make_event(subject=f"{n}", at=NOW - 500 * (n % 2)),))
        found = await events(backend)
        assert [event.subject for event in found] == [f"{n}" for n in range(20)]
        assert await events(second) == found
        page = await second.list_events(EventQuery(after=found[9].id, limit=3))
        assert [event.subject for event in page.events] == ["10", "11", "12"]

    async def test_cursors_may_change_servers(self, backend: Backend, second: Backend) -> None:
        """A page begun on one goes on at the other."""
        jobs = await insert(backend, *(make_new() for _ in range(4)))
        page = await backend.list_jobs(JobQuery(limit=2))
        page = await second.list_jobs(JobQuery(limit=2, cursor=page.next_cursor))
        assert [job.id for job in page.jobs] == [jobs[1].id, jobs[0].id]

    async def test_pauses_directives_and_limits_are_shared(self, backend: Backend, second: Backend) -> None:
        """What stops a claim on one server stops it on all (C-QOP-03)."""
        await insert(backend, *(make_new(max_per_second=2) for _ in range(9)))
        assert len(await claim_ids(backend, count=1)) == 1
        answers = await second.claim([make_claim(count=5)])
        assert len(answers[0].jobs) == 1
        await insert(backend, make_new(queue="q"))
        await backend.set_paused("q", NOW, paused=True)
        assert await claim_ids(second, "q") == []
        await second.set_paused("q", NOW, paused=False)
        await second.beat(make_beat("w"))
        await second.set_directive("w", "terminate")
        assert await claim_ids(backend, "q", worker_id="w") == []
        assert len(await claim_ids(backend, "q")) == 1
        assert await counts(second, "q") == {"active": 1}

    async def test_the_bell_rings_on_the_other_server(self, backend: Backend, second: Backend) -> None:
        """If the store pushes wake-ups: for an insert, a swap and a resume."""
        if not second.capabilities.push_wakeups:
            pytest.skip("the store does not push wake-ups")  # pragma: no cover - as the store is
        bell = Bell(second)
        await insert_one(backend, queue="a")
        await bell.expect("a")
        job = await insert_one(backend, JobState.PENDING, queue="b")
        await apply(backend, make_transition(LifecycleEvent.ACTIVATE, job.id))
        await bell.expect("b")
        await backend.set_paused("c", NOW, paused=True)
        await backend.set_paused("c", NOW, paused=False)
        await bell.expect("c")

    async def test_a_server_may_leave(self, backend: Backend, second: Backend) -> None:
        """Closing one takes nothing from the other."""
        job = await insert_one(second)
        await second.close()
        assert await claim_ids(backend) == [job.id]
