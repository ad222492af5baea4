"""The order in which jobs are handed out: exact, for any size of claim (C-OPS-10, C-OPS-11, C-PRI-01)."""

from __future__ import annotations

from random import Random

import pytest

from ojs_core.backend import Backend, Commit, Committed
from ojs_core.job import Job, JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import accept, apply, claim, claim_ids, insert, insert_one, job_in
from ojs_core.testing.factories import make_id, make_new, make_transition

BACK = (LifecycleEvent.REQUEUE, LifecycleEvent.LAPSE)
"""Ways from `active` straight back to `available`."""


def _shuffled(items: list[int]) -> list[int]:
    Random(1).shuffle(items)  # noqa: S311 - the same order every time
    return items


class OrderContract(BackendFixtures):
    """Queues left to right, priority high to low, then in the order of acceptance."""

    async def test_every_priority_has_its_place(self, backend: Backend) -> None:
        """All of -100 to 100, inserted in disorder."""
        priorities = _shuffled([*range(-100, 101)])
        await insert(backend, *(make_new(priority=priority) for priority in priorities))
        jobs = (await claim(backend, count=201)).jobs
        assert [job.priority for job in jobs] == [*range(100, -101, -1)]

    async def test_first_in_first_out_within_a_millisecond(self, backend: Backend) -> None:
        """What counts is the order of acceptance; ids and times of creation say nothing (C-OPS-11)."""
        ids = [make_id(NOW + n % 7) for n in range(100)]
        Random(2).shuffle(ids)  # noqa: S311 - the same order every time
        news = [make_new(id=job_id, created_at=NOW - n % 5) for n, job_id in enumerate(ids)]
        await insert(backend, *news[:30])
        for new in news[30:60]:
            await insert(backend, new)
        await backend.commit([Commit(inserts=(new,)) for new in news[60:]])
        assert await claim_ids(backend) == ids

    @pytest.mark.parametrize("size", [1, 2, 7, 50])
    async def test_the_size_of_the_claim_makes_no_difference(self, backend: Backend, size: int) -> None:
        """Priority first and then acceptance, whether fetched one by one or together."""
        priorities = _shuffled([n % 5 * 50 - 100 for n in range(50)])
        jobs = await insert(backend, *(make_new(priority=priority) for priority in priorities))
        expected = [job.id for job in sorted(jobs, key=lambda job: -job.priority)]
        found: list[str] = []
        while len(found) < len(jobs):
            found += await claim_ids(backend, count=size)
        assert found == expected

    async def test_queues_left_to_right(self, backend: Backend) -> None:
        """The order of the request decides before any priority, and `count` spans the queues."""
        names = ["b", "a", "c"]
        jobs: dict[str, list[Job]] = {name: [] for name in names}
        for priority in (0, 50, -50):
            for name in names:
                jobs[name].append(await insert_one(backend, queue=name, priority=priority if name != "c" else 100))
        by_priority = {name: [jobs[name][1].id, jobs[name][0].id, jobs[name][2].id] for name in ("a", "b")}
        in_turn = [job.id for job in jobs["c"]]
        assert await claim_ids(backend, "b", "c", "a", count=5) == [*by_priority["b"], *in_turn[:2]]
        assert await claim_ids(backend, "a", "c", count=4) == [*by_priority["a"], in_turn[2]]

    async def test_an_empty_first_queue_hides_nothing(self, backend: Backend) -> None:
        """The next ones are served."""
        job = await insert_one(backend, queue="last")
        await insert_one(backend, JobState.SCHEDULED, queue="first")
        assert await claim_ids(backend, "unknown", "first", "last") == [job.id]

    @pytest.mark.parametrize("event", BACK)
    async def test_a_job_given_back_goes_to_the_back(self, backend: Backend, event: LifecycleEvent) -> None:
        """To the back of its own band, in front of lower ones (C-OPS-11)."""
        back = await insert_one(backend, priority=5)
        lower = await insert_one(backend, priority=4)
        peer = await insert_one(backend, priority=5)
        assert await claim_ids(backend, count=1) == [back.id]
        await apply(backend, make_transition(event, back.id))
        later = await insert_one(backend, priority=5)
        assert await claim_ids(backend) == [peer.id, back.id, later.id, lower.id]

    @pytest.mark.parametrize(
        ("state", "event"),
        [
            (JobState.SCHEDULED, LifecycleEvent.PROMOTE),
            (JobState.RETRYABLE, LifecycleEvent.PROMOTE),
            (JobState.PENDING, LifecycleEvent.ACTIVATE),
            (JobState.DISCARDED, LifecycleEvent.REVIVE),
        ],
    )
    async def test_a_job_takes_its_place_when_it_becomes_available(
        self, backend: Backend, state: JobState, event: LifecycleEvent
    ) -> None:
        """However old it is, it stands behind what is there already, and before what comes later."""
        old = await job_in(backend, state)
        before = await insert_one(backend)
        change = await apply(backend, make_transition(event, old.id))
        after = await insert_one(backend)
        assert before.seq < change.job.seq < after.seq
        assert await claim_ids(backend) == [before.id, old.id, after.id]

    async def test_jobs_released_together_keep_the_order_asked(self, backend: Backend) -> None:
        """Swaps of one commit, and commits of one call, are placed in their order: due order survives promotion."""
        jobs = await insert(
            backend, *(make_new(JobState.SCHEDULED, scheduled_at=NOW + n) for n in _shuffled([*range(20)]))
        )
        due = await backend.due_jobs(NOW + 20, 20)
        promotions = [make_transition(LifecycleEvent.PROMOTE, job.id, at=NOW + 20) for job in due]
        await accept(backend, transitions=tuple(promotions[:10]))
        answers = await backend.commit([Commit(transitions=(swap,)) for swap in promotions[10:]])
        assert all(isinstance(answer, Committed) for answer in answers)
        expected = sorted(jobs, key=lambda job: job.scheduled_at or 0)
        assert await claim_ids(backend) == [job.id for job in expected]

    async def test_a_pause_keeps_the_order(self, backend: Backend) -> None:
        """What came before and during the pause is handed out as if there had been none (C-QOP-02)."""
        before = await insert(backend, *(make_new(priority=n % 2) for n in range(4)))
        await backend.set_paused("default", NOW, paused=True)
        during = await insert(backend, *(make_new(priority=n % 2) for n in range(4)))
        await backend.set_paused("default", NOW + 1, paused=False)
        expected = sorted([*before, *during], key=lambda job: -job.priority)
        assert await claim_ids(backend) == [job.id for job in expected]

    async def test_an_expired_job_does_not_hold_up_its_band(self, backend: Backend) -> None:
        """Order among the others is as if it were not there."""
        jobs = await insert(backend, *(make_new(expires_at=NOW if n % 2 else None) for n in range(10)))
        assert await claim_ids(backend, count=3) == [job.id for job in jobs[:6:2]]
        assert await claim_ids(backend, count=3) == [job.id for job in jobs[6::2]]
