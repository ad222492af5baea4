"""Swaps: the table, the guard, and what a swap leaves behind."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_core.backend import Backend, Change
from ojs_core.job import ERRORS_KEPT, TERMINAL, Job, JobState, replace_fields
from ojs_core.lifecycle import RELEASED, TRANSITIONS, LifecycleEvent, Retention, Transition, plan_abandon
from ojs_core.retry import RetryPolicy
from ojs_core.testing.clock import DAY, HOUR, MINUTE, NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import (
    accept,
    apply,
    claim,
    claim_ids,
    counts,
    insert,
    insert_one,
    job_in,
    read,
    refuse,
    snapshot,
    without_place,
)
from ojs_core.testing.factories import make_beat, make_error, make_id, make_new, make_note, make_transition, raw

EVENTS = [event for event in LifecycleEvent if event in TRANSITIONS and event is not LifecycleEvent.CLAIM]
PAIRS = [(state, event) for state in JobState for event in EVENTS]
LEGAL = [(state, event) for state, event in PAIRS if state in TRANSITIONS[event][0]]
ILLEGAL = [pair for pair in PAIRS if pair not in LEGAL]
CHANGES: dict[str, Any] = {
    **RELEASED,
    "attempt": 7,
    "requeues": 2,
    "enqueued_at": NOW + 1,
    "started_at": NOW + 2,
    "completed_at": NOW + 3,
    "cancelled_at": NOW + 4,
    "discarded_at": NOW + 5,
    "retry_delay_ms": 6,
    "next_retry_at": NOW + 7,
    "result": raw({"ok": [1, None]}),
    "args": raw(["new"]),
    "meta": raw({"new": 1.0}),
    "as_sent": raw({"retry": {}}),
    "retry": RetryPolicy(max_attempts=9, non_retryable=("a.*",)),
    "dead": True,
}
"""A change of every kind of field."""


async def _untouched(backend: Backend, job: Job, transition: Transition) -> None:
    """Ask for a swap that must be refused, and check that the refusal names the job as it is and changes nothing."""
    before = await snapshot(backend)
    [conflict] = await refuse(backend, transitions=(transition,))
    assert (conflict.kind, conflict.index, conflict.job) == ("transition", 0, job)
    assert await snapshot(backend) == before


class TransitionContract(BackendFixtures):
    """`Commit.transitions` (C-LC-01 to C-LC-10)."""

    @pytest.mark.parametrize(("state", "event"), LEGAL)
    async def test_a_legal_swap(self, backend: Backend, state: JobState, event: LifecycleEvent) -> None:
        """The state moves where the table says, with what was asked and nothing else, and the numbers follow."""
        job = await job_in(backend, state, worker_id="w", meta=raw({"a": 1}))
        error = make_error() if event is LifecycleEvent.RETRY else None
        to = TRANSITIONS[event][1]
        change = await apply(
            backend,
            make_transition(event, job.id, changes=CHANGES, error=error, wake_at=NOW + HOUR, version=job.version),
        )
        expected = replace_fields(job, **CHANGES, state=to, version=job.version + 1, wake_at=NOW + HOUR)
        if error is not None:
            expected = replace_fields(expected, error=error, errors=(error,))
        assert without_place(change.job) == without_place(expected)
        assert change.previous is state
        assert await read(backend, job.id) == change.job
        assert await counts(backend) == {to: 1}

    @pytest.mark.parametrize(("state", "event"), ILLEGAL)
    async def test_an_illegal_swap_is_refused(self, backend: Backend, state: JobState, event: LifecycleEvent) -> None:
        """Any other pair leaves the job as it is, and the refusal says what it is (C-LC-01, C-LC-05, C-LC-06)."""
        job = await job_in(backend, state, worker_id="w")
        await _untouched(backend, job, make_transition(event, job.id, changes=CHANGES, error=make_error()))

    @pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.AVAILABLE])
    async def test_only_available_jobs_are_claimed(self, backend: Backend, state: JobState) -> None:
        """The table's CLAIM: no other state is ever handed out (C-LC-10)."""
        await job_in(backend, state)
        assert (await claim(backend, count=10, now=NOW + 10 * DAY)).jobs == ()

    async def test_a_swap_without_a_job(self, backend: Backend) -> None:
        """There is no record to show."""
        transition = make_transition(LifecycleEvent.CANCEL, make_id())
        [conflict] = await refuse(backend, transitions=(transition,))
        assert (conflict.kind, conflict.index, conflict.job) == ("transition", 0, None)

    @pytest.mark.parametrize("state", sorted(TERMINAL))
    async def test_a_swap_may_keep_the_state(self, backend: Backend, state: JobState) -> None:
        """A workflow takes note of its member: same state, new version and clock."""
        job = await job_in(backend, state, workflow_id=make_id(), workflow_step=0)
        note = make_note(job, member_wake_at=NOW + DAY)
        change = await apply(backend, note)
        assert change.job == replace_fields(job, advanced=True, version=job.version + 1, wake_at=NOW + DAY)
        assert change.previous is state
        await _untouched(backend, change.job, note)

    # The guard.

    @pytest.mark.parametrize("offset", [-1, 1])
    async def test_another_version(self, backend: Backend, offset: int) -> None:
        """A decision made from a read holds only while the record is as read."""
        job = await job_in(backend, JobState.ACTIVE)
        await _untouched(backend, job, make_transition(LifecycleEvent.ACK, job.id, version=job.version + offset))
        await apply(backend, make_transition(LifecycleEvent.ACK, job.id, version=job.version))

    @pytest.mark.parametrize("offset", [-1, 1])
    async def test_another_fence(self, backend: Backend, offset: int) -> None:
        """A worker whose lease lapsed holds an old token (C-VIS-04)."""
        job = await job_in(backend, JobState.ACTIVE)
        await _untouched(backend, job, make_transition(LifecycleEvent.ACK, job.id, fence=job.fence + offset))
        await apply(backend, make_transition(LifecycleEvent.ACK, job.id, fence=job.fence))

    @pytest.mark.parametrize("stranger", ["other", "", "W", "w ", "wé"])
    async def test_another_worker(self, backend: Backend, stranger: str) -> None:
        """Only the recorded owner, or one who does not say who it is, may end the job (C-OPS-21)."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="w")
        await _untouched(backend, job, make_transition(LifecycleEvent.ACK, job.id, worker_id=stranger))
        await apply(backend, make_transition(LifecycleEvent.ACK, job.id, worker_id="w"))

    async def test_a_worker_that_does_not_say_who_it_is(self, backend: Backend) -> None:
        """Without a worker id the owner is not checked (C-OPS-21)."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="w")
        assert (await apply(backend, make_transition(LifecycleEvent.ACK, job.id))).previous is JobState.ACTIVE

    async def test_a_job_without_a_recorded_owner(self, backend: Backend) -> None:
        """A job fetched without a worker id has no owner to differ from (C-OPS-21)."""
        job = await job_in(backend, JobState.ACTIVE)
        assert job.worker_id is None
        change = await apply(backend, make_transition(LifecycleEvent.ACK, job.id, worker_id="anyone"))
        assert change.job.state is JobState.COMPLETED

    @pytest.mark.parametrize("wrong", ["version", "fence", "worker_id"])
    async def test_every_part_of_the_guard_counts(self, backend: Backend, wrong: str) -> None:
        """Two that match do not make up for one that does not."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="w")
        right: dict[str, Any] = {"version": job.version, "fence": job.fence, "worker_id": "w"}
        guard = {**right, wrong: "x" if wrong == "worker_id" else right[wrong] + 1}
        await _untouched(backend, job, make_transition(LifecycleEvent.ACK, job.id, **guard))
        await apply(backend, make_transition(LifecycleEvent.ACK, job.id, **right))

    async def test_a_guard_may_name_fewer_states_than_the_table(self, backend: Backend) -> None:
        """`expected` is the guard; the store knows no table."""
        job = await insert_one(backend)
        only = frozenset({JobState.ACTIVE, JobState.PENDING})
        await _untouched(backend, job, make_transition(LifecycleEvent.CANCEL, job.id, expected=only))

    async def test_a_swap_happens_once(self, backend: Backend) -> None:
        """The second of two equal swaps finds the guard gone (C-OPS-22)."""
        job = await job_in(backend, JobState.ACTIVE)
        ack = make_transition(LifecycleEvent.ACK, job.id)
        done = await apply(backend, ack)
        await _untouched(backend, done.job, ack)

    # What a swap leaves.

    async def test_the_version_grows_with_every_change(self, backend: Backend) -> None:
        """Swaps, claims and beats each count one (the guard of every later decision)."""
        versions = []
        job = await insert_one(backend)
        versions.append(job.version)
        [job] = (await claim(backend, worker_id="w")).jobs
        versions.append(job.version)
        [job] = (await backend.beat(make_beat("w", job.id))).extended
        versions.append(job.version)
        for event in (LifecycleEvent.RETRY, LifecycleEvent.PROMOTE, LifecycleEvent.EXPIRE, LifecycleEvent.REVIVE):
            job = (await apply(backend, make_transition(event, job.id))).job
            versions.append(job.version)
        assert versions == [1, 2, 3, 4, 5, 6, 7]
        assert (await read(backend, job.id)).version == 7

    async def test_the_error_is_kept_and_appended(self, backend: Backend) -> None:
        """A swap with an error sets the last one and adds to the history; one without leaves both (C-OPS-31)."""
        job = await job_in(backend, JobState.ACTIVE)
        first = make_error("First", details=raw({"a": 1.0}), backtrace=("x", "y"), retryable=False)
        job = (await apply(backend, make_transition(LifecycleEvent.LAPSE, job.id, error=first))).job
        assert (job.error, job.errors) == (first, (first,))
        [job] = (await claim(backend)).jobs
        assert (job.error, job.errors) == (first, (first,))
        second = make_error("Second", attempt=2)
        job = (await apply(backend, make_transition(LifecycleEvent.LAPSE, job.id, error=second))).job
        assert (job.error, job.errors) == (second, (first, second))
        job = (await apply(backend, make_transition(LifecycleEvent.CANCEL, job.id))).job
        assert (job.error, job.errors) == (second, (first, second))

    async def test_the_error_can_be_cleared_while_the_history_stays(self, backend: Backend) -> None:
        """Success clears the last error and keeps the history (C-OPS-20)."""
        job = await job_in(backend, JobState.ACTIVE)
        error = make_error()
        await apply(backend, make_transition(LifecycleEvent.LAPSE, job.id, error=error))
        await claim(backend)
        job = (await apply(backend, make_transition(LifecycleEvent.ACK, job.id, changes={"error": None}))).job
        assert (job.error, job.errors) == (None, (error,))

    async def test_the_history_keeps_the_newest(self, backend: Backend) -> None:
        """Beyond `ERRORS_KEPT` the oldest errors go (C-RTY-12)."""
        job = await insert_one(backend)
        failures = [make_error(f"Error{n}", attempt=n) for n in range(ERRORS_KEPT + 3)]
        for error in failures:
            [job] = (await claim(backend)).jobs
            job = (await apply(backend, make_transition(LifecycleEvent.LAPSE, job.id, error=error))).job
        assert job.errors == tuple(failures[-ERRORS_KEPT:])
        assert (await read(backend, job.id)).error == failures[-1]

    @pytest.mark.parametrize("event", [LifecycleEvent.ACK, LifecycleEvent.CANCEL, LifecycleEvent.DISCARD])
    async def test_a_finished_job_wakes_at_the_end_of_its_retention(
        self, backend: Backend, event: LifecycleEvent
    ) -> None:
        """`wake_at` is the transition's, not the expiry the job had; for a member of a workflow `member_wake_at`."""
        job = await job_in(backend, JobState.ACTIVE, expires_at=NOW + 1)
        member = await job_in(backend, JobState.ACTIVE, expires_at=NOW + 1, workflow_id=make_id(), workflow_step=0)
        wakes: dict[str, Any] = {"wake_at": NOW + DAY, "member_wake_at": NOW + MINUTE}
        assert (await apply(backend, make_transition(event, job.id, **wakes))).job.wake_at == NOW + DAY
        assert (await apply(backend, make_transition(event, member.id, **wakes))).job.wake_at == NOW + MINUTE
        assert [due.id for due in await backend.due_jobs(NOW + DAY, 10)] == [member.id, job.id]

    @pytest.mark.parametrize(
        ("wake_at", "expires_at", "expected"),
        [
            (NOW + 5, None, NOW + 5),
            (NOW + 5, NOW + 9, NOW + 5),
            (NOW + 9, NOW + 5, NOW + 5),
            (None, NOW + 5, NOW + 5),
            (None, None, None),
        ],
    )
    async def test_a_waiting_job_wakes_at_its_time_or_its_expiry(
        self, backend: Backend, wake_at: int | None, expires_at: int | None, expected: int | None
    ) -> None:
        """Whichever comes first; a member of a workflow is no exception while it waits."""
        for workflow_id in (None, make_id()):
            job = await job_in(backend, JobState.ACTIVE, expires_at=expires_at, workflow_id=workflow_id)
            retry = make_transition(LifecycleEvent.RETRY, job.id, wake_at=wake_at, member_wake_at=NOW + 1)
            assert (await apply(backend, retry)).job.wake_at == expected
        assert len(await backend.due_jobs(NOW + 5, 10)) == (0 if expected is None else 2)

    async def test_an_expiry_changed_by_the_swap_counts(self, backend: Backend) -> None:
        """A revived job has no expiry any more, so the old one does not wake it."""
        job = await job_in(backend, JobState.DISCARDED, expires_at=NOW + 5)
        revive = make_transition(LifecycleEvent.REVIVE, job.id, changes={"expires_at": None})
        assert (await apply(backend, revive)).job.wake_at is None
        other = await job_in(backend, JobState.DISCARDED, queue="other")
        revive = make_transition(LifecycleEvent.REVIVE, other.id, changes={"expires_at": NOW + 7})
        assert (await apply(backend, revive)).job.wake_at == NOW + 7

    async def test_a_swap_may_leave_a_job_active(self, backend: Backend) -> None:
        """Its run goes on: holder, lease and numbers stay, and the clock comes when it is told (C-WF-18)."""
        job = await job_in(backend, JobState.ACTIVE, worker_id="w", expires_at=NOW + 1, workflow_id=make_id())
        mark = plan_abandon(job, NOW, Retention())
        assert mark is not None
        marked = (await apply(backend, mark)).job
        assert marked == replace_fields(job, last_run=True, expires_at=None, version=job.version + 1)
        assert await read(backend, job.id) == marked
        assert await counts(backend) == {"active": 1}
        assert job.wake_at is not None
        assert await backend.due_jobs(job.wake_at - 1, 10) == []
        assert await backend.due_jobs(job.wake_at, 10) == [marked]
        await _untouched(backend, marked, mark)
        await apply(backend, make_transition(LifecycleEvent.ACK, job.id, worker_id="w", fence=job.fence))

    async def test_a_revived_job_can_be_claimed_after_its_old_expiry(self, backend: Backend) -> None:
        """What a claim compares with is the expiry as it is now."""
        job = await insert_one(backend, expires_at=NOW + 5)
        await apply(backend, make_transition(LifecycleEvent.EXPIRE, job.id))
        await apply(backend, make_transition(LifecycleEvent.REVIVE, job.id, changes={"expires_at": None}))
        answer = await claim(backend, now=NOW + HOUR)
        assert ([claimed.id for claimed in answer.jobs], answer.expired) == ([job.id], ())

    async def test_a_revived_member_is_none_any_more(self, backend: Backend) -> None:
        """Its next end is that of any other job."""
        job = await job_in(backend, JobState.DISCARDED, workflow_id=make_id(), workflow_step=1)
        changes = {"workflow_id": None, "workflow_step": None}
        await apply(backend, make_transition(LifecycleEvent.REVIVE, job.id, changes=changes))
        await claim(backend)
        ack = make_transition(LifecycleEvent.ACK, job.id, wake_at=NOW + DAY, member_wake_at=NOW + MINUTE)
        ended = (await apply(backend, ack)).job
        assert (ended.workflow_id, ended.workflow_step, ended.wake_at) == (None, None, NOW + DAY)

    async def test_the_fence_survives_a_revival(self, backend: Backend) -> None:
        """Attempts start anew, the token does not: an old worker cannot match again."""
        job = await job_in(backend, JobState.DISCARDED)
        assert job.fence == 1
        await apply(backend, make_transition(LifecycleEvent.REVIVE, job.id, changes={"attempt": 0}))
        [again] = (await claim(backend)).jobs
        assert (again.attempt, again.fence) == (1, 2)
        await _untouched(backend, again, make_transition(LifecycleEvent.ACK, job.id, fence=1))

    async def test_a_swap_may_move_the_job_to_a_new_queue(self, backend: Backend) -> None:
        """A manual retry may name another queue: numbers move, and one never seen comes into existence (C-QOP-05)."""
        job = await job_in(backend, JobState.DISCARDED)
        await apply(backend, make_transition(LifecycleEvent.REVIVE, job.id, changes={"queue": "elsewhere"}))
        assert await counts(backend) == {}
        assert await counts(backend, "elsewhere") == {"available": 1}
        assert await claim_ids(backend) == []
        assert await claim_ids(backend, "elsewhere") == [job.id]

    async def test_several_swaps_in_one_commit(self, backend: Backend) -> None:
        """They are answered in the order asked, with the state each job had."""
        jobs = await insert(backend, *(make_new(state) for state in (JobState.PENDING, JobState.AVAILABLE) * 5))
        jobs.reverse()
        answer = await accept(
            backend, transitions=tuple(make_transition(LifecycleEvent.CANCEL, job.id) for job in jobs)
        )
        assert [change.job.id for change in answer.changed] == [job.id for job in jobs]
        assert [change.previous for change in answer.changed] == [job.state for job in jobs]
        assert isinstance(answer.changed[0], Change)
        assert await counts(backend) == {"cancelled": 10}

    async def test_hundreds_of_swaps_in_one_commit(self, backend: Backend) -> None:
        """A large workflow is cancelled in one step."""
        jobs = await insert(backend, *(make_new() for _ in range(300)))
        swaps = tuple(make_transition(LifecycleEvent.CANCEL, job.id, version=1) for job in jobs)
        await refuse(backend, transitions=(*swaps, make_transition(LifecycleEvent.CANCEL, make_id())))
        assert await counts(backend) == {"available": 300}
        answer = await accept(backend, transitions=swaps)
        assert [change.job.id for change in answer.changed] == [job.id for job in jobs]
        assert await counts(backend) == {"cancelled": 300}

    async def test_one_bad_swap_stops_them_all(self, backend: Backend) -> None:
        """The first conflict is named, with its position."""
        jobs = await insert(backend, *(make_new() for _ in range(5)))
        ended = await job_in(backend, JobState.COMPLETED, queue="other")
        jobs[2] = ended
        conflicts = await refuse(
            backend, transitions=tuple(make_transition(LifecycleEvent.CANCEL, job.id) for job in jobs)
        )
        assert (conflicts[0].kind, conflicts[0].index, conflicts[0].job) == ("transition", 2, ended)
        assert await counts(backend) == {"available": 5}
