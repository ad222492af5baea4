"""The rate limit of a queue, as claims meet it (C-RL-01)."""

from __future__ import annotations

from ojs_core.backend import Backend
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import MINUTE, NOW, SECOND
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import apply, claim, claim_ids, counts, insert, insert_one
from ojs_core.testing.factories import make_claim, make_new, make_transition


class RateContract(BackendFixtures):
    """`NewJob.max_per_second`, honoured by `JobStore.claim`."""

    async def _fill(self, backend: Backend, limit: int, jobs: int = 30) -> list[str]:
        stored = await insert(backend, *(make_new(max_per_second=limit) for _ in range(jobs)))
        return [job.id for job in stored]

    async def test_one_claim_gets_no_more_than_the_limit(self, backend: Backend) -> None:
        """`count` above the limit is bounded, and the rest stays available."""
        ids = await self._fill(backend, 3)
        assert await claim_ids(backend, count=10) == ids[:3]
        assert await counts(backend) == {"available": 27, "active": 3}

    async def test_the_limit_holds_across_claims(self, backend: Backend) -> None:
        """What one claim took, another in the same second does not get; nor one in the same call."""
        ids = await self._fill(backend, 3)
        assert await claim_ids(backend, count=2) == ids[:2]
        answers = await backend.claim([make_claim(count=5, now=NOW + 10), make_claim(count=5, now=NOW + 20)])
        assert [[job.id for job in answer.jobs] for answer in answers] == [[ids[2]], []]
        assert await claim_ids(backend, count=5, now=NOW + 900) == []

    async def test_a_second_later_there_is_room_again(self, backend: Backend) -> None:
        """Whatever the grain of the window, after a second and a half the whole limit is there again, and not twice."""
        ids = await self._fill(backend, 3)
        await claim_ids(backend, count=3)
        assert await claim_ids(backend, count=9, now=NOW + 1500) == ids[3:6]
        assert await claim_ids(backend, count=9, now=NOW + MINUTE) == ids[6:9]

    async def test_no_second_hands_out_more_than_the_limit(self, backend: Backend) -> None:
        """In any window of one second, wherever it begins; and the limit is used, not only kept."""
        await self._fill(backend, 4, jobs=60)
        handed: list[int] = []
        for step in range(100):
            now = NOW + 73 * step
            handed += [now] * len(await claim_ids(backend, count=2, now=now))
        for begin in handed:
            assert sum(begin <= at < begin + SECOND for at in handed) <= 4
        assert len(handed) >= 4 * 73 * 100 // SECOND * 3 // 4

    async def test_other_queues_are_served(self, backend: Backend) -> None:
        """A queue at its limit is passed over, not waited for; `count` is filled from the next one."""
        limited = await self._fill(backend, 1)
        free = [job.id for job in await insert(backend, *(make_new(queue="free") for _ in range(3)))]
        assert await claim_ids(backend, "default", "free", count=3) == [limited[0], *free[:2]]
        assert await claim_ids(backend, "default", "free", count=3) == free[2:]

    async def test_a_limit_bounds_its_queue_only(self, backend: Backend) -> None:
        """Two limited queues have a window each."""
        await self._fill(backend, 2)
        await insert(backend, *(make_new(queue="other", max_per_second=3) for _ in range(5)))
        jobs = (await claim(backend, "default", "other", count=10)).jobs
        assert [job.queue for job in jobs] == ["default"] * 2 + ["other"] * 3

    async def test_a_new_limit_counts_at_once(self, backend: Backend) -> None:
        """A raised one leaves room for the difference; a lowered one waits until the window has passed."""
        ids = await self._fill(backend, 2)
        assert await claim_ids(backend, count=9) == ids[:2]
        await insert_one(backend, max_per_second=5)
        assert await claim_ids(backend, count=9) == ids[2:5]
        await insert_one(backend, max_per_second=1)
        assert await claim_ids(backend, count=9, now=NOW + 900) == []
        assert await claim_ids(backend, count=9, now=NOW + 1500) == ids[5:6]

    async def test_a_clock_behind_does_not_get_around_the_limit(self, backend: Backend) -> None:
        """Another server's clock may be late; what it hands out counts as if it were now."""
        ids = await self._fill(backend, 3)
        assert await claim_ids(backend, count=2) == ids[:2]
        assert await claim_ids(backend, count=9, now=NOW - 5 * SECOND) == ids[2:3]
        assert await claim_ids(backend, count=9, now=NOW + 500) == []

    async def test_a_clock_that_was_far_ahead_is_forgotten(self, backend: Backend) -> None:
        """Else a queue would stand still until the time that some server had by mistake."""
        ids = await self._fill(backend, 3)
        assert await claim_ids(backend, count=2, now=NOW + MINUTE) == ids[:2]
        assert await claim_ids(backend, count=9, now=NOW) == ids[2:5]
        assert await claim_ids(backend, count=9, now=NOW + 900) == []
        assert await claim_ids(backend, count=9, now=NOW + 1100) == ids[5:8]

    async def test_what_went_before_the_limit_does_not_count(self, backend: Backend) -> None:
        """The window is kept only while a limit is set."""
        free = await insert(backend, *(make_new() for _ in range(9)))
        assert await claim_ids(backend, count=5) == [job.id for job in free[:5]]
        await insert_one(backend, max_per_second=3)
        assert await claim_ids(backend, count=5) == [job.id for job in free[5:8]]
        assert await claim_ids(backend, count=5) == []

    async def test_a_job_handed_back_has_used_its_turn(self, backend: Backend) -> None:
        """What counts is what was handed out, whatever became of it."""
        ids = await self._fill(backend, 1, jobs=1)
        await claim_ids(backend)
        await apply(backend, make_transition(LifecycleEvent.REQUEUE, ids[0]))
        assert await claim_ids(backend, now=NOW + 500) == []
        assert await claim_ids(backend, now=NOW + 1500) == ids

    async def test_an_empty_claim_uses_no_turn(self, backend: Backend) -> None:
        """Only jobs handed out count; asking in vain and meeting expired ones does not."""
        await insert_one(backend, max_per_second=1, expires_at=NOW)
        for _ in range(3):
            assert await claim_ids(backend) == []
        job = await insert_one(backend)
        assert await claim_ids(backend) == [job.id]

    async def test_an_unlimited_queue_has_no_limit(self, backend: Backend) -> None:
        """Five hundred in one instant."""
        await insert(backend, *(make_new() for _ in range(500)))
        assert len(await claim_ids(backend, count=250)) == 250
        assert len(await claim_ids(backend, count=250)) == 250
