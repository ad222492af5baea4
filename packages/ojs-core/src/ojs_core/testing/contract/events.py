"""The event log: complete, ordered, filtered, bounded (C-EVT)."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_core.backend import Backend, Commit, EventQuery, Removal
from ojs_core.events import EventDraft
from ojs_core.ids import is_uuid7
from ojs_core.job import JobState
from ojs_core.lifecycle import RELEASED, LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import (
    accept,
    apply,
    claim,
    commit,
    data_of,
    event_types,
    events,
    insert,
    insert_one,
    job_in,
    refuse,
)
from ojs_core.testing.factories import make_beat, make_error, make_event, make_id, make_new, make_transition, raw


class EventContract(BackendFixtures):
    """`EventStore`, the doorbell aside."""

    async def test_an_empty_log(self, backend: Backend) -> None:
        """Nothing, and no more."""
        page = await backend.list_events(EventQuery())
        assert (page.events, page.has_more) == ((), False)

    async def test_the_life_of_a_job_in_order(self, backend: Backend) -> None:
        """Each step of one job adds its events after those before (C-EVT-06)."""
        job = await insert_one(backend, JobState.SCHEDULED)
        other = await insert_one(backend, queue="other")

        async def swap(event: LifecycleEvent, *types: str) -> None:
            drafts = tuple(EventDraft(name) for name in types)
            await apply(backend, make_transition(event, job.id, events=drafts))

        await swap(LifecycleEvent.PROMOTE, "job.enqueued")
        await claim(backend, worker_id="w")
        await swap(LifecycleEvent.RETRY, "job.failed", "job.retrying")
        await swap(LifecycleEvent.PROMOTE, "job.enqueued")
        await claim(backend, worker_id="w")
        await backend.beat(make_beat("w", job.id))
        await swap(LifecycleEvent.ACK, "job.completed")
        found = await events(backend)
        assert [event.type for event in found if event.subject == job.id] == [
            "job.scheduled",
            "job.enqueued",
            "job.started",
            "job.failed",
            "job.retrying",
            "job.enqueued",
            "job.started",
            "job.heartbeat",
            "job.completed",
        ]
        assert [event.type for event in found if event.subject == other.id] == ["job.enqueued"]

    async def test_ids_are_unique_and_ascend(self, backend: Backend) -> None:
        """In the order of the log, also for what has the same instant or an earlier one (C-EVT-01, C-EVT-07)."""
        for n in range(10):
            await accept(backend, events=(make_event(at=NOW - n), make_event(at=NOW + n % 3)))
        await backend.commit([Commit(inserts=(make_new(), make_new())) for _ in range(10)])
        ids = [event.id for event in await events(backend)]
        assert len(set(ids)) == len(ids) == 40
        assert all(event_id.startswith("evt_") and is_uuid7(event_id[4:]) for event_id in ids)
        for position, event_id in enumerate(ids):
            rest = await events(backend, after=event_id)
            assert [event.id for event in rest] == ids[position + 1 :]

    async def test_the_order_of_the_log(self, backend: Backend) -> None:
        """Commit by commit, and within one in the order given."""
        subjects = [f"s{n}" for n in range(12)]
        made = [make_event(subject=subject) for subject in subjects]
        await accept(backend, events=tuple(made[:4]))
        await backend.commit([Commit(events=(event,)) for event in made[4:8]])
        await accept(backend, events=tuple(made[8:]))
        assert [event.subject for event in await events(backend)] == subjects

    async def test_an_event_comes_back_as_written(self, backend: Backend) -> None:
        """All but the id, byte for byte."""
        event = make_event(
            "workflow.failed", at=NOW + 3, subject="é*%", queue="q", job_type="t", data=raw({"n": 2**70, "x": "\x00"})
        )
        await accept(backend, events=(event,))
        [stored] = await events(backend)
        assert stored == make_event(
            "workflow.failed", id=stored.id, at=NOW + 3, subject="é*%", queue="q", job_type="t", data=event.data
        )
        assert bytes(stored.data) == bytes(event.data)

    async def test_the_events_of_refused_commits_are_absent(self, backend: Backend) -> None:
        """Those of its inserts, of its swaps and its own; and they leave no gap that hides a later one."""
        job = await insert_one(backend)
        cursor = (await events(backend))[-1].id
        cancel = make_transition(LifecycleEvent.CANCEL, job.id, events=(EventDraft("job.cancelled"),))
        await refuse(backend, inserts=(make_new(), make_new(id=job.id)), transitions=(cancel,), events=(make_event(),))
        await accept(backend, events=(make_event("workflow.started"),))
        assert await event_types(backend, after=cursor) == ["workflow.started"]

    # What the store joins.

    async def test_the_data_of_a_swap(self, backend: Backend) -> None:
        """The draft's facts, the record after the change, and how long the execution took (C-EVT-02, C-EVT-05)."""
        job = await insert_one(backend, queue="q", type="some.job", priority=4, meta=raw({"trace_id": "T"}))
        await claim(backend, "q", worker_id="w", now=NOW + 10)
        draft = EventDraft("job.completed", {"custom": {"a": 1}})
        await apply(
            backend, make_transition(LifecycleEvent.ACK, job.id, at=NOW + 35, changes=RELEASED, events=(draft,))
        )
        [event] = await events(backend, types=("job.completed",))
        assert (event.subject, event.queue, event.job_type, event.at) == (job.id, "q", "some.job", NOW + 35)
        expected = {
            "job_id": job.id,
            "job_type": "some.job",
            "type": "some.job",
            "queue": "q",
            "state": "completed",
            "attempt": 1,
            "priority": 4,
            "timestamp": "2026-02-12T10:30:00.035Z",
            "duration_ms": 25,
            "trace_id": "T",
            "custom": {"a": 1},
        }
        data = data_of(event)
        assert {name: data.get(name) for name in expected} == expected

    async def test_an_execution_may_take_no_time(self, backend: Backend) -> None:
        """Its duration is zero; and the trace id of a job may be called `traceparent` (C-EVT-05, C-EVT-09)."""
        job = await job_in(backend, JobState.ACTIVE, meta=raw({"traceparent": "00-abc"}))
        ack = make_transition(LifecycleEvent.ACK, job.id, changes=RELEASED, events=(EventDraft("job.completed"),))
        await apply(backend, ack)
        found = [data_of(event) for event in await events(backend)]
        assert {data["trace_id"] for data in found} == {"00-abc"}
        assert found[-1]["duration_ms"] == 0

    @pytest.mark.parametrize("event", [LifecycleEvent.LAPSE, LifecycleEvent.REQUEUE])
    async def test_the_duration_of_an_execution_that_was_lost(self, backend: Backend, event: LifecycleEvent) -> None:
        """The record forgets its start with the swap; the event still knows it (C-EVT-05)."""
        job = await insert_one(backend)
        await claim(backend, now=NOW + 10)
        changes = {**RELEASED, "started_at": None}
        drafts = (EventDraft("job.failed"), EventDraft("job.enqueued"))
        await apply(
            backend,
            make_transition(event, job.id, at=NOW + 60, error=make_error(), changes=changes, events=drafts),
        )
        [failed, enqueued] = (await events(backend))[-2:]
        assert (failed.type, data_of(failed)["duration_ms"]) == ("job.failed", 50)
        assert "duration_ms" not in data_of(enqueued)

    async def test_an_event_about_a_member_names_its_workflow(self, backend: Backend) -> None:
        """And none about any other job does."""
        flow = make_id()
        await insert(backend, make_new(workflow_id=flow, workflow_step=0), make_new())
        member, plain = await events(backend)
        assert data_of(member)["workflow_id"] == flow
        assert "workflow_id" not in data_of(plain)

    # Reading.

    async def test_filters(self, backend: Backend) -> None:
        """Names exact or by prefix, queues and job types; any of a list, all of the lists (C-EVT-04)."""
        await insert(backend, make_new(queue="a", type="t.one"), make_new(queue="b", type="t.two"))
        await claim(backend, "a")
        await backend.set_paused("b", NOW, paused=True)
        await accept(backend, events=(make_event("jobs.other"), make_event("job")))

        async def found(**query: Any) -> list[tuple[str, str | None]]:
            return [(event.type, event.queue) for event in await events(backend, **query)]

        a, b, started = ("job.enqueued", "a"), ("job.enqueued", "b"), ("job.started", "a")
        paused = ("queue.paused", "b")
        assert await found() == [a, b, started, paused, ("jobs.other", None), ("job", None)]
        assert await found(types=("job.enqueued",)) == [a, b]
        assert await found(types=("job.*",)) == [a, b, started]
        assert await found(types=("job.started", "queue.*")) == [started, paused]
        assert await found(types=("job",)) == [("job", None)]
        assert await found(types=("job.enq*", "*", "job.enqueued.*")) == []
        assert await found(queues=("b",)) == [b, paused]
        assert await found(queues=("b", "a", "c"), types=("job.enqueued",)) == [a, b]
        assert await found(job_types=("t.one",)) == [a, started]
        assert await found(job_types=("t.one", "t.two"), queues=("b",)) == [b]
        assert await found(types=("queue.*",), queues=("a",)) == []

    async def test_pages(self, backend: Backend) -> None:
        """`limit` of those that match, whether more do, and on from the last one (C-EVT-07)."""
        await accept(backend, events=tuple(make_event("ab"[n % 2], subject=f"{n}") for n in range(20)))
        found: list[str] = []
        after = None
        for expected in (True, True, True, False):
            page = await backend.list_events(EventQuery(types=("a",), limit=3, after=after))
            assert page.has_more is expected
            found += [event.subject for event in page.events]
            after = page.events[-1].id
        assert found == [f"{n}" for n in range(0, 20, 2)]
        page = await backend.list_events(EventQuery(types=("a",), limit=3, after=after))
        assert (page.events, page.has_more) == ((), False)
        assert not (await backend.list_events(EventQuery(types=("a",), limit=10))).has_more

    async def test_a_cursor_sees_what_comes_later(self, backend: Backend) -> None:
        """A reader that goes on from its last event misses none and gets none twice."""
        await accept(backend, events=(make_event(subject="0"),))
        after = (await events(backend))[-1].id
        for n in range(1, 6):
            # The clock of another server may be behind; the log goes on all the same.
            await accept(backend, events=(make_event(subject=f"{n}", at=NOW - 1000 * n),))
            [event] = await events(backend, after=after)
            assert event.subject == f"{n}"
            after = event.id

    # Pruning.

    async def _log(self, backend: Backend, count: int) -> list[str]:
        await accept(backend, events=tuple(make_event(at=NOW + n, subject=f"{n}") for n in range(count)))
        return [event.id for event in await events(backend)]

    async def _left(self, backend: Backend) -> list[int]:
        return [int(event.subject) for event in await events(backend)]

    async def test_pruning_by_age(self, backend: Backend) -> None:
        """Those before the instant go; one of the very instant stays (C-EVT-12)."""
        await self._log(backend, 6)
        assert await backend.prune_events(NOW + 4, 100, 100) == 4
        assert await self._left(backend) == [4, 5]
        assert await backend.prune_events(NOW + 4, 100, 100) == 0

    async def test_pruning_by_number(self, backend: Backend) -> None:
        """Those beyond the newest `keep` go, however young (C-EVT-12)."""
        await self._log(backend, 6)
        assert await backend.prune_events(0, 6, 100) == 0
        assert await backend.prune_events(0, 2, 100) == 4
        assert await self._left(backend) == [4, 5]
        assert await backend.prune_events(0, 0, 100) == 2
        assert await self._left(backend) == []

    async def test_pruning_is_bounded(self, backend: Backend) -> None:
        """A call removes at most `limit`, the oldest first."""
        await self._log(backend, 10)
        assert await backend.prune_events(NOW + 9, 100, 3) == 3
        assert await self._left(backend) == [3, 4, 5, 6, 7, 8, 9]
        assert await backend.prune_events(0, 2, 4) == 4
        assert await self._left(backend) == [7, 8, 9]
        assert await backend.prune_events(NOW + 9, 2, 0) == 0

    async def test_by_age_and_number_together(self, backend: Backend) -> None:
        """Either reason is enough, and `limit` is of both."""
        await self._log(backend, 10)
        assert await backend.prune_events(NOW + 3, 5, 100) == 5
        assert await self._left(backend) == [5, 6, 7, 8, 9]
        assert await backend.prune_events(NOW + 8, 4, 100) == 3
        assert await self._left(backend) == [8, 9]

    async def test_an_empty_log_is_pruned(self, backend: Backend) -> None:
        """Nothing to remove."""
        assert await backend.prune_events(NOW, 0, 10) == 0

    async def test_a_cursor_survives_pruning(self, backend: Backend) -> None:
        """The event it names may be gone; ids go on ascending after everything was pruned."""
        ids = await self._log(backend, 5)
        await backend.prune_events(NOW + 3, 100, 100)
        assert [event.id for event in await events(backend, after=ids[1])] == ids[3:]
        await backend.prune_events(0, 0, 100)
        await accept(backend, events=(make_event(subject="new"),))
        assert [event.subject for event in await events(backend, after=ids[4])] == ["new"]

    async def test_an_answer_has_its_events_at_once(self, backend: Backend) -> None:
        """The step after an answer reads them (C-EVT-04, C-EVT-08)."""
        for n in range(20):
            await commit(backend, inserts=(make_new(queue=f"q{n}"),))
            assert len(await events(backend, queues=(f"q{n}",))) == 1

    async def test_discarded_jobs_keep_their_events(self, backend: Backend) -> None:
        """The log is no index of the jobs: removing a job removes none."""
        job = await job_in(backend, JobState.COMPLETED)
        before = await events(backend)
        await accept(backend, removals=(Removal(job.id, job.version),))
        assert await events(backend) == before
