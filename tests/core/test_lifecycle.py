"""The lifecycle table, its guards, and the swaps it plans (OJS core §6; requirements T01 to T17)."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ojs_core.errors import StateConflictError
from ojs_core.failing import plan_failure, plan_lapse, plan_requeue
from ojs_core.job import TERMINAL, WAITING, Job, JobState
from ojs_core.lifecycle import (
    ADVANCE_GRACE_MS,
    RELEASED,
    TRANSITIONS,
    LifecycleEvent,
    Retention,
    Transition,
    apply_transition,
    check_guard,
    claim_job,
    earliest,
    extend_lease,
    guard_holds,
    plan_abandon,
    plan_ack,
    plan_activate,
    plan_cancel,
    plan_expire,
    plan_note,
    plan_promote,
    plan_revive,
    retention_ends,
)
from ojs_core.retry import RetryPolicy
from ojs_core.testing.clock import NOW
from ojs_core.testing.factories import make_error, make_job, raw

HOUR = 3_600_000
DAY = 24 * HOUR
KEEP = Retention()
STEADY = RetryPolicy(jitter=False)

# What OJS core §6.3 and the requirements T04 to T17 say, written down without looking at the table. "." is illegal.
LEGAL = """
            promote   activate  claim  ack       retry     discard   requeue   lapse     cancel    expire    revive
