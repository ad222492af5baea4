"""How a run ends without success: it failed, its worker gave it back, or its worker is gone (T08 to T13).

Each leads to another run or to the end of the job; never to another one if the job's workflow was cancelled meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ojs_core.events import EventDraft
from ojs_core.job import Job, JobError, JobState
from ojs_core.lifecycle import RELEASED, LifecycleEvent, Retention, Transition, plan_end, plan_event
from ojs_core.retry import Discard, decide_failure
from ojs_core.timestamps import format_ms


def plan_requeue(
    job: Job, now: int, retention: Retention, *, worker_id: str | None = None, fence: int | None = None
) -> Transition:
    """The worker gives the job back unfinished (T10); it does not count as a failure."""
    guard = {"version": job.version, "worker_id": worker_id, "fence": fence}
    if job.last_run:
        return _give_up(job, now, retention, guard=guard)
    return plan_event(
        job.id,
        LifecycleEvent.REQUEUE,
        now,
        **guard,
        changes={**RELEASED, "started_at": None, "enqueued_at": now, "requeues": job.requeues + 1},
        events=(EventDraft("job.enqueued"),),
    )


def _error_facts(error: JobError) -> dict[str, Any]:
    return {
        "code": error.code,
        "type": error.type,
        "message": error.message,
        "retryable": error.retryable is not False,
    }


def plan_failure(
    job: Job,
    now: int,
    retention: Retention,
    error: JobError,
    rnd: float,
    *,
    error_class: str | None = None,
    worker_id: str | None = None,
    fence: int | None = None,
) -> Transition:
    """An execution failed: retry with a delay, or discard (T08, T09, T11); cancel what has had its last run.

    `rnd` in [0, 1) is the jitter; `error_class` a third name the non-retryable matcher compares (C-RTY-08).
    """
    decision = decide_failure(
        job.retry,
        failures=job.failures,
        error_type=error.type,
        error_code=error.code,
        error_class=error_class,
        retryable=error.retryable,
        rnd=rnd,
    )
    failed = EventDraft("job.failed", {"error": _error_facts(error)})
    guard = {"version": job.version, "worker_id": worker_id, "fence": fence}
    if isinstance(decision, Discard):
        return _discard(job, now, retention, error, failed, dead=decision.dead_letter, guard=guard)
    if job.last_run:
        return _give_up(job, now, retention, error, failed, guard=guard)
    next_retry_at = now + decision.delay_ms
    retrying = EventDraft(
        "job.retrying",
        {
            "max_attempts": job.retry.max_attempts,
            "next_retry_at": format_ms(next_retry_at),
            "retry_delay_ms": decision.delay_ms,
            "error": _error_facts(error),
        },
    )
    return plan_event(
        job.id,
        LifecycleEvent.RETRY,
        now,
        **guard,
        changes={**RELEASED, "retry_delay_ms": decision.delay_ms, "next_retry_at": next_retry_at},
        error=error,
        wake_at=next_retry_at,
        events=(failed, retrying),
    )


def _discard(
    job: Job,
    now: int,
    retention: Retention,
    error: JobError,
    failed: EventDraft,
    *,
    dead: bool,
    guard: Mapping[str, Any],
) -> Transition:
    facts = {"total_attempts": job.attempt, "last_error": _error_facts(error), "dead_letter": dead}
    return plan_end(
        job.id,
        LifecycleEvent.DISCARD,
        now,
        retention,
        **guard,
        changes={**RELEASED, "completed_at": now, "discarded_at": now, "dead": dead},
        error=error,
        events=(failed, EventDraft("job.discarded", facts)),
    )


def _give_up(
    job: Job,
    now: int,
    retention: Retention,
    error: JobError | None = None,
    *failed: EventDraft,
    guard: Mapping[str, Any],
) -> Transition:
    """Cancel a job after its last run, which would have led to another."""
    plan = plan_end(
        job.id,
        LifecycleEvent.CANCEL,
        now,
        retention,
        **guard,
        changes={**RELEASED, "cancelled_at": now},
        error=error,
        events=(*failed, EventDraft("job.cancelled", {"reason": "workflow_cancelled"})),
    )
    return msgspec.structs.replace(plan, expected=frozenset({JobState.ACTIVE}))


def plan_lapse(job: Job, now: int, retention: Retention, error_type: str, message: str) -> Transition:
    """The worker is gone: back to available without backoff, or discarded when no attempt is left (T12, T13, Q-12b).

    What has had its last run is cancelled instead of becoming available.

    `error_type` is `visibility_timeout` or `worker_death`. The lost execution was counted by its claim (C-VIS-03).
    """
    error = JobError(
        type=error_type, code=error_type, message=message, attempt=job.attempt, occurred_at=now, retryable=True
    )
    failed = EventDraft("job.failed", {"error": _error_facts(error)})
    if job.failures >= max(1, job.retry.max_attempts):
        dead = job.retry.on_exhaustion == "dead_letter"
        return _discard(job, now, retention, error, failed, dead=dead, guard={"version": job.version})
    if job.last_run:
        return _give_up(job, now, retention, error, failed, guard={"version": job.version})
    return plan_event(
        job.id,
        LifecycleEvent.LAPSE,
        now,
        version=job.version,
        changes={**RELEASED, "started_at": None, "enqueued_at": now},
        error=error,
        events=(failed, EventDraft("job.enqueued")),
    )
