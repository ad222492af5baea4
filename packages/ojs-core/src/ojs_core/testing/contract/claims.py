"""Claiming: what is handed out, to whom, and what the record says afterwards."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ojs_core.backend import Backend
from ojs_core.job import JobState, replace_fields
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import MINUTE, NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import (
    apply,
    claim,
    claim_ids,
    counts,
    data_of,
    events,
    insert,
    insert_one,
    job_in,
    read,
    snapshot,
)
from ojs_core.testing.factories import (
    LEASE_MS,
    TIMEOUT_MS,
    make_beat,
    make_claim,
    make_new,
    make_transition,
)


class ClaimContract(BackendFixtures):
    """`JobStore.claim` (T06, C-OPS-10 to C-OPS-18, C-VIS-01)."""

    async def test_no_requests_no_answers(self, backend: Backend) -> None:
        """Nothing asked, nothing answered."""
        assert await backend.claim([]) == []

    async def test_nothing_to_hand_out(self, backend: Backend) -> None:
        """Unknown and empty queues are no error, and claiming does not create them."""
        answer = await claim(backend, "unknown", "other", count=5)
        assert (answer.jobs, answer.expired) == ((), ())
        assert await backend.list_queues() == []

    async def test_the_record_after_a_claim(self, backend: Backend) -> None:
        """Active, counted, fenced, leased, and timed; the answer is the record (C-OPS-14)."""
        job = await insert_one(backend, expires_at=NOW + 5)
        [claimed] = (await claim(backend, worker_id="w", now=NOW + 3)).jobs
        assert claimed == replace_fields(
            job,
            state=JobState.ACTIVE,
            version=2,
            fence=1,
            attempt=1,
            started_at=NOW + 3,
            worker_id="w",
            lease_ms=LEASE_MS,
            lease_expires_at=NOW + 3 + LEASE_MS,
            timeout_at=NOW + 3 + TIMEOUT_MS,
            wake_at=NOW + 3 + LEASE_MS,
        )
        assert await read(backend, job.id) == claimed
        assert await counts(backend) == {"active": 1}

    async def test_a_claim_without_a_worker(self, backend: Backend) -> None:
        """`worker_id` is optional; then nobody is recorded (C-OPS-17)."""
        await insert_one(backend)
        [claimed] = (await claim(backend)).jobs
        assert claimed.worker_id is None
        assert await backend.list_workers() == []

    @pytest.mark.parametrize(
        ("asked", "own", "expected"), [(7, 6, 7), (None, 6, 6), (7, None, 7), (None, None, LEASE_MS)]
    )
    async def test_the_length_of_the_lease(
        self, backend: Backend, asked: int | None, own: int | None, expected: int
    ) -> None:
        """The one asked for, else the job's, else the default (C-VIS-01)."""
        await insert_one(backend, visibility_timeout_ms=own)
        [claimed] = (await claim(backend, lease_ms=asked)).jobs
        assert (claimed.lease_ms, claimed.lease_expires_at) == (expected, NOW + expected)
        assert claimed.wake_at == NOW + expected

    @pytest.mark.parametrize(("own", "expected"), [(9, 9), (None, TIMEOUT_MS)])
    async def test_the_execution_timeout(self, backend: Backend, own: int | None, expected: int) -> None:
        """The job's, else the default; whichever of lease and timeout ends first wakes the job (C-VIS-06)."""
        await insert_one(backend, timeout_ms=own)
        [claimed] = (await claim(backend)).jobs
        assert claimed.timeout_at == NOW + expected
        assert claimed.wake_at == NOW + min(expected, LEASE_MS)
        assert [job.id for job in await backend.due_jobs(NOW + min(expected, LEASE_MS), 5)] == [claimed.id]

    async def test_a_claim_clears_the_retry_time(self, backend: Backend) -> None:
        """`next_retry_at` shows only while `retryable`; `retry_delay_ms` stays."""
        job = await job_in(backend, JobState.RETRYABLE, changes={"retry_delay_ms": 5})
        assert job.next_retry_at is not None
        await apply(backend, make_transition(LifecycleEvent.PROMOTE, job.id))
        [claimed] = (await claim(backend)).jobs
        assert (claimed.next_retry_at, claimed.retry_delay_ms) == (None, 5)

    async def test_attempt_and_fence_grow_with_every_claim(self, backend: Backend) -> None:
        """Every delivery counts, and no token is used twice (C-LC-04)."""
        job = await insert_one(backend)
        seen = []
        for _ in range(5):
            [claimed] = (await claim(backend)).jobs
            seen.append((claimed.attempt, claimed.fence))
            await apply(backend, make_transition(LifecycleEvent.REQUEUE, job.id))
        assert seen == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]

    async def test_each_job_is_handed_out_once(self, backend: Backend) -> None:
        """A job that was claimed is not available any more (C-LC-03)."""
        jobs = await insert(backend, *(make_new() for _ in range(5)))
        assert await claim_ids(backend, count=2) == [job.id for job in jobs[:2]]
        assert await claim_ids(backend, count=2) == [job.id for job in jobs[2:4]]
        assert await claim_ids(backend, count=2) == [jobs[4].id]
        assert await claim_ids(backend, count=2) == []

    async def test_requests_of_one_call_are_served_in_order(self, backend: Backend) -> None:
        """Each gets its own answer with its own worker and lease, and none a job of another."""
        jobs = await insert(backend, *(make_new() for _ in range(4)))
        requests = [
            make_claim(worker_id="a", count=2, lease_ms=5),
            make_claim("empty", worker_id="b"),
            make_claim(worker_id="c", now=NOW + 1),
            make_claim(count=9),
            make_claim(),
        ]
        answers = await backend.claim(requests)
        assert [[job.id for job in answer.jobs] for answer in answers] == [
            [jobs[0].id, jobs[1].id],
            [],
            [jobs[2].id],
            [jobs[3].id],
            [],
        ]
        assert [job.worker_id for answer in answers for job in answer.jobs] == ["a", "a", "c", None]
        assert answers[0].jobs[1].lease_ms == 5
        assert answers[2].jobs[0].started_at == NOW + 1

    async def test_hundreds_of_requests_in_one_call(self, backend: Backend) -> None:
        """What arrives together is served together: each its share, in the order asked."""
        jobs = await insert(backend, *(make_new(queue="ab"[n % 2]) for n in range(200)))
        answers = await backend.claim([make_claim("ab"[n % 3 % 2], worker_id=f"w{n}") for n in range(300)])
        found = {"a": [job.id for job in jobs[::2]], "b": [job.id for job in jobs[1::2]]}
        for n, answer in enumerate(answers):
            expected = found["ab"[n % 3 % 2]]
            assert [job.id for job in answer.jobs] == ([expected.pop(0)] if expected else [])
            assert all(job.worker_id == f"w{n}" for job in answer.jobs)

    async def test_a_queue_named_twice_counts_once(self, backend: Backend) -> None:
        """Repeats in `queues` neither repeat jobs nor change the order."""
        a = await insert_one(backend, queue="a")
        b = await insert_one(backend, queue="b")
        assert await claim_ids(backend, "a", "b", "a", "a") == [a.id, b.id]
        await insert_one(backend, queue="a", max_per_second=2)
        await insert(backend, *(make_new(queue="a") for _ in range(5)))
        assert len(await claim_ids(backend, "a", "a", "a", now=NOW + MINUTE)) == 2

    async def test_a_paused_queue_is_passed_over(self, backend: Backend) -> None:
        """Its jobs stay; the queues beside it are served (C-QOP-01)."""
        paused = await insert_one(backend, queue="paused")
        other = await insert_one(backend, queue="other")
        await backend.set_paused("paused", NOW, paused=True)
        assert await claim_ids(backend, "paused", "other") == [other.id]
        late = await insert_one(backend, queue="paused")
        assert await claim_ids(backend, "paused") == []
        await backend.set_paused("paused", NOW, paused=False)
        assert await claim_ids(backend, "paused") == [paused.id, late.id]

    # Expiry.

    async def test_an_expired_job_is_reported_and_left(self, backend: Backend) -> None:
        """It is never handed out, from the very instant on, and the claim goes on behind it (C-OPS-13, C-SCH-03)."""
        expired = await insert_one(backend, expires_at=NOW + 5)
        lives = await insert_one(backend, expires_at=NOW + 6)
        forever = await insert_one(backend)
        answer = await claim(backend, count=3, now=NOW + 5)
        assert [job.id for job in answer.jobs] == [lives.id, forever.id]
        assert answer.expired == (expired,)
        assert await read(backend, expired.id) == expired
        assert (await claim(backend, now=NOW + 5)).expired == (expired,)

    async def test_only_expired_jobs_are_reported(self, backend: Backend) -> None:
        """Of what the claim did not come to it may report less, never something else."""
        expired = [await insert_one(backend, expires_at=NOW) for _ in range(3)]
        await insert_one(backend, JobState.SCHEDULED, expires_at=NOW)
        await job_in(backend, JobState.COMPLETED, queue="done", expires_at=NOW + 1)
        await insert_one(backend, queue="unasked", expires_at=NOW)
        await insert_one(backend)
        answer = await claim(backend, "default", "done", now=NOW + 1)
        assert len(answer.jobs) == 1
        assert sorted(job.id for job in answer.expired) == [job.id for job in expired]

    async def test_at_most_a_hundred_expired_jobs_are_reported(self, backend: Backend) -> None:
        """However many stand in front, discarding what is reported and asking again comes to the job behind them."""
        await insert(backend, *(make_new(expires_at=NOW) for _ in range(250)))
        lives = await insert_one(backend)
        found: list[str] = []
        for _ in range(4):
            answer = await claim(backend)
            assert len(answer.expired) <= 100
            found += [job.id for job in answer.jobs]
            for job in answer.expired:
                await apply(backend, make_transition(LifecycleEvent.EXPIRE, job.id, version=job.version))
        assert found == [lives.id]

    # Who asks.

    async def test_a_claim_notes_the_worker(self, backend: Backend) -> None:
        """Seen, even when it got nothing; but it never beat, so it cannot be declared dead (C-WRK-05, C-WRK-09)."""
        await claim(backend, worker_id="w", now=NOW + 1)
        [worker] = await backend.list_workers()
        assert (worker.id, worker.first_seen_at, worker.last_seen_at, worker.beats) == ("w", NOW + 1, NOW + 1, 0)
        await claim(backend, worker_id="w", now=NOW + 9)
        [worker] = await backend.list_workers()
        assert (worker.first_seen_at, worker.last_seen_at, worker.beats) == (NOW + 1, NOW + 9, 0)
        assert await events(backend, types=("worker.*",)) == []

    async def test_a_claim_keeps_what_the_worker_reported(self, backend: Backend) -> None:
        """Only the last seen time is new."""
        worker = (await backend.beat(make_beat("w", hostname="h", pid=7, state="quiet"))).worker
        await claim(backend, worker_id="w", now=NOW + 9)
        [after] = await backend.list_workers()
        assert after == msgspec.structs.replace(worker, last_seen_at=NOW + 9)

    @pytest.mark.parametrize("directive", ["quiet", "terminate"])
    async def test_a_worker_told_to_stop_gets_nothing(self, backend: Backend, directive: Any) -> None:
        """The jobs stay for others, and it is noted that the worker was seen (C-OPS-18)."""
        job = await insert_one(backend)
        await claim(backend, "none", worker_id="w")
        await backend.set_directive("w", directive)
        assert await claim_ids(backend, worker_id="w", now=NOW + 9) == []
        assert [worker.last_seen_at for worker in await backend.list_workers()] == [NOW + 9]
        assert await claim_ids(backend, worker_id="another") == [job.id]

    @pytest.mark.parametrize("directive", ["running", None])
    async def test_a_worker_told_to_go_on_is_served(self, backend: Backend, directive: Any) -> None:
        """A directive is lifted by another one or by none."""
        job = await insert_one(backend)
        await claim(backend, "none", worker_id="w")
        await backend.set_directive("w", "quiet")
        await backend.set_directive("w", directive)
        assert await claim_ids(backend, worker_id="w") == [job.id]

    async def test_a_workers_own_state_does_not_matter(self, backend: Backend) -> None:
        """What it says of itself is a report; only the operator's directive stops it."""
        job = await insert_one(backend)
        await backend.beat(make_beat("w", state="terminate"))
        assert await claim_ids(backend, worker_id="w") == [job.id]

    # What else a claim does and does not.

    async def test_each_job_handed_out_has_an_event(self, backend: Backend) -> None:
        """`job.started`, with the worker and the attempt (C-EVT-03)."""
        jobs = await insert(backend, *(make_new(queue="q") for _ in range(3)))
        await claim(backend, "q", count=2, worker_id="w", now=NOW + 4)
        started = await events(backend, types=("job.started",))
        assert [(event.subject, event.at, event.queue) for event in started] == [
            (job.id, NOW + 4, "q") for job in jobs[:2]
        ]
        data = data_of(started[1])
        assert (data["job_type"], data["queue"], data["worker_id"], data["attempt"]) == ("test.job", "q", "w", 1)
        assert data["state"] == "active"

    async def test_an_empty_claim_leaves_everything(self, backend: Backend) -> None:
        """Without a worker it changes nothing at all."""
        await insert_one(backend, JobState.SCHEDULED)
        await insert_one(backend, expires_at=NOW)
        before = await snapshot(backend)
        await claim(backend, count=5)
        assert await snapshot(backend) == before

    async def test_a_claim_promotes_nothing(self, backend: Backend) -> None:
        """Due jobs become available by a swap of core, not on the way."""
        job = await insert_one(backend, JobState.SCHEDULED, scheduled_at=NOW + 1)
        assert await claim_ids(backend, now=NOW + MINUTE) == []
        assert await read(backend, job.id) == job

    async def test_many_queues(self, backend: Backend) -> None:
        """A request may name a hundred queues."""
        names = [f"queue-{n}" for n in range(100)]
        job = await insert_one(backend, queue=names[-1])
        assert await claim_ids(backend, *names) == [job.id]
