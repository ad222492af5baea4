"""Reading jobs: by id, by filter, page by page; and the dead letters (C-PAG, C-DLQ-03)."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_core.backend import Backend, JobQuery, Removal
from ojs_core.errors import InvalidRequestError
from ojs_core.job import Job, JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import accept, apply, claim, insert, insert_one, job_in, listed, snapshot
from ojs_core.testing.factories import make_error, make_id, make_new, make_transition


class ReadContract(BackendFixtures):
    """`JobStore.get_jobs`."""

    async def test_answers_have_the_length_and_order_asked(self, backend: Backend) -> None:
        """Unknown ids are None in their place, repeats are repeated."""
        a, b = await insert(backend, make_new(), make_new(JobState.PENDING))
        assert await backend.get_jobs([b.id, make_id(), a.id, b.id]) == [b, None, a, b]
        assert await backend.get_jobs([]) == []

    @pytest.mark.parametrize("text", ["", " ", "no-id", "*", "%", "'; --", "é" * 300, "a\nb", "../x", "x:y"])
    async def test_any_text_may_be_asked_for(self, backend: Backend, text: str) -> None:
        """What is no id is simply not found (C-HTTP-19)."""
        await insert_one(backend)
        assert await backend.get_jobs([text]) == [None]

    async def test_an_id_has_one_spelling(self, backend: Backend) -> None:
        """Upper case is another text, and not found."""
        job = await insert_one(backend, id="019c5186-9a40-7000-8abc-00000000002a")
        assert await backend.get_jobs([job.id.upper()]) == [None]

    async def test_many_at_once(self, backend: Backend) -> None:
        """A thousand in one call."""
        jobs = await insert(backend, *(make_new() for _ in range(1000)))
        jobs.reverse()
        assert await backend.get_jobs([job.id for job in jobs]) == jobs

    async def test_reading_changes_nothing(self, backend: Backend) -> None:
        """Not even what is overdue (C-LC-09)."""
        job = await insert_one(backend, expires_at=NOW - 5)
        before = await snapshot(backend)
        await backend.get_jobs([job.id])
        await listed(backend)
        assert await snapshot(backend) == before


class ListContract(BackendFixtures):
    """`JobStore.list_jobs`."""

    async def test_the_newest_come_first(self, backend: Backend) -> None:
        """By id, and so by time of creation, in whatever order they were inserted and whatever became of them."""
        ids = [make_id(NOW + n // 3) for n in range(12)]
        for n in (5, 0, 11, 3, 8, 1, 10, 2, 7, 4, 9, 6):
            await insert_one(backend, id=ids[n], created_at=NOW + n // 3, queue=f"q{n % 2}", priority=n)
        [first, *_] = (await claim(backend, "q0", "q1", count=4)).jobs
        changes = {"discarded_at": NOW + 99}
        await apply(backend, make_transition(LifecycleEvent.DISCARD, first.id, changes=changes))
        assert first.id not in (ids[0], ids[-1])
        assert await listed(backend) == ids[::-1]

    async def test_filters_are_joined(self, backend: Backend) -> None:
        """Each alone, and several together; a filter that nothing passes gives an empty page."""
        jobs: dict[str, Job] = {
            "a1": await insert_one(backend, queue="a", type="t.one"),
            "a2": await job_in(backend, JobState.ACTIVE, queue="a2", type="t.two", worker_id="w"),
            "b1": await job_in(backend, JobState.COMPLETED, queue="b", type="t.one"),
            "b2": await insert_one(backend, JobState.SCHEDULED, queue="b", type="t.two"),
        }
        names = {job.id: name for name, job in jobs.items()}

        async def found(**query: Any) -> list[str]:
            return sorted(names[job_id] for job_id in await listed(backend, **query))

        assert await found() == ["a1", "a2", "b1", "b2"]
        assert await found(queue="b") == ["b1", "b2"]
        assert await found(job_type="t.one") == ["a1", "b1"]
        assert await found(states=frozenset({JobState.ACTIVE, JobState.SCHEDULED})) == ["a2", "b2"]
        assert await found(states=frozenset()) == []
        assert await found(worker_id="w") == ["a2"]
        assert await found(queue="b", job_type="t.one") == ["b1"]
        assert await found(queue="b", job_type="t.one", states=frozenset({JobState.ACTIVE})) == []
        assert await found(queue="unknown") == []
        assert await found(dead=False) == ["a1", "a2", "b1", "b2"]
        assert await found(dead=True) == []
        assert await found(error_type="X") == []

    @pytest.mark.parametrize("state", list(JobState))
    async def test_a_job_is_listed_in_its_state(self, backend: Backend, state: JobState) -> None:
        """And in no other."""
        job = await job_in(backend, state)
        assert await listed(backend, states=frozenset({state})) == [job.id]
        assert await listed(backend, states=frozenset(JobState) - {state}) == []

    async def test_filters_follow_the_record(self, backend: Backend) -> None:
        """A job that changed is found by what it is now, and not by what it was."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="w")
        error = make_error("Timeout")
        await apply(
            backend,
            make_transition(LifecycleEvent.LAPSE, job.id, error=error, changes={"worker_id": None, "queue": "n"}),
        )
        assert await listed(backend, worker_id="w") == []
        assert await listed(backend, queue="default") == []
        assert await listed(backend, queue="n", error_type="Timeout", states=frozenset({JobState.AVAILABLE})) == [
            job.id
        ]
        await claim(backend, "n", worker_id="v")
        assert await listed(backend, worker_id="v", queue="n") == [job.id]

    async def test_the_record_is_listed_whole(self, backend: Backend) -> None:
        """A page holds the same records as a read by id."""
        job = await job_in(backend, JobState.RETRYABLE, tags=("a",), expires_at=NOW + 9)
        assert (await backend.list_jobs(JobQuery())).jobs == (job,)

    # Pages.

    @pytest.mark.parametrize("limit", [1, 3, 5, 10, 11])
    async def test_pages_by_cursor(self, backend: Backend, limit: int) -> None:
        """They hold every job once, in order; `total` counts all, and the last page has no cursor (C-PAG-02)."""
        jobs = await insert(backend, *(make_new() for _ in range(10)))
        found: list[str] = []
        cursor: str | None = None
        while True:
            page = await backend.list_jobs(JobQuery(limit=limit, cursor=cursor))
            assert page.total == 10
            found += [job.id for job in page.jobs]
            cursor = page.next_cursor
            if cursor is None:
                break
            assert len(page.jobs) == limit
        assert found == [job.id for job in reversed(jobs)]

    async def test_pages_by_offset(self, backend: Backend) -> None:
        """An offset beyond the end gives an empty page with the total."""
        ids = [job.id for job in await insert(backend, *(make_new() for _ in range(5)))][::-1]
        for offset, expected, more in ((0, ids[:2], True), (2, ids[2:4], True), (3, ids[3:], False), (9, [], False)):
            page = await backend.list_jobs(JobQuery(limit=2, offset=offset))
            assert [job.id for job in page.jobs] == expected
            assert page.total == 5
            assert (page.next_cursor is not None) is more
        page = await backend.list_jobs(JobQuery(limit=2, offset=1))
        assert page.next_cursor is not None
        rest = await backend.list_jobs(JobQuery(limit=9, cursor=page.next_cursor))
        assert [job.id for job in rest.jobs] == ids[3:]

    async def test_an_empty_listing(self, backend: Backend) -> None:
        """No jobs, no cursor."""
        page = await backend.list_jobs(JobQuery())
        assert (page.jobs, page.total, page.next_cursor) == ((), 0, None)

    async def test_a_cursor_is_stable_under_writes(self, backend: Backend) -> None:
        """Rows added before it and removed around it make no other row appear twice or not at all (C-PAG-03)."""
        jobs = await insert(backend, *(make_new(queue=f"q{n % 2}") for n in range(9)))
        page = await backend.list_jobs(JobQuery(limit=3))
        assert [job.id for job in page.jobs] == [jobs[8].id, jobs[7].id, jobs[6].id]
        await insert(backend, make_new(), make_new())
        await accept(backend, removals=tuple(Removal(jobs[n].id, 1) for n in (6, 8, 4)))
        await claim(backend, "q1", count=1)
        page = await backend.list_jobs(JobQuery(limit=3, cursor=page.next_cursor))
        assert [job.id for job in page.jobs] == [jobs[5].id, jobs[3].id, jobs[2].id]
        assert page.total == 8
        page = await backend.list_jobs(JobQuery(limit=3, cursor=page.next_cursor))
        assert [job.id for job in page.jobs] == [jobs[1].id, jobs[0].id]
        assert page.next_cursor is None

    async def test_a_cursor_goes_with_a_filter(self, backend: Backend) -> None:
        """The next page is of the same filter, and `total` of the filter too."""
        jobs = await insert(backend, *(make_new(queue="ab"[n % 2]) for n in range(8)))
        page = await backend.list_jobs(JobQuery(queue="b", limit=3))
        assert ([job.id for job in page.jobs], page.total) == ([jobs[n].id for n in (7, 5, 3)], 4)
        page = await backend.list_jobs(JobQuery(queue="b", limit=3, cursor=page.next_cursor))
        assert ([job.id for job in page.jobs], page.total) == ([jobs[1].id], 4)

    @pytest.mark.parametrize(
        "cursor", ["nonsense", "", "{}", "é", "WzFd", "\x00", "bnVsbA", "WzEwMDAwMDAwMDAwMDAwMDAwMDAwLCJ4Il0"]
    )
    async def test_a_foreign_cursor_is_refused(self, backend: Backend, cursor: str) -> None:
        """A text this server never gave out is the client's mistake (C-PAG-01)."""
        await insert_one(backend)
        with pytest.raises(InvalidRequestError):
            await backend.list_jobs(JobQuery(cursor=cursor))


