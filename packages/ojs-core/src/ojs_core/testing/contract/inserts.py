"""Inserting jobs: what is stored, what is answered, and what comes into existence with them."""

from __future__ import annotations

import pytest

from ojs_core.backend import Backend, Commit, Committed, Refused, Removal
from ojs_core.events import EventDraft
from ojs_core.job import TERMINAL, JobState, replace_fields
from ojs_core.testing.clock import DAY, HOUR, NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import (
    FAR,
    accept,
    claim_ids,
    counts,
    data_of,
    events,
    insert,
    insert_one,
    listed,
    read,
    refuse,
    snapshot,
    without_place,
)
from ojs_core.testing.factories import make_id, make_new, make_unique

FIRST_STATES = (JobState.AVAILABLE, JobState.SCHEDULED, JobState.PENDING)


class InsertContract(BackendFixtures):
    """`Commit.inserts` (T01 to T03, C-OPS-01, C-BLK-01)."""

    @pytest.mark.parametrize("state", FIRST_STATES)
    async def test_the_job_is_stored_as_given(self, backend: Backend, state: JobState) -> None:
        """The record comes back as asked for, with its first version and, where it is available, its place."""
        new = make_new(state, priority=7, tags=("a", "b"), timeout_ms=5, expires_at=NOW + HOUR)
        [stored] = await insert(backend, new)
        assert without_place(stored) == replace_fields(new.job, version=1, seq=0)
        assert await read(backend, new.job.id) == stored

    async def test_answers_keep_the_order_asked(self, backend: Backend) -> None:
        """`inserted` has the length and order of `inserts`, whatever the ids and states."""
        news = [make_new(FIRST_STATES[n % 3], priority=-n, queue=f"q{n % 4}") for n in range(20)]
        news.reverse()
        assert [job.id for job in await insert(backend, *news)] == [new.job.id for new in news]

    async def test_places_ascend_in_the_order_given(self, backend: Backend) -> None:
        """Jobs of one queue are numbered in the order of the batch, and after those before them (C-OPS-11)."""
        first = await insert(backend, *(make_new() for _ in range(10)))
        later = await insert(backend, *(make_new() for _ in range(10)))
        places = [job.seq for job in first + later]
        assert places == sorted(set(places))

    async def test_only_an_available_job_can_be_claimed(self, backend: Backend) -> None:
        """Scheduled and pending jobs are invisible to a claim (C-OPS-03, C-SCH-01)."""
        available = await insert_one(backend)
        await insert_one(backend, JobState.SCHEDULED)
        await insert_one(backend, JobState.PENDING)
        assert await claim_ids(backend) == [available.id]

    @pytest.mark.parametrize("state", sorted(TERMINAL))
    async def test_a_job_may_be_inserted_at_its_end(self, backend: Backend, state: JobState) -> None:
        """A batch that replaces one of its own jobs inserts it cancelled: counted, listed and kept, never claimed."""
        [stored] = await insert(backend, make_new(state, wake_at=NOW + DAY))
        assert (await read(backend, stored.id)).state is state
        assert await counts(backend) == {state: 1}
        assert await claim_ids(backend) == []
        assert [job.id for job in await backend.due_jobs(NOW + DAY, 10)] == [stored.id]

    async def test_an_insert_creates_its_queue_once(self, backend: Backend) -> None:
        """A queue exists from its first job on, whatever that job's state (C-QOP-05)."""
        await insert_one(backend, JobState.SCHEDULED, queue="one", created_at=NOW + 5)
        await insert_one(backend, queue="one", created_at=NOW + 9)
        await insert_one(backend, queue="another")
        queues = await backend.list_queues()
        assert [(queue.name, queue.created_at) for queue in queues] == [("another", NOW), ("one", NOW + 5)]
        assert not any(queue.paused for queue in queues)

    async def test_the_newest_rate_limit_becomes_the_queues(self, backend: Backend) -> None:
        """`max_per_second` sets the limit of the job's queue and no other's; a job without one leaves it (C-RL-01)."""
        await insert_one(backend, queue="other")
        for limit, expected in ((5, 5), (None, 5), (2, 2), (3, 3)):
            await insert_one(backend, max_per_second=limit)
            limits = {queue.name: queue.max_per_second for queue in await backend.list_queues()}
            assert limits == {"default": expected, "other": None}

    async def test_of_a_batch_the_last_rate_limit_counts(self, backend: Backend) -> None:
        """The limits of one commit apply in order."""
        await insert(backend, make_new(max_per_second=9), make_new(max_per_second=4), make_new())
        assert [queue.max_per_second for queue in await backend.list_queues()] == [4]

    async def test_the_drafts_become_events_about_the_job(self, backend: Backend) -> None:
        """Each draft of an insert is joined with the record as stored, and happens at its creation."""
        drafts = (EventDraft("job.scheduled", {"scheduled_at": "then"}), EventDraft("job.enqueued"))
        [job] = await insert(backend, make_new(events=drafts, queue="q", type="some.job", priority=3))
        found = await events(backend)
        assert [event.type for event in found] == ["job.scheduled", "job.enqueued"]
        assert {(event.subject, event.queue, event.job_type, event.at) for event in found} == {
            (job.id, "q", "some.job", NOW)
        }
        data = data_of(found[0])
        assert data["scheduled_at"] == "then"
        assert (data["job_id"], data["state"], data["attempt"], data["priority"]) == (job.id, "available", 0, 3)

    # Refusals.

    @pytest.mark.parametrize("state", FIRST_STATES)
    async def test_a_taken_id_is_refused(self, backend: Backend, state: JobState) -> None:
        """The id is taken whatever the state and queue of its holder, which stays as it is (C-ENV-04)."""
        holder = await insert_one(backend, state)
        before = await snapshot(backend)
        conflicts = await refuse(backend, inserts=(make_new(id=holder.id, queue="elsewhere", priority=9),))
        assert [(conflict.kind, conflict.index, conflict.job) for conflict in conflicts] == [("id", 0, holder)]
        assert await snapshot(backend) == before

    async def test_an_id_may_be_taken_again_after_removal(self, backend: Backend) -> None:
        """A removed job's id is free."""
        job = await insert_one(backend)
        await accept(backend, removals=(Removal(job.id, job.version),))
        again = await insert_one(backend, id=job.id)
        assert again.version == 1

    async def test_an_id_twice_in_a_batch_is_refused(self, backend: Backend) -> None:
        """An insert meets those before it in its commit (C-BLK-01)."""
        job_id = make_id()
        conflicts = await refuse(backend, inserts=(make_new(), make_new(id=job_id), make_new(), make_new(id=job_id)))
        assert [(conflict.kind, conflict.index) for conflict in conflicts] == [("id", 3)]
        assert conflicts[0].job is not None
        assert conflicts[0].job.id == job_id
        assert await listed(backend) == []

    async def test_every_conflict_of_a_batch_is_named(self, backend: Backend) -> None:
        """Each refused insert is reported with its position and the job in its way; the batch leaves nothing behind."""
        by_id = await insert_one(backend)
        [held] = await insert(backend, make_unique("a" * 64))
        before = await snapshot(backend)
        conflicts = await refuse(
            backend,
            inserts=(
                make_new(),
                make_new(id=by_id.id),
                make_unique("b" * 64),
                make_unique("a" * 64),
                make_new(queue="never-seen", max_per_second=3),
                make_unique("b" * 64),
                make_unique("a" * 64),
            ),
        )
        found = {conflict.index: (conflict.kind, conflict.job) for conflict in conflicts}
        assert sorted(found) == [1, 3, 5, 6]
        assert found[1] == ("id", by_id)
        assert found[3] == found[6] == ("hold", held)
        assert found[5][0] == "hold"
        assert await snapshot(backend) == before

    async def test_conflicts_are_named_among_a_thousand(self, backend: Backend) -> None:
        """A large batch is refused as a whole, naming exactly the bad ones (C-BLK-05, C-BLK-06)."""
        taken = await insert(backend, *(make_new() for _ in range(3)))
        news = [make_new() for _ in range(1000)]
        for position, job in zip((0, 500, 999), taken, strict=True):
            news[position] = make_new(id=job.id)
        conflicts = await refuse(backend, inserts=tuple(news))
        assert [conflict.index for conflict in conflicts] == [0, 500, 999]
        assert [conflict.job for conflict in conflicts] == taken
        assert await counts(backend) == {"available": 3}

    async def test_a_thousand_jobs_in_one_commit(self, backend: Backend) -> None:
        """A large batch is one commit: counted, listed, and claimed in the order given (C-BLK-05)."""
        news = [make_new() for _ in range(1000)]
        stored = await insert(backend, *news)
        asked = [new.job.id for new in news]
        assert [job.id for job in stored] == asked
        assert await counts(backend) == {"available": 1000}
        assert len(await events(backend)) == 1000
        assert await claim_ids(backend, count=1000) == asked

    async def test_many_commits_in_one_call(self, backend: Backend) -> None:
        """What arrives together is stored together, each with its own answer, in the order of the calls."""
        shared = make_id()
        news = [make_new() if n % 3 else make_new(id=shared) for n in range(300)]
        answers = await backend.commit([Commit(inserts=(new,)) for new in news])
        assert [type(answer) for answer in answers] == [Refused if n % 3 == 0 and n else Committed for n in range(300)]
        good = [new.job.id for new, answer in zip(news, answers, strict=True) if isinstance(answer, Committed)]
        assert await claim_ids(backend) == good

    async def test_times_before_1970_and_far_away(self, backend: Backend) -> None:
        """A client may send any instant of the years 0001 to 9999 (C-ENV-13)."""
        early, late = -62_135_596_800_000, 253_402_300_799_999
        past = await insert_one(backend, expires_at=early)
        future = await insert_one(backend, JobState.SCHEDULED, scheduled_at=late, expires_at=late)
        assert (await read(backend, past.id)).expires_at == early
        assert (await read(backend, future.id)).scheduled_at == late
        assert [job.id for job in await backend.due_jobs(NOW, 10)] == [past.id]
        assert [job.id for job in await backend.due_jobs(FAR, 10)] == [past.id, future.id]
        assert await backend.next_wake_at() == early
