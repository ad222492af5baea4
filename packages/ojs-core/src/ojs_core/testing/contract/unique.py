"""Holds: which existing job stands in the way of a new one (C-UNQ-06 to C-UNQ-12)."""

from __future__ import annotations

import pytest

from ojs_core.backend import Backend, Commit, Committed
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import (
    accept,
    apply,
    commit,
    counts,
    insert,
    insert_one,
    job_in,
    listed,
    read,
    refuse,
)
from ojs_core.testing.factories import make_new, make_transition, make_unique

MARK = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4


class UniqueContract(BackendFixtures):
    """`NewJob.hold`."""

    @pytest.mark.parametrize("state", list(JobState))
    async def test_a_job_in_one_of_the_states_stands_in_the_way(self, backend: Backend, state: JobState) -> None:
        """It is found and named as it is, and stays as it is."""
        job = await job_in(backend, state, fingerprint=MARK)
        for states in ((state,), tuple(JobState)):
            conflicts = await refuse(backend, inserts=(make_unique(MARK, *states, queue="other"),))
            assert [(conflict.kind, conflict.index, conflict.job) for conflict in conflicts] == [("hold", 0, job)]
        assert await listed(backend) == [job.id]

    @pytest.mark.parametrize("state", list(JobState))
    async def test_a_job_in_another_state_does_not(self, backend: Backend, state: JobState) -> None:
        """`states` is the new job's; what the old one asked for does not matter."""
        await job_in(backend, state, fingerprint=MARK)
        others = [other for other in JobState if other is not state]
        await insert(backend, make_unique(MARK, *others, queue="other"))

    async def test_another_fingerprint_does_not(self, backend: Backend) -> None:
        """Nor a job without one."""
        await insert(backend, make_unique(OTHER), make_new())
        await insert(backend, make_unique(MARK))

    async def test_a_job_without_a_hold_is_never_refused(self, backend: Backend) -> None:
        """It meets nothing, and without a fingerprint nothing meets it."""
        await insert(backend, make_unique(MARK))
        await insert(backend, make_new(), make_new(fingerprint=MARK))

    async def test_age_within_the_period(self, backend: Backend) -> None:
        """A job created after `since` counts, one created at it or before does not (C-UNQ-06)."""
        job = await insert_one(backend, fingerprint=MARK, created_at=NOW)
        [conflict] = await refuse(backend, inserts=(make_unique(MARK, since=NOW - 1, created_at=NOW + 50),))
        assert conflict.job == job
        await insert(backend, make_unique(MARK, since=NOW, created_at=NOW + 50))

    async def test_without_a_period_age_does_not_matter(self, backend: Backend) -> None:
        """There is no time limit that was not asked for."""
        await insert(backend, make_unique(MARK, created_at=0))
        await refuse(backend, inserts=(make_unique(MARK),))

    async def test_an_old_job_does_not_hide_a_new_one(self, backend: Backend) -> None:
        """Of several jobs with the fingerprint, one that fits both state and age is found, wherever it stands."""
        for position in range(5):
            mark = f"{position:064x}"
            for n in range(5):
                await insert_one(
                    backend, fingerprint=mark, created_at=NOW + (10 if n == position else n), queue=f"q{n}"
                )
            [conflict] = await refuse(backend, inserts=(make_unique(mark, since=NOW + 9),))
            assert conflict.job is not None
            assert conflict.job.queue == f"q{position}"

    async def test_a_finished_job_does_not_hide_a_waiting_one(self, backend: Backend) -> None:
        """The state of each is looked at, not that of the last one only."""
        waits = await insert_one(backend, JobState.SCHEDULED, fingerprint=MARK)
        await job_in(backend, JobState.COMPLETED, fingerprint=MARK)
        await job_in(backend, JobState.CANCELLED, fingerprint=MARK)
        [conflict] = await refuse(backend, inserts=(make_unique(MARK),))
        assert conflict.job == waits

    @pytest.mark.parametrize(
        "event", [LifecycleEvent.ACK, LifecycleEvent.DISCARD, LifecycleEvent.CANCEL], ids=lambda event: event.value
    )
    async def test_the_end_of_a_job_frees_its_fingerprint(self, backend: Backend, event: LifecycleEvent) -> None:
        """In the same step as the state, and for one job at a time (C-UNQ-11)."""
        job = await job_in(backend, JobState.ACTIVE, fingerprint=MARK)
        await refuse(backend, inserts=(make_unique(MARK),))
        await apply(backend, make_transition(event, job.id))
        [second] = await insert(backend, make_unique(MARK))
        [conflict] = await refuse(backend, inserts=(make_unique(MARK),))
        assert conflict.job == second

    async def test_the_job_found_is_as_it_is_now(self, backend: Backend) -> None:
        """Not as it was when it was inserted."""
        [job] = await insert(backend, make_unique(MARK))
        for event in (LifecycleEvent.EXPIRE, LifecycleEvent.REVIVE):
            await apply(backend, make_transition(event, job.id, changes={"priority": 9}))
        [conflict] = await refuse(backend, inserts=(make_unique(MARK),))
        assert conflict.job == await read(backend, job.id)

    async def test_a_revived_job_holds_again(self, backend: Backend) -> None:
        """A manual retry is not refused itself, but stands in the way of new jobs (C-DLQ-08)."""
        job = await job_in(backend, JobState.DISCARDED, fingerprint=MARK)
        await insert(backend, make_unique(MARK))
        await apply(backend, make_transition(LifecycleEvent.REVIVE, job.id))
        assert await counts(backend) == {"available": 2}
        await refuse(backend, inserts=(make_unique(MARK),))

    @pytest.mark.parametrize(
        "state", [JobState.AVAILABLE, JobState.SCHEDULED, JobState.PENDING, JobState.ACTIVE, JobState.RETRYABLE]
    )
    async def test_replace_is_one_step(self, backend: Backend, state: JobState) -> None:
        """The swap that ends the old job and the insert of the new one go in one commit (C-UNQ-09)."""
        old = await job_in(backend, state, fingerprint=MARK)
        cancel = make_transition(LifecycleEvent.CANCEL, old.id, version=old.version)
        answer = await accept(backend, transitions=(cancel,), inserts=(make_unique(MARK),))
        assert await counts(backend) == {"available": 1, "cancelled": 1}
        [conflict] = await refuse(backend, inserts=(make_unique(MARK),))
        assert conflict.job == answer.inserted[0]

    async def test_a_replace_that_came_late_changes_nothing(self, backend: Backend) -> None:
        """If the old job changed in the meantime, it is not ended and the new one is not there."""
        [old] = await insert(backend, make_unique(MARK))
        cancel = make_transition(LifecycleEvent.CANCEL, old.id, version=old.version)
        await accept(backend, transitions=(cancel,), inserts=(make_unique(MARK),))
        late = await commit(backend, transitions=(cancel,), inserts=(make_unique(MARK),))
        assert not isinstance(late, Committed)
        assert await counts(backend) == {"available": 1, "cancelled": 1}

    async def test_of_two_in_a_batch_the_second_is_refused(self, backend: Backend) -> None:
        """A hold meets the inserts before it, if their state is one of its own (C-BLK-01)."""
        [conflict] = await refuse(backend, inserts=(make_unique(MARK), make_unique(OTHER), make_unique(MARK)))
        assert (conflict.kind, conflict.index) == ("hold", 2)
        assert await listed(backend) == []
        await insert(backend, make_unique(MARK), make_unique(MARK, JobState.ACTIVE))

    async def test_of_two_in_a_call_the_first_wins(self, backend: Backend) -> None:
        """Each commit meets the jobs of those before it (C-UNQ-12)."""
        news = [make_unique(MARK) for _ in range(10)]
        answers = await backend.commit([Commit(inserts=(new,)) for new in news])
        assert [isinstance(answer, Committed) for answer in answers] == [True] + [False] * 9
        assert await listed(backend) == [news[0].job.id]

    async def test_an_insert_against_inserted_ends(self, backend: Backend) -> None:
        """A job inserted at its end is met like one that came to it."""
        await insert_one(backend, JobState.CANCELLED, fingerprint=MARK)
        await refuse(backend, inserts=(make_unique(MARK, JobState.CANCELLED),))
        await insert(backend, make_unique(MARK))
