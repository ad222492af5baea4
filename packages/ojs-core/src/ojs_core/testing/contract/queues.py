"""Queues: what exists, what is paused, and the numbers (C-QOP-01 to C-QOP-05)."""

from __future__ import annotations

from ojs_core.backend import Backend, Removal
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import HOUR, MINUTE, NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import (
    accept,
    apply,
    claim,
    counts,
    data_of,
    events,
    insert,
    insert_one,
    read,
    snapshot,
)
from ojs_core.testing.factories import make_error, make_new, make_transition

_E = LifecycleEvent


class QueueContract(BackendFixtures):
    """`QueueStore`, rates aside."""

    async def test_queues_are_listed_by_name(self, backend: Backend) -> None:
        """Each once, in the order of the code points of their names."""
        for name in ("b", "a.b", "a-b", "ab", "a", "10", "9"):
            await insert(backend, make_new(queue=name), make_new(queue=name))
        assert [queue.name for queue in await backend.list_queues()] == ["10", "9", "a", "a-b", "a.b", "ab", "b"]

    async def test_a_queue_never_seen_has_no_numbers(self, backend: Backend) -> None:
        """None, and asking does not create it."""
        assert await backend.queue_stats("unknown", NOW) is None
        assert await backend.list_queues() == []

    # Pausing.

    async def test_a_pause_creates_the_queue(self, backend: Backend) -> None:
        """It is there, paused and empty."""
        queue = await backend.set_paused("q", NOW + 5, paused=True)
        assert (queue.name, queue.created_at, queue.paused_at, queue.paused) == ("q", NOW + 5, NOW + 5, True)
        assert await backend.list_queues() == [queue]
        stats = await backend.queue_stats("q", NOW + 5)
        assert stats is not None
        assert stats.queue == queue
        assert sum(stats.states.values()) == 0

    async def test_a_resume_creates_the_queue_too(self, backend: Backend) -> None:
        """It is there and not paused; nothing changed, so nothing is told."""
        queue = await backend.set_paused("q", NOW, paused=False)
        assert (queue.name, queue.paused_at) == ("q", None)
        assert await backend.list_queues() == [queue]
        assert await events(backend) == []

    async def test_pausing_twice_keeps_the_first_time(self, backend: Backend) -> None:
        """The second is no change: same `paused_at`, no event; so is a second resume."""
        first = await backend.set_paused("q", NOW + 1, paused=True)
        assert await backend.set_paused("q", NOW + 2, paused=True) == first
        resumed = await backend.set_paused("q", NOW + 3, paused=False)
        assert resumed.paused_at is None
        assert await backend.set_paused("q", NOW + 4, paused=False) == resumed
        again = await backend.set_paused("q", NOW + 5, paused=True)
        assert (again.created_at, again.paused_at) == (NOW + 1, NOW + 5)
        found = await events(backend)
        assert [(event.type, event.at) for event in found] == [
            ("queue.paused", NOW + 1),
            ("queue.resumed", NOW + 3),
            ("queue.paused", NOW + 5),
        ]
        assert {(event.subject, event.queue, event.job_type) for event in found} == {("q", "q", None)}
        assert data_of(found[0])["queue"] == "q"

    async def test_a_pause_is_of_one_queue_and_keeps_its_limit(self, backend: Backend) -> None:
        """Nothing else of the queue and no other queue changes."""
        await insert(backend, make_new(queue="q", max_per_second=7), make_new(queue="other"))
        await backend.set_paused("q", NOW + 5, paused=True)
        found = {queue.name: (queue.paused, queue.max_per_second) for queue in await backend.list_queues()}
        assert found == {"q": (True, 7), "other": (False, None)}

    async def test_a_pause_stops_only_the_claim(self, backend: Backend) -> None:
        """Inserting, swapping and the clock go on; what is active stays active (C-QOP-01)."""
        active = await insert_one(backend)
        await claim(backend)
        await backend.set_paused("default", NOW, paused=True)
        later = await insert_one(backend, JobState.SCHEDULED, max_per_second=3)
        await apply(backend, make_transition(_E.PROMOTE, later.id))
        await apply(backend, make_transition(_E.ACK, active.id))
        assert await counts(backend) == {"available": 1, "completed": 1}
        [queue] = await backend.list_queues()
        assert (queue.paused, queue.max_per_second) == (True, 3)

    # Numbers.

    async def test_the_numbers_are_exact_after_every_step(self, backend: Backend) -> None:
        """Each operation counts at once, down to zero again (C-QOP-04)."""

        async def swap(event: LifecycleEvent, job_id: str) -> dict[str, int]:
            await apply(backend, make_transition(event, job_id))
            return await counts(backend)

        a, b, c = await insert(backend, make_new(), make_new(), make_new())
        assert await counts(backend) == {"available": 3}
        await claim(backend)
        assert await counts(backend) == {"available": 2, "active": 1}
        assert await swap(_E.ACK, a.id) == {"available": 2, "completed": 1}
        await claim(backend)
        assert await swap(_E.RETRY, b.id) == {"available": 1, "completed": 1, "retryable": 1}
        assert await swap(_E.PROMOTE, b.id) == {"available": 2, "completed": 1}
        await claim(backend, count=2)
        assert await counts(backend) == {"active": 2, "completed": 1}
        assert await swap(_E.DISCARD, b.id) == {"active": 1, "completed": 1, "discarded": 1}
        assert await swap(_E.REQUEUE, c.id) == {"available": 1, "completed": 1, "discarded": 1}
        assert await swap(_E.CANCEL, c.id) == {"cancelled": 1, "completed": 1, "discarded": 1}
        assert await swap(_E.REVIVE, b.id) == {"cancelled": 1, "completed": 1, "available": 1}
        scheduled, pending = await insert(backend, make_new(JobState.SCHEDULED), make_new(JobState.PENDING))
        assert await counts(backend) == {"cancelled": 1, "completed": 1, "available": 1, "scheduled": 1, "pending": 1}
        assert await swap(_E.ACTIVATE, pending.id) == {"cancelled": 1, "completed": 1, "available": 2, "scheduled": 1}
        assert await swap(_E.EXPIRE, scheduled.id) == {"cancelled": 1, "completed": 1, "available": 2, "discarded": 1}
        for job in (a, b, c, scheduled, pending):
            stored = await read(backend, job.id)
            await accept(backend, removals=(Removal(job.id, stored.version),))
        assert await counts(backend) == {}

    async def test_the_numbers_are_of_one_queue(self, backend: Backend) -> None:
        """A queue's jobs count there and nowhere else."""
        await insert(backend, *(make_new(queue="a") for _ in range(3)), make_new(queue="b"))
        await claim(backend, "a", count=2)
        assert await counts(backend, "a") == {"available": 1, "active": 2}
        assert await counts(backend, "b") == {"available": 1}

    async def test_the_last_hour(self, backend: Backend) -> None:
        """Executions that completed and that failed, with the time they took and the time they had waited."""

        async def run(event: LifecycleEvent, wait: int, took: int, *, failed: bool = False) -> str:
            job = await insert_one(backend, queue="q", enqueued_at=NOW)
            [claimed] = (await claim(backend, "q", now=NOW + wait)).jobs
            assert claimed.id == job.id
            at = NOW + wait + took
            changes = {"enqueued_at": at, "started_at": None} if event in (_E.LAPSE, _E.REQUEUE) else {}
            error = make_error() if failed else None
            await apply(backend, make_transition(event, job.id, at=at, error=error, changes=changes))
            if event in (_E.LAPSE, _E.REQUEUE):
                await accept(backend, removals=(Removal(job.id, 3),))
            return job.id

        await run(_E.ACK, wait=100, took=30)
        await run(_E.ACK, wait=1, took=4000)
        retried = await run(_E.RETRY, wait=7, took=7, failed=True)
        discarded = await run(_E.DISCARD, wait=7, took=7, failed=True)
        await run(_E.LAPSE, wait=7, took=7, failed=True)
        await run(_E.REQUEUE, wait=9, took=9)
        await run(_E.CANCEL, wait=9, took=9)
        # What happens to a job that is not being executed is no execution, whatever it does to the record.
        await apply(backend, make_transition(_E.CANCEL, retried, changes={"error": None}))
        await apply(backend, make_transition(_E.REVIVE, discarded, changes={"error": None, "attempt": 0}))
        stats = await backend.queue_stats("q", NOW + MINUTE)
        assert stats is not None
        assert (stats.completed_last_hour, stats.failed_last_hour) == (2, 3)
        assert (stats.duration_ms_sum, stats.wait_ms_sum) == (4030, 101)
        assert stats.states["completed"] == 2

    async def test_the_last_hour_passes(self, backend: Backend) -> None:
        """Half an hour later an execution still counts, after two hours it does not; newer ones do."""

        async def ended(now: int) -> tuple[int, int, int]:
            stats = await backend.queue_stats("q", now)
            assert stats is not None
            return stats.completed_last_hour, stats.failed_last_hour, stats.duration_ms_sum

        for at, event in ((NOW, _E.ACK), (NOW, _E.RETRY), (NOW + 50 * MINUTE, _E.ACK)):
            job = await insert_one(backend, queue="q", created_at=at)
            await claim(backend, "q", now=at)
            error = make_error() if event is _E.RETRY else None
            await apply(backend, make_transition(event, job.id, at=at + 10, error=error))
        assert await ended(NOW + 51 * MINUTE) == (2, 1, 20)
        assert await ended(NOW + 75 * MINUTE) == (1, 0, 10)
        assert await ended(NOW + 3 * HOUR) == (0, 0, 0)
        assert await counts(backend, "q", NOW + 3 * HOUR) == {"completed": 2, "retryable": 1}

    async def test_asking_changes_nothing(self, backend: Backend) -> None:
        """Numbers and lists are pure reads."""
        await insert(backend, make_new(queue="a"), make_new(queue="b", max_per_second=1))
        await claim(backend, "b")
        before = await snapshot(backend)
        assert await snapshot(backend) == before
