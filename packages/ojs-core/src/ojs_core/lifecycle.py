"""The lifecycle of a job: one table, and the swaps it allows.

Everything that changes a job's state is here, as pure functions of values: a `Transition` says what a store must find
(the guard) and what it must leave behind. A store that holds the record in this process applies it with
`apply_transition`; any other does the same with its own script or statement. Source: OJS core §6; the table is the
union of the prose and the official cases (requirements T01 to T17, Q-30).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from ojs_core.errors import StateConflictError
from ojs_core.events import EventDraft
from ojs_core.job import ERRORS_KEPT, TERMINAL, WAITING, Job, JobError, JobState
from ojs_core.timestamps import format_ms


class LifecycleEvent(StrEnum):
    """What can happen to a job that exists. Finer than the client operations: a failure is RETRY or DISCARD.

    NOTE keeps the state: a workflow took note that its member ended, or, when cancelled, lets it end its last run.
    """

    PROMOTE = "promote"
    ACTIVATE = "activate"
    CLAIM = "claim"
    ACK = "ack"
    RETRY = "retry"
    DISCARD = "discard"
    REQUEUE = "requeue"
    LAPSE = "lapse"
    CANCEL = "cancel"
    EXPIRE = "expire"
    REVIVE = "revive"
    NOTE = "note"


_S = JobState
TRANSITIONS: Mapping[LifecycleEvent, tuple[frozenset[JobState], JobState]] = {
    LifecycleEvent.PROMOTE: (frozenset({_S.SCHEDULED, _S.RETRYABLE}), _S.AVAILABLE),
    LifecycleEvent.ACTIVATE: (frozenset({_S.PENDING}), _S.AVAILABLE),
    LifecycleEvent.CLAIM: (frozenset({_S.AVAILABLE}), _S.ACTIVE),
    LifecycleEvent.ACK: (frozenset({_S.ACTIVE}), _S.COMPLETED),
    LifecycleEvent.RETRY: (frozenset({_S.ACTIVE}), _S.RETRYABLE),
    LifecycleEvent.DISCARD: (frozenset({_S.ACTIVE}), _S.DISCARDED),
    LifecycleEvent.REQUEUE: (frozenset({_S.ACTIVE}), _S.AVAILABLE),
    LifecycleEvent.LAPSE: (frozenset({_S.ACTIVE}), _S.AVAILABLE),
    LifecycleEvent.CANCEL: (WAITING | {_S.ACTIVE}, _S.CANCELLED),
    LifecycleEvent.EXPIRE: (WAITING, _S.DISCARDED),
    LifecycleEvent.REVIVE: (frozenset({_S.DISCARDED}), _S.AVAILABLE),
}
"""event -> (states it may happen in, state it leads to). Nothing else changes a state (C-LC-01)."""


class Retention(Struct, frozen=True):
    """How long a finished job is kept before it is removed, in ms."""

    completed_ms: int = 24 * 3600 * 1000
    cancelled_ms: int = 24 * 3600 * 1000
    discarded_ms: int = 7 * 24 * 3600 * 1000
    dead_letter_ms: int = 180 * 24 * 3600 * 1000


ADVANCE_GRACE_MS = 1000
"""How long after a member of a workflow ended the sweeper looks whether the workflow took note of it. The request that
ended the member advances the workflow itself; the sweeper only repairs what a crash left between the two."""

RELEASED: Mapping[str, Any] = {"worker_id": None, "lease_ms": None, "lease_expires_at": None, "timeout_at": None}
"""What every way out of `active` clears."""


class Transition(Struct, frozen=True, kw_only=True):
    """One swap: what must hold, and what it changes.

    Guard: the record exists, its state is in `expected`; `version`, `worker_id` and `fence`, where given, must match
    (`worker_id` only against a recorded owner: a job fetched without a worker id has none, C-OPS-21).

    Effect, all or nothing: state becomes `to`, each field of `changes` is set, `error` is set and appended to `errors`
    (the newest `ERRORS_KEPT` stay), `version` grows by one, and a job that enters `available` gets a new `seq`.
    `wake_at` becomes: for a member of a workflow that reaches a terminal state `member_wake_at`; for any other terminal
    state `wake_at`; otherwise the earlier of `wake_at` and the record's `expires_at`.
    """

    job_id: str
    event: LifecycleEvent
    to: JobState
    at: int
    expected: frozenset[JobState]
    version: int | None = None
    worker_id: str | None = None
    fence: int | None = None
    changes: Mapping[str, Any] = {}
    error: JobError | None = None
    events: tuple[EventDraft, ...] = ()
    wake_at: int | None = None
    member_wake_at: int | None = None


def check_guard(transition: Transition, job: Job) -> None:
    """Raise `StateConflictError`, with the actual state, unless the swap may happen."""
    if job.state not in transition.expected:
        expected = sorted(transition.expected)
        raise StateConflictError(
            f"Cannot {transition.event} job {job.id}: it is {job.state}.",
            job_id=job.id,
            current_state=job.state,
            expected_state=expected[0] if len(expected) == 1 else expected,
        )
    if transition.worker_id is not None and job.worker_id is not None and transition.worker_id != job.worker_id:
        raise StateConflictError(
            f"Cannot {transition.event} job {job.id}: it is held by worker '{job.worker_id}'.",
            job_id=job.id,
            current_state=job.state,
            worker_id=job.worker_id,
        )
    if transition.fence is not None and transition.fence != job.fence:
        raise StateConflictError(
            f"Cannot {transition.event} job {job.id}: the lease has lapsed and the job was claimed again.",
            job_id=job.id,
            current_state=job.state,
            worker_id=job.worker_id,
        )
    if transition.version is not None and transition.version != job.version:
        raise StateConflictError(
            f"Cannot {transition.event} job {job.id}: it changed in the meantime.",
            job_id=job.id,
            current_state=job.state,
        )


def guard_holds(transition: Transition, job: Job) -> bool:
    """Return whether the swap may happen; `check_guard` says why not."""
    return (
        job.state in transition.expected
        and (transition.version is None or transition.version == job.version)
        and (transition.fence is None or transition.fence == job.fence)
        and (transition.worker_id is None or job.worker_id is None or transition.worker_id == job.worker_id)
    )


def apply_transition(job: Job, transition: Transition) -> Job:
    """Return the record after the swap, without the new `seq`. The guard must hold."""
    to = transition.to
    if to in TERMINAL:
        wake_at = transition.wake_at if job.workflow_id is None else transition.member_wake_at
    else:
        wake_at = earliest(transition.wake_at, transition.changes.get("expires_at", job.expires_at))
    fields: dict[str, Any] = {**transition.changes, "state": to, "version": job.version + 1, "wake_at": wake_at}
    if transition.error is not None:
        fields["error"] = transition.error
        fields["errors"] = (*job.errors, transition.error)[-ERRORS_KEPT:]
    return msgspec.structs.replace(job, **fields)


def claim_job(
    job: Job, *, now: int, worker_id: str | None, lease_ms: int | None, default_lease_ms: int, default_timeout_ms: int
) -> Job:
    """Return an available job as one worker's claim leaves it (T06, C-VIS-01).

    The lease is the one asked for, else the job's, else the default; both clocks start now.
    """
    lease = lease_ms or job.visibility_timeout_ms or default_lease_ms
    timeout_at = now + (job.timeout_ms or default_timeout_ms)
    return msgspec.structs.replace(
        job,
        state=JobState.ACTIVE,
        version=job.version + 1,
        fence=job.fence + 1,
        attempt=job.attempt + 1,
        started_at=now,
        worker_id=worker_id,
        lease_ms=lease,
        lease_expires_at=now + lease,
        timeout_at=timeout_at,
        next_retry_at=None,
        wake_at=min(now + lease, timeout_at),
    )


def extend_lease(job: Job, *, now: int, lease_ms: int | None) -> Job:
    """Return an active job with its lease renewed: to the length given, else the one it was taken with (C-VIS-05)."""
    lease = lease_ms or job.lease_ms or 0
    expires = now + lease
    return msgspec.structs.replace(
        job,
        version=job.version + 1,
        lease_ms=lease,
        lease_expires_at=expires,
        wake_at=expires if job.timeout_at is None else min(expires, job.timeout_at),
    )


def earliest(*instants: int | None) -> int | None:
    """Return the first of the instants that are set, or None."""
    return min((instant for instant in instants if instant is not None), default=None)


def retention_ends(state: JobState, now: int, retention: Retention, *, dead: bool = False) -> int:
    """When a job that reached a terminal `state` now is to be removed."""
    match state:
        case JobState.COMPLETED:
            return now + retention.completed_ms
        case JobState.CANCELLED:
            return now + retention.cancelled_ms
        case _:
            return now + (retention.dead_letter_ms if dead else retention.discarded_ms)


def plan_event(job_id: str, event: LifecycleEvent, now: int, **rest: Any) -> Transition:
    """Plan a swap as the table has it; `rest` are further fields of the transition."""
    expected, to = TRANSITIONS[event]
    return Transition(job_id=job_id, event=event, to=to, at=now, expected=expected, **rest)


def plan_end(job_id: str, event: LifecycleEvent, now: int, retention: Retention, **rest: Any) -> Transition:
    """Plan a swap into a terminal state, with when to look at the job again."""
    dead = bool(rest.get("changes", {}).get("dead"))
    return plan_event(
        job_id,
        event,
        now,
        wake_at=retention_ends(TRANSITIONS[event][1], now, retention, dead=dead),
        member_wake_at=now + ADVANCE_GRACE_MS,
        **rest,
    )


def plan_promote(job: Job, now: int) -> Transition:
    """A due `scheduled` or `retryable` job becomes available (T04, T14)."""
    return plan_event(
        job.id,
        LifecycleEvent.PROMOTE,
        now,
        version=job.version,
        changes={"enqueued_at": now, "next_retry_at": None},
        events=(EventDraft("job.enqueued"),),
    )


def plan_activate(job_id: str, now: int) -> Transition:
    """A staged job is released (T05)."""
    return plan_event(
        job_id,
        LifecycleEvent.ACTIVATE,
        now,
        changes={"enqueued_at": now},
        events=(EventDraft("job.enqueued", {"activated_at": format_ms(now)}),),
    )


def plan_ack(
    job_id: str,
    now: int,
    retention: Retention,
    *,
    result: msgspec.Raw | None = None,
    worker_id: str | None = None,
    fence: int | None = None,
) -> Transition:
    """The worker succeeded (T07). Needs no read: what it guards and sets is known beforehand."""
    return plan_end(
        job_id,
        LifecycleEvent.ACK,
        now,
        retention,
        worker_id=worker_id,
        fence=fence,
        changes={**RELEASED, "completed_at": now, "result": result, "error": None},
        events=(EventDraft("job.completed"),),
    )


def plan_cancel(job_id: str, now: int, retention: Retention, *, version: int | None = None) -> Transition:
    """Cancel whatever has not ended (T15)."""
    return plan_end(
        job_id,
        LifecycleEvent.CANCEL,
        now,
        retention,
        version=version,
        changes={**RELEASED, "cancelled_at": now, "next_retry_at": None},
        events=(EventDraft("job.cancelled"),),
    )


def plan_expire(job: Job, now: int, retention: Retention) -> Transition:
    """A job that nobody started in time is discarded, without `completed_at` (T16)."""
    data = {
        "created_at": format_ms(job.created_at),
        "expired_at": format_ms(now),
        "ttl_ms": max(0, (job.expires_at or now) - job.created_at),
    }
    return plan_end(
        job.id,
        LifecycleEvent.EXPIRE,
        now,
        retention,
        version=job.version,
        changes={"discarded_at": now, "next_retry_at": None},
        events=(EventDraft("job.expired", data),),
    )


def plan_revive(job: Job, now: int, changes: Mapping[str, Any] | None = None) -> Transition:
    """A dead letter gets a fresh set of attempts (T17); the error history stays (Q-16).

    A revived member no longer moves its workflow: that has long taken note of the failure.
    """
    return plan_event(
        job.id,
        LifecycleEvent.REVIVE,
        now,
        version=job.version,
        changes={
            "attempt": 0,
            "requeues": 0,
            "dead": False,
            "error": None,
            "result": None,
            "started_at": None,
            "completed_at": None,
            "discarded_at": None,
            "retry_delay_ms": None,
            "enqueued_at": now,
            "expires_at": None,
            "workflow_id": None,
            "workflow_step": None,
            "last_run": False,
            **(changes or {}),
        },
        events=(EventDraft("job.enqueued"),),
    )


def _plan_mark(job: Job, now: int, **rest: Any) -> Transition:
    """Plan a swap that keeps the state."""
    return Transition(
        job_id=job.id,
        event=LifecycleEvent.NOTE,
        to=job.state,
        at=now,
        expected=frozenset({job.state}),
        version=job.version,
        **rest,
    )


def plan_note(job: Job, now: int, retention: Retention) -> Transition:
    """The workflow took note of its member: nothing is left to repair, only the end of the retention to wait for."""
    ends_at = retention_ends(job.state, now, retention, dead=job.dead)
    return _plan_mark(job, now, changes={"advanced": True}, member_wake_at=ends_at)


def plan_abandon(job: Job, now: int, retention: Retention) -> Transition | None:
    """The workflow of a member was cancelled (C-WF-18, Q-23f); None if there is nothing left to do about it.

    Who waits is cancelled, unless it is claimed at this very moment. Who runs may finish, but not run again: the mark
    is on the record, where each decision about the end of the run finds it.
    """
    if job.state in WAITING:
        return msgspec.structs.replace(plan_cancel(job.id, now, retention), expected=WAITING)
    if job.ended or job.last_run:
        return None
    # What will not wait again cannot expire, and must not be woken for it.
    return _plan_mark(job, now, changes={"last_run": True, "expires_at": None}, wake_at=job.wake_at)
