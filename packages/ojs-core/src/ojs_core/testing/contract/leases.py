"""Heartbeats: which leases they renew, and what they say of the worker (C-VIS-05, C-WRK-05, C-WRK-07)."""

from __future__ import annotations

import pytest

from ojs_core.backend import Backend
from ojs_core.job import JobState, replace_fields
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import HOUR, MINUTE, NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import apply, claim, counts, data_of, events, insert_one, job_in, read, refuse
from ojs_core.testing.factories import LEASE_MS, TIMEOUT_MS, make_beat, make_id, make_transition


class LeaseContract(BackendFixtures):
    """`WorkerStore.beat`, as far as jobs are concerned."""

    async def test_a_beat_renews_the_lease_it_names(self, backend: Backend) -> None:
        """To the length the lease was taken with, counted from now; nothing else of the job changes."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="w", visibility_timeout_ms=5000)
        beaten = await backend.beat(make_beat("w", job.id, now=NOW + 900))
        expected = replace_fields(job, version=job.version + 1, lease_expires_at=NOW + 5900, wake_at=NOW + 5900)
        assert beaten.extended == (expected,)
        assert beaten.others == ()
        assert await read(backend, job.id) == expected
        assert await counts(backend) == {"active": 1}

    async def test_a_beat_may_give_another_length(self, backend: Backend) -> None:
        """It replaces the length, shorter or longer, and the next beat without one goes on with it."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="w")
        for lease_ms, asked in ((7000, 7000), (7000, None), (30, 30), (30, None)):
            [after] = (await backend.beat(make_beat("w", job.id, now=NOW + 10, lease_ms=asked))).extended
            assert (after.lease_ms, after.lease_expires_at) == (lease_ms, NOW + 10 + lease_ms)

    async def test_a_beat_does_not_move_the_execution_timeout(self, backend: Backend) -> None:
        """The other clock runs on, and wakes the job if it ends first (C-VIS-06)."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="w")
        later = NOW + TIMEOUT_MS - MINUTE
        [after] = (await backend.beat(make_beat("w", job.id, now=later))).extended
        assert after.timeout_at == job.timeout_at
        assert after.lease_expires_at == later + LEASE_MS
        assert after.wake_at == job.timeout_at
        assert await backend.next_wake_at() == job.timeout_at

    async def test_a_beat_after_the_lease_renews_it_too(self, backend: Backend) -> None:
        """As long as nobody took the job away, it is still the worker's."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="w")
        late = NOW + LEASE_MS + 1
        assert [job.id for job in await backend.due_jobs(late, 5)] == [job.id]
        beaten = await backend.beat(make_beat("w", job.id, now=late, lease_ms=1000))
        assert [job.lease_expires_at for job in beaten.extended] == [late + 1000]
        assert await backend.due_jobs(late, 5) == []

    async def test_jobs_not_named_are_left_alone(self, backend: Backend) -> None:
        """Even those of the same worker."""
        named = await job_in(backend, JobState.ACTIVE, worker_id="w")
        other = await job_in(backend, JobState.ACTIVE, worker_id="w")
        beaten = await backend.beat(make_beat("w", named.id, now=NOW + 5))
        assert [job.id for job in beaten.extended] == [named.id]
        assert await read(backend, other.id) == other

    async def test_a_beat_without_jobs(self, backend: Backend) -> None:
        """It renews nothing."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="w")
        beaten = await backend.beat(make_beat("w", now=NOW + 5))
        assert (beaten.extended, beaten.others) == ((), ())
        assert await read(backend, job.id) == job

    async def test_a_job_of_nobody_is_renewed(self, backend: Backend) -> None:
        """It was claimed without a worker id; the beat does not make it the worker's."""
        job = await job_in(backend, JobState.ACTIVE)
        [after] = (await backend.beat(make_beat("w", job.id, now=NOW + 5))).extended
        assert (after.worker_id, after.lease_expires_at) == (None, NOW + 5 + LEASE_MS)

    async def test_anothers_job_is_not_renewed(self, backend: Backend) -> None:
        """It is reported among the others, as it is."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="another")
        beaten = await backend.beat(make_beat("w", job.id, now=NOW + 5))
        assert (beaten.extended, beaten.others) == ((), (job,))
        assert await read(backend, job.id) == job
        assert await events(backend, types=("job.heartbeat",)) == []

    @pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.ACTIVE])
    async def test_a_job_that_is_not_active_is_not_renewed(self, backend: Backend, state: JobState) -> None:
        """The worker learns what became of it (C-WRK-06)."""
        job = await job_in(backend, state, worker_id="w")
        beaten = await backend.beat(make_beat("w", job.id, now=NOW + 5))
        assert (beaten.extended, beaten.others) == ((), (job,))
        assert await read(backend, job.id) == job

    async def test_a_job_taken_by_another_since(self, backend: Backend) -> None:
        """The old owner's beat does not renew the new owner's lease (C-VIS-04)."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="old")
        await apply(backend, make_transition(LifecycleEvent.LAPSE, job.id))
        [again] = (await claim(backend, worker_id="new")).jobs
        assert (await backend.beat(make_beat("old", job.id, now=NOW + 5))).others == (again,)
        assert await read(backend, job.id) == again

    async def test_unknown_jobs_are_no_error(self, backend: Backend) -> None:
        """Unknown, malformed and finished ids do not make the beat fail (C-WRK-07)."""
        active = await job_in(backend, JobState.ACTIVE, worker_id="w")
        ended = await job_in(backend, JobState.COMPLETED, worker_id="w")
        ids = (make_id(), ended.id, "no-id", "", active.id, "'; --", "é" * 50)
        beaten = await backend.beat(make_beat("w", *ids, now=NOW + 5))
        assert [job.id for job in beaten.extended] == [active.id]
        assert beaten.others == (ended,)

    async def test_a_job_named_twice_is_renewed_once(self, backend: Backend) -> None:
        """Once in the answer, one version, one event."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="w")
        waiting = await insert_one(backend)
        beaten = await backend.beat(make_beat("w", job.id, waiting.id, job.id, waiting.id, now=NOW + 5))
        assert [(after.id, after.version) for after in beaten.extended] == [(job.id, job.version + 1)]
        assert beaten.others == (waiting,)
        assert len(await events(backend, types=("job.heartbeat",))) == 1

    async def test_many_jobs_in_one_beat(self, backend: Backend) -> None:
        """All of them in one step."""
        ids = [(await job_in(backend, JobState.ACTIVE, worker_id="w")).id for _ in range(60)]
        beaten = await backend.beat(make_beat("w", *ids, now=NOW + HOUR, lease_ms=5))
        assert sorted(job.id for job in beaten.extended) == ids
        assert {job.lease_expires_at for job in beaten.extended} == {NOW + HOUR + 5}

    async def test_each_renewal_has_an_event(self, backend: Backend) -> None:
        """`job.heartbeat`, with the worker and the attempt (C-EVT-03)."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="w", queue="q")
        await backend.beat(make_beat("w", job.id, now=NOW + 5))
        [event] = await events(backend, types=("job.heartbeat",))
        assert (event.subject, event.queue, event.job_type, event.at) == (job.id, "q", "test.job", NOW + 5)
        data = data_of(event)
        assert (data["job_type"], data["queue"], data["worker_id"], data["attempt"]) == ("test.job", "q", "w", 1)
        assert data["visible_until"] == "2026-02-12T11:00:00.005Z"

    async def test_a_renewal_loses_to_nothing_it_did_not_see(self, backend: Backend) -> None:
        """A swap decided before the beat, guarded by the version, does not happen after it."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="w")
        await backend.beat(make_beat("w", job.id, now=NOW + 5))
        lapse = make_transition(LifecycleEvent.LAPSE, job.id, version=job.version)
        [conflict] = await refuse(backend, transitions=(lapse,))
        assert conflict.job == await read(backend, job.id)
