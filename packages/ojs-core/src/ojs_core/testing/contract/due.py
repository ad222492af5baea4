"""The clock: what is due, in which order, and when to look again."""

from __future__ import annotations

from ojs_core.backend import Backend, CronWrite, Removal, WorkflowWrite
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import DAY, HOUR, MINUTE, NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import FAR, accept, apply, claim, insert, insert_one, job_in
from ojs_core.testing.factories import LEASE_MS, make_beat, make_cron, make_id, make_new, make_transition, make_workflow


class DueContract(BackendFixtures):
    """`due_jobs`, `due_crons`, `due_workflows` and `next_wake_at` (C-SCH-01, C-SCH-04)."""

    async def test_an_empty_store_never_wakes(self, backend: Backend) -> None:
        """There is nothing to wait for."""
        assert await backend.next_wake_at() is None
        assert await backend.due_jobs(FAR, 10) == []
        assert await backend.due_crons(FAR, 10) == []
        assert await backend.due_workflows(FAR, 10) == []

    async def test_a_job_without_a_wake_is_never_due(self, backend: Backend) -> None:
        """An ordinary available job waits for a worker only."""
        await insert_one(backend)
        assert await backend.due_jobs(FAR, 10) == []
        assert await backend.next_wake_at() is None

    async def test_a_job_is_due_from_its_instant_on(self, backend: Backend) -> None:
        """Not a millisecond before, and until something changes it; reading it changes nothing."""
        job = await insert_one(backend, JobState.SCHEDULED, scheduled_at=NOW + 5)
        assert await backend.next_wake_at() == NOW + 5
        assert await backend.due_jobs(NOW + 4, 10) == []
        for now in (NOW + 5, NOW + 6, FAR):
            assert await backend.due_jobs(now, 10) == [job]

    async def test_the_earliest_comes_first_and_the_limit_cuts_the_latest(self, backend: Backend) -> None:
        """However many are due, a call returns the next few of them."""
        minutes = [17, 3, 44, 0, 58, 21, 9, 30, 1, 12]
        jobs = await insert(
            backend, *(make_new(JobState.SCHEDULED, scheduled_at=NOW + n * MINUTE, queue=f"q{n}") for n in minutes)
        )
        ordered = sorted(jobs, key=lambda job: job.wake_at or 0)
        for limit in (1, 4, 9, 10, 11):
            assert await backend.due_jobs(NOW + DAY, limit) == ordered[:limit]
        assert await backend.due_jobs(NOW + 12 * MINUTE, 10) == ordered[:5]

    async def test_ties_go_by_place_and_then_by_id(self, backend: Backend) -> None:
        """Jobs due in one instant keep the order of acceptance; those without a place the order of their ids."""
        placed = await insert(backend, *(make_new(id=make_id(NOW - n), expires_at=NOW + 5) for n in range(6)))
        assert await backend.due_jobs(NOW + 5, 6) == placed
        assert await backend.due_jobs(NOW + 5, 4) == placed[:4]

    async def test_ties_without_a_place_go_by_id(self, backend: Backend) -> None:
        """Scheduled jobs of one instant are released in the order of their ids."""
        ids = [make_id() for _ in range(6)]
        for position in (3, 0, 5, 2, 4, 1):
            await insert_one(backend, JobState.SCHEDULED, id=ids[position], scheduled_at=NOW + 5)
        assert [job.id for job in await backend.due_jobs(NOW + 5, 6)] == ids
        assert [job.id for job in await backend.due_jobs(NOW + 5, 4)] == ids[:4]

    async def test_every_state_has_its_clock(self, backend: Backend) -> None:
        """Promotion, expiry, lease, retry and the end of retention are all found the same way (`Job.wake_at`)."""
        expected = {
            (await insert_one(backend, expires_at=NOW + 1, queue="a")).id: NOW + 1,
            (await insert_one(backend, JobState.PENDING, expires_at=NOW + 2)).id: NOW + 2,
            (await job_in(backend, JobState.ACTIVE)).id: NOW + LEASE_MS,
            (await insert_one(backend, JobState.SCHEDULED)).id: NOW + HOUR,
            (await insert_one(backend, JobState.SCHEDULED, scheduled_at=NOW + DAY, expires_at=NOW + 3)).id: NOW + 3,
            (await job_in(backend, JobState.RETRYABLE)).id: NOW + HOUR,
            (await job_in(backend, JobState.COMPLETED)).id: NOW + DAY,
            (await job_in(backend, JobState.CANCELLED)).id: NOW + DAY,
            (await job_in(backend, JobState.DISCARDED)).id: NOW + DAY,
        }
        assert {job.id: job.wake_at for job in await backend.due_jobs(FAR, 100)} == expected

    async def test_the_clock_follows_the_record(self, backend: Backend) -> None:
        """Each change of a job moves its next instant, back and forth; the old one is forgotten."""

        async def wakes(at: int | None) -> None:
            assert await backend.next_wake_at() == at
            if at is not None:
                assert await backend.due_jobs(at - 1, 10) == []
                assert [job.wake_at for job in await backend.due_jobs(at, 10)] == [at]
            assert len(await backend.due_jobs(FAR, 10)) == (0 if at is None else 1)

        job = await insert_one(backend, JobState.SCHEDULED, scheduled_at=NOW + HOUR)
        await wakes(NOW + HOUR)
        await apply(backend, make_transition(LifecycleEvent.PROMOTE, job.id))
        await wakes(None)
        await claim(backend, worker_id="w", lease_ms=1000)
        await wakes(NOW + 1000)
        await backend.beat(make_beat("w", job.id, now=NOW + 900))
        await wakes(NOW + 1900)
        await backend.beat(make_beat("w", job.id, now=NOW + 900, lease_ms=50))
        await wakes(NOW + 950)
        await apply(backend, make_transition(LifecycleEvent.RETRY, job.id, wake_at=NOW + 7))
        await wakes(NOW + 7)
        await apply(backend, make_transition(LifecycleEvent.CANCEL, job.id, wake_at=NOW + DAY))
        await wakes(NOW + DAY)
        await accept(backend, removals=(Removal(job.id, 7),))
        await wakes(None)

    async def test_due_cron_entries(self, backend: Backend) -> None:
        """Earliest first, from their instant on, at most `limit`; a disabled one never."""
        for name, wake_at in (("c", NOW + 3), ("a", NOW + 5), ("b", NOW + 1), ("off", None)):
            await accept(backend, cron=CronWrite(name, make_cron(name, wake_at=wake_at), 0))
        assert [entry.name for entry in await backend.due_crons(FAR, 10)] == ["b", "c", "a"]
        assert [entry.name for entry in await backend.due_crons(FAR, 2)] == ["b", "c"]
        assert [entry.name for entry in await backend.due_crons(NOW + 3, 10)] == ["b", "c"]
        assert await backend.due_crons(NOW, 10) == []
        assert await backend.due_crons(NOW + 1, 10) == [await backend.get_cron("b")]
        await accept(backend, cron=CronWrite("b", make_cron("b", wake_at=NOW + 9), 1))
        await accept(backend, cron=CronWrite("c", None, 1))
        assert [entry.name for entry in await backend.due_crons(FAR, 10)] == ["a", "b"]

    async def test_due_workflows(self, backend: Backend) -> None:
        """Earliest first, from their instant on, at most `limit`; one with nothing to repair never."""
        flows = {wake_at: make_workflow(wake_at=wake_at) for wake_at in (NOW + 3, None, NOW + 5, NOW + 1)}
        for flow in flows.values():
            await accept(backend, workflows=(WorkflowWrite(flow.id, flow, 0),))
        ordered = [flows[NOW + 1].id, flows[NOW + 3].id, flows[NOW + 5].id]
        assert [flow.id for flow in await backend.due_workflows(FAR, 10)] == ordered
        assert [flow.id for flow in await backend.due_workflows(FAR, 2)] == ordered[:2]
        assert [flow.id for flow in await backend.due_workflows(NOW + 3, 10)] == ordered[:2]
        assert await backend.due_workflows(NOW, 10) == []
        first = flows[NOW + 1]
        assert await backend.due_workflows(NOW + 1, 10) == [await backend.get_workflow(first.id)]
        await accept(backend, workflows=(WorkflowWrite(first.id, make_workflow(id=first.id), 1),))
        await accept(backend, workflows=(WorkflowWrite(ordered[1], None, 1),))
        assert [flow.id for flow in await backend.due_workflows(FAR, 10)] == ordered[2:]

    async def test_the_next_wake_is_the_earliest_of_all(self, backend: Backend) -> None:
        """Jobs, workflows and cron entries share one clock."""
        flow = make_workflow(wake_at=NOW + 30)
        await accept(backend, cron=CronWrite("c", make_cron("c", wake_at=NOW + 20), 0))
        assert await backend.next_wake_at() == NOW + 20
        await accept(backend, workflows=(WorkflowWrite(flow.id, flow, 0),))
        assert await backend.next_wake_at() == NOW + 20
        job = await insert_one(backend, JobState.SCHEDULED, scheduled_at=NOW + 10)
        assert await backend.next_wake_at() == NOW + 10
        await accept(backend, removals=(Removal(job.id, 1),), cron=CronWrite("c", make_cron("c", wake_at=None), 1))
        assert await backend.next_wake_at() == NOW + 30
        await accept(backend, workflows=(WorkflowWrite(flow.id, None, 1),))
        assert await backend.next_wake_at() is None