scheduled   available .         .      .         .         .         .         .         cancelled discarded .
available   .         .         active .         .         .         .         .         cancelled discarded .
pending     .         available .      .         .         .         .         .         cancelled discarded .
active      .         .         .      completed retryable discarded available available cancelled .         .
completed   .         .         .      .         .         .         .         .         .         .         .
retryable   available .         .      .         .         .         .         .         cancelled discarded .
cancelled   .         .         .      .         .         .         .         .         .         .         .
discarded   .         .         .      .         .         .         .         .         .         .         available
"""
HEAD, *ROWS = [line.split() for line in LEGAL.strip().splitlines()]
PAIRS = [(row[0], event, cell) for row in ROWS for event, cell in zip(HEAD, row[1:], strict=True)]


def job_in(state: str, **fields: Any) -> Job:
    """A record as the lifecycle leaves one in that state, four swaps after its insert."""
    shape: dict[str, Any] = {"version": 5, "fence": 2, "seq": 9, "attempt": 2, "retry": STEADY}
    if state == "active":
        shape |= {"worker_id": "w", "lease_ms": 1000, "lease_expires_at": NOW + 1000, "timeout_at": NOW + 9000}
        shape |= {"started_at": NOW - 50, "wake_at": NOW + 1000, "enqueued_at": NOW - 80}
    return make_job(JobState(state), **(shape | fields))


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_expectation_names_all_states_and_events() -> None:
    assert {row[0] for row in ROWS} == set(JobState)
    assert set(HEAD) == set(LifecycleEvent) - {"note"} == set(TRANSITIONS)


@pytest.mark.parametrize(("state", "event", "to"), PAIRS)
def test_the_table_allows_exactly_what_the_spec_does(state: str, event: str, to: str) -> None:
    expected, target = TRANSITIONS[LifecycleEvent(event)]
    assert (JobState(state) in expected) is (to != ".")
    if to != ".":
        assert target == to


def test_terminal_and_waiting_states() -> None:
    assert {"completed", "cancelled", "discarded"} == TERMINAL
    assert {"scheduled", "available", "pending", "retryable"} == WAITING
    assert TERMINAL | WAITING | {"active"} == set(JobState)


PLANS = {
    "promote": lambda job: plan_promote(job, NOW),
    "activate": lambda job: plan_activate(job.id, NOW),
    "ack": lambda job: plan_ack(job.id, NOW, KEEP),
    "retry": lambda job: plan_failure(job, NOW, KEEP, make_error(), 0.5),
    "discard": lambda job: plan_failure(job, NOW, KEEP, make_error(code="DISCARD"), 0.5),
    "requeue": lambda job: plan_requeue(job, NOW, KEEP),
    "lapse": lambda job: plan_lapse(job, NOW, KEEP, "visibility_timeout", "gone"),
    "cancel": lambda job: plan_cancel(job.id, NOW, KEEP),
    "expire": lambda job: plan_expire(job, NOW, KEEP),
    "revive": lambda job: plan_revive(job, NOW),
}


@pytest.mark.parametrize(("state", "event", "to"), [pair for pair in PAIRS if pair[1] != "claim"])
def test_every_plan_holds_to_the_table(state: str, event: str, to: str) -> None:
    job = job_in(state)
    transition = PLANS[event](job)
    assert transition.event == event
    assert transition.job_id == job.id
    assert transition.at == NOW
    assert guard_holds(transition, job) is (to != ".")
    if to == ".":
        with pytest.raises(StateConflictError) as caught:
            check_guard(transition, job)
        assert caught.value.details["current_state"] == state
        assert caught.value.details["job_id"] == job.id
    else:
        check_guard(transition, job)
        after = apply_transition(job, transition)
        assert after.state == to
        assert after.version == job.version + 1
        assert (after.id, after.fence, after.seq) == (job.id, job.fence, job.seq)


# --- the guard --------------------------------------------------------------------------------------------------------


def ack(**guard: Any) -> Transition:
    return replace(plan_ack("job", NOW, KEEP), **guard)


@pytest.mark.parametrize(
    ("guard", "says"),
    [
        ({"version": 4}, "changed in the meantime"),
        ({"version": 6}, "changed in the meantime"),
        ({"fence": 1}, "claimed again"),
        ({"fence": 3}, "claimed again"),
        ({"worker_id": "other"}, "held by worker 'w'"),
        ({"worker_id": ""}, "held by worker 'w'"),
        ({"version": 5, "fence": 2, "worker_id": "other"}, "held by worker"),
        ({"version": 5, "fence": 1, "worker_id": "w"}, "claimed again"),
        ({"version": 4, "fence": 2, "worker_id": "w"}, "in the meantime"),
    ],
)
def test_a_guard_that_does_not_hold(guard: dict[str, Any], says: str) -> None:
    job = job_in("active")
    assert not guard_holds(ack(**guard), job)
    with pytest.raises(StateConflictError, match=says) as caught:
        check_guard(ack(**guard), job)
    assert caught.value.details["current_state"] == "active"


@pytest.mark.parametrize(
    "guard", [{}, {"version": 5}, {"fence": 2}, {"worker_id": "w"}, {"version": 5, "fence": 2, "worker_id": "w"}]
)
def test_a_guard_that_holds(guard: dict[str, Any]) -> None:
    assert guard_holds(ack(**guard), job_in("active"))
    check_guard(ack(**guard), job_in("active"))


def test_nobody_is_a_stranger_to_a_job_without_owner() -> None:
    # C-OPS-21
    job = job_in("active", worker_id=None)
    assert guard_holds(ack(worker_id="anyone"), job)
    check_guard(ack(worker_id="anyone"), job)


def test_the_conflict_names_what_was_expected() -> None:
    # C-LC-01, C-ERR-08
    with pytest.raises(StateConflictError) as one:
        check_guard(ack(), job_in("available"))
    assert one.value.details["expected_state"] == "active"
    with pytest.raises(StateConflictError) as several:
        check_guard(plan_cancel("job", NOW, KEEP), job_in("completed"))
    assert several.value.details["expected_state"] == sorted(WAITING | {"active"})


def test_the_conflict_names_the_holder() -> None:
    with pytest.raises(StateConflictError) as caught:
        check_guard(ack(worker_id="x"), job_in("active"))
    assert caught.value.details["worker_id"] == "w"


# --- what a swap leaves behind ----------------------------------------------------------------------------------------


def applied(job: Job, transition: Transition) -> dict[str, Any]:
    """Return the fields that the swap changed."""
    after = apply_transition(job, transition)
    pairs = {name: (getattr(job, name), getattr(after, name)) for name in job.__struct_fields__}
    return {name: new for name, (old, new) in pairs.items() if new != old}


GONE = {"worker_id": None, "lease_ms": None, "lease_expires_at": None, "timeout_at": None}


def test_every_way_out_of_active_releases_the_lease() -> None:
    assert dict(RELEASED) == GONE
    for event in ("ack", "retry", "discard", "requeue", "lapse", "cancel"):
        after = apply_transition(job_in("active"), PLANS[event](job_in("active")))
        assert {name: getattr(after, name) for name in GONE} == GONE, event


def test_promote() -> None:
    # T04, T14
    job = job_in("retryable", next_retry_at=NOW, retry_delay_ms=5, started_at=NOW - 9, wake_at=NOW)
    assert applied(job, plan_promote(job, NOW)) == {
        "state": "available",
        "version": 6,
        "enqueued_at": NOW,
        "next_retry_at": None,
        "wake_at": None,
    }
    assert plan_promote(job, NOW).version == job.version
    assert [draft.type for draft in plan_promote(job, NOW).events] == ["job.enqueued"]


def test_activate() -> None:
    # T05
    job = job_in("pending")
    assert applied(job, plan_activate(job.id, NOW)) == {"state": "available", "version": 6, "enqueued_at": NOW}
    [draft] = plan_activate(job.id, NOW).events
    assert (draft.type, draft.data) == ("job.enqueued", {"activated_at": "2026-02-12T10:30:00.000Z"})


def test_ack() -> None:
    # T07, C-OPS-20
    error = make_error()
    job = job_in("active", error=error, errors=(error,))
    result = raw({"ok": 1.0})
    transition = plan_ack(job.id, NOW, KEEP, result=result, worker_id="w", fence=2)
    assert (transition.worker_id, transition.fence, transition.version) == ("w", 2, None)
    assert applied(job, transition) == {
        "state": "completed",
        "version": 6,
        "completed_at": NOW,
        "result": result,
        "error": None,
        "wake_at": NOW + DAY,
        **GONE,
    }
    assert [draft.type for draft in transition.events] == ["job.completed"]


def test_ack_without_a_result() -> None:
    job = job_in("active", result=raw(1))
    assert apply_transition(job, plan_ack(job.id, NOW, KEEP)).result is None


def test_cancel_keeps_attempt_and_start() -> None:
    # T15, C-LC-07, C-LC-08
    job = job_in("active")
    transition = plan_cancel(job.id, NOW, KEEP, version=5)
    assert transition.version == 5
    changed = {"state": "cancelled", "version": 6, "cancelled_at": NOW, "wake_at": NOW + DAY, **GONE}
    assert applied(job, transition) == changed
    assert [draft.type for draft in transition.events] == ["job.cancelled"]


def test_expire_leaves_no_completion() -> None:
    # T16, Q-08
    job = job_in("retryable", expires_at=NOW - 5, created_at=NOW - 105, next_retry_at=NOW + 9, wake_at=NOW - 5)
    transition = plan_expire(job, NOW, KEEP)
    assert applied(job, transition) == {
        "state": "discarded",
        "version": 6,
        "discarded_at": NOW,
        "next_retry_at": None,
        "wake_at": NOW + 7 * DAY,
    }
    [draft] = transition.events
    assert draft.type == "job.expired"
    assert draft.data == {
        "created_at": "2026-02-12T10:29:59.895Z",
        "expired_at": "2026-02-12T10:30:00.000Z",
        "ttl_ms": 100,
    }


@pytest.mark.parametrize(("expires_at", "ttl_ms"), [(NOW - 999, 0), (None, 50)])
def test_the_time_to_live_is_never_negative(expires_at: int | None, ttl_ms: int) -> None:
    job = job_in("available", created_at=NOW - 50, expires_at=expires_at)
    assert plan_expire(job, NOW, KEEP).events[0].data["ttl_ms"] == ttl_ms


def test_a_revived_job_runs_as_often_as_any() -> None:
    job = job_in("discarded", workflow_id="flow", last_run=True)
    assert apply_transition(job, plan_revive(job, NOW)).last_run is False


def test_revive_starts_anew_and_keeps_the_history() -> None:
    # T17, Q-16, C-DLQ-04
    error = make_error()
    job = job_in(
        "discarded",
        dead=True,
        requeues=1,
        error=error,
        errors=(error,),
        result=raw(1),
        started_at=1,
        completed_at=2,
        discarded_at=3,
        retry_delay_ms=4,
        expires_at=5,
        workflow_id="flow",
        workflow_step=6,
        wake_at=7,
    )
    transition = plan_revive(job, NOW, {"queue": "other"})
    assert transition.version == 5
    after = apply_transition(job, transition)
    assert applied(job, transition) == {
        "state": "available",
        "version": 6,
        "queue": "other",
        "enqueued_at": NOW,
        "attempt": 0,
        "requeues": 0,
        "dead": False,
        **dict.fromkeys(
            [
                "error",
                "result",
                "started_at",
                "completed_at",
                "discarded_at",
                "retry_delay_ms",
                "expires_at",
                "workflow_id",
                "workflow_step",
                "wake_at",
            ]
        ),
    }
    assert after.errors == (error,)
    assert after.fence == job.fence
    assert plan_revive(job, NOW).changes["enqueued_at"] == NOW


def test_note_keeps_the_state() -> None:
    job = job_in("discarded", dead=True, workflow_id="flow")
    transition = plan_note(job, NOW, KEEP)
    assert guard_holds(transition, job)
    assert applied(job, transition) == {"advanced": True, "version": 6, "wake_at": NOW + 180 * DAY}
    assert not guard_holds(transition, apply_transition(job, transition))


@pytest.mark.parametrize("state", sorted(WAITING))
def test_what_waits_ends_with_its_workflow(state: str) -> None:
    # C-WF-18
    job = job_in(state, workflow_id="flow")
    transition = plan_abandon(job, NOW, KEEP)
    assert transition is not None
    assert apply_transition(job, transition).state == "cancelled"
    assert not guard_holds(transition, job_in("active", workflow_id="flow"))


def test_what_runs_may_finish_when_its_workflow_ends() -> None:
    # C-WF-18, Q-23f: nothing changes but what follows this run, and the clock still comes when the lease ends.
    job = job_in("active", workflow_id="flow", expires_at=NOW + 1)
    transition = plan_abandon(job, NOW, KEEP)
    assert transition is not None
    assert applied(job, transition) == {"last_run": True, "version": 6, "expires_at": None}
    marked = apply_transition(job, transition)
    assert marked.wake_at == job.lease_expires_at
    assert not guard_holds(transition, marked)
    assert guard_holds(plan_ack(job.id, NOW, KEEP, worker_id="w", fence=2), marked)


@pytest.mark.parametrize("state", [*sorted(TERMINAL), "active"])
def test_an_abandoned_job_is_not_abandoned_again(state: str) -> None:
    assert plan_abandon(job_in(state, workflow_id="flow", last_run=state == "active"), NOW, KEEP) is None


# --- the clock --------------------------------------------------------------------------------------------------------


def test_a_member_is_looked_at_soon_after_its_end() -> None:
    job = job_in("active", workflow_id="flow", workflow_step=0)
    for event in ("ack", "discard", "cancel"):
        assert apply_transition(job, PLANS[event](job)).wake_at == NOW + ADVANCE_GRACE_MS
    waiting = job_in("available", workflow_id="flow", workflow_step=0)
    assert apply_transition(waiting, plan_expire(waiting, NOW, KEEP)).wake_at == NOW + ADVANCE_GRACE_MS
    retried = apply_transition(job, PLANS["retry"](job))
    assert retried.wake_at == retried.next_retry_at


@pytest.mark.parametrize(
    ("wake_in", "expires_in", "expected"), [(5, None, 5), (None, 7, 7), (5, 7, 5), (7, 5, 5), (None, None, None)]
)
def test_the_earlier_of_wake_and_expiry(wake_in: int | None, expires_in: int | None, expected: int | None) -> None:
    def at(ms: int | None) -> int | None:
        return None if ms is None else NOW + ms

    job = job_in("active", expires_at=at(expires_in))
    transition = replace(PLANS["retry"](job), wake_at=at(wake_in))
    assert apply_transition(job, transition).wake_at == at(expected)


def test_retention() -> None:
    keep = Retention(completed_ms=1, cancelled_ms=2, discarded_ms=3, dead_letter_ms=4)
    assert retention_ends(JobState.COMPLETED, NOW, keep) == NOW + 1
    assert retention_ends(JobState.CANCELLED, NOW, keep) == NOW + 2
    assert retention_ends(JobState.DISCARDED, NOW, keep) == NOW + 3
    assert retention_ends(JobState.DISCARDED, NOW, keep, dead=True) == NOW + 4


def test_earliest() -> None:
    assert earliest() is earliest(None, None) is None
    assert earliest(None, 3, 1, None, 2) == 1
    assert earliest(0, None) == 0


# --- leases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "own", "lease"), [(7, 6, 7), (None, 6, 6), (7, None, 7), (None, None, 5), (0, 6, 6), (0, None, 5)]
)
@pytest.mark.parametrize(("timeout_ms", "limit"), [(None, 20), (3, 3)])
def test_claim(asked: int | None, own: int | None, lease: int, timeout_ms: int | None, limit: int) -> None:
    # T06, C-VIS-01, C-VIS-06
    job = job_in("available", visibility_timeout_ms=own, timeout_ms=timeout_ms, next_retry_at=1, expires_at=NOW + 1)
    after = claim_job(job, now=NOW, worker_id="w", lease_ms=asked, default_lease_ms=5, default_timeout_ms=20)
    assert after == replace(
        job,
        state=JobState.ACTIVE,
        version=6,
        fence=3,
        attempt=3,
        started_at=NOW,
        worker_id="w",
        lease_ms=lease,
        lease_expires_at=NOW + lease,
        timeout_at=NOW + limit,
        next_retry_at=None,
        wake_at=NOW + min(lease, limit),
    )
    assert after.lease_id == "3"


@pytest.mark.parametrize(
    ("asked", "taken", "lease"), [(7, 1000, 7), (None, 1000, 1000), (0, 1000, 1000), (7, None, 7), (None, None, 0)]
)
@pytest.mark.parametrize("timeout_in", [None, 5, 9000])
def test_extend_lease(asked: int | None, taken: int | None, lease: int, timeout_in: int | None) -> None:
    # C-VIS-05
    timeout_at = None if timeout_in is None else NOW + timeout_in
    job = job_in("active", lease_ms=taken, timeout_at=timeout_at)
    after = extend_lease(job, now=NOW, lease_ms=asked)
    wake_at = NOW + lease if timeout_in is None else NOW + min(lease, timeout_in)
    assert after == replace(job, version=6, lease_ms=lease, lease_expires_at=NOW + lease, wake_at=wake_at)