class DeadLetterContract(BackendFixtures):
    """`JobQuery.dead` and what goes with it (C-DLQ-01 to C-DLQ-06)."""

    async def _dead(self, backend: Backend, at: int, **fields: Any) -> Job:
        error = fields.pop("error", None) or make_error()
        job = await job_in(backend, JobState.ACTIVE, **fields)
        changes = {"dead": True, "discarded_at": at}
        discard = make_transition(LifecycleEvent.DISCARD, job.id, at=at, error=error, changes=changes)
        return (await apply(backend, discard)).job

    async def test_only_dead_letters_are_listed(self, backend: Backend) -> None:
        """A discarded job is one only if it was kept as one (Q-15)."""
        dead = await self._dead(backend, NOW)
        plain = await job_in(backend, JobState.DISCARDED)
        page = await backend.list_jobs(JobQuery(dead=True))
        assert (page.jobs, page.total) == ((dead,), 1)
        assert await listed(backend, dead=False) == [plain.id]
        assert await listed(backend, states=frozenset({JobState.DISCARDED})) == [plain.id, dead.id]

    async def test_the_newest_dead_letter_comes_first(self, backend: Backend) -> None:
        """By the time it was discarded, not by its age; of one instant, by id (C-PAG-04)."""
        ends = [NOW + 5, NOW + 9, NOW + 1, NOW + 9, NOW + 3]
        jobs = [await self._dead(backend, at) for at in ends]
        expected = [jobs[n].id for n in (3, 1, 0, 4, 2)]
        assert await listed(backend, dead=True) == expected
        found: list[str] = []
        cursor: str | None = None
        for _ in expected:
            page = await backend.list_jobs(JobQuery(dead=True, limit=1, cursor=cursor))
            found += [job.id for job in page.jobs]
            cursor = page.next_cursor
        assert (found, cursor) == (expected, None)

    async def test_dead_letters_are_filtered(self, backend: Backend) -> None:
        """By queue, type, type of error, and time discarded: from `since` on, before `until` (C-DLQ-03)."""
        a = await self._dead(backend, NOW + 1, queue="a", type="t.one", error=make_error("X"))
        b = await self._dead(backend, NOW + 2, queue="b", type="t.two", error=make_error("X"))
        c = await self._dead(backend, NOW + 3, queue="a", type="t.two", error=make_error("Y"))

        async def found(**query: Any) -> list[str]:
            return await listed(backend, dead=True, **query)

        assert await found(queue="a") == [c.id, a.id]
        assert await found(job_type="t.two") == [c.id, b.id]
        assert await found(error_type="X") == [b.id, a.id]
        assert await found(error_type="X", queue="a") == [a.id]
        assert await found(since=NOW + 2) == [c.id, b.id]
        assert await found(until=NOW + 2) == [a.id]
        assert await found(since=NOW + 2, until=NOW + 3) == [b.id]
        assert await found(since=NOW + 4) == []

    async def test_a_revived_dead_letter_is_none_any_more(self, backend: Backend) -> None:
        """It leaves the list with the swap; its errors stay with it (C-DLQ-04, C-DLQ-05)."""
        job = await self._dead(backend, NOW + 1)
        changes = {"dead": False, "discarded_at": None, "error": None, "attempt": 0}
        await apply(backend, make_transition(LifecycleEvent.REVIVE, job.id, changes=changes))
        assert await listed(backend, dead=True) == []
        [again] = (await claim(backend)).jobs
        assert (again.id, again.attempt, again.errors) == (job.id, 1, job.errors)

    async def test_a_deleted_dead_letter_is_gone(self, backend: Backend) -> None:
        """Neither listed nor readable (C-DLQ-06)."""
        job = await self._dead(backend, NOW + 1)
        await accept(backend, removals=(Removal(job.id, job.version),))
        assert await listed(backend, dead=True) == []
        assert await backend.get_jobs([job.id]) == [None]
