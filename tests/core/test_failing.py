"""What follows a run that ended without success (requirements T08 to T13)."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_core.failing import plan_failure, plan_lapse, plan_requeue
from ojs_core.job import ERRORS_KEPT, Job, JobError, JobState
from ojs_core.lifecycle import LifecycleEvent, Retention, Transition, apply_transition, guard_holds
from ojs_core.retry import RetryPolicy
from ojs_core.testing.clock import NOW
from ojs_core.testing.factories import make_error, make_job

DAY = 24 * 3_600_000
KEEP = Retention()
GONE = {"worker_id": None, "lease_ms": None, "lease_expires_at": None, "timeout_at": None}


def running(**fields: Any) -> Job:
    """An active job in its second run, four swaps after its insert."""
    shape: dict[str, Any] = {"version": 5, "fence": 2, "seq": 9, "attempt": 2, "retry": RetryPolicy(jitter=False)}
    shape |= {"worker_id": "w", "lease_ms": 1000, "lease_expires_at": NOW + 1000, "timeout_at": NOW + 9000}
    shape |= {"started_at": NOW - 50, "wake_at": NOW + 1000, "enqueued_at": NOW - 80}
    return make_job(JobState.ACTIVE, **(shape | fields))


def applied(job: Job, transition: Transition) -> dict[str, Any]:
    """What the swap changed of the record."""
    after = apply_transition(job, transition)
    pairs = {name: (getattr(job, name), getattr(after, name)) for name in job.__struct_fields__}
    return {name: new for name, (old, new) in pairs.items() if new != old}


def test_requeue_is_no_failure() -> None:
    # T10, C-OPS-34
    job = running(requeues=3)
    transition = plan_requeue(job, NOW, KEEP, worker_id="w", fence=2)
    assert (transition.worker_id, transition.fence, transition.version) == ("w", 2, 5)
    assert applied(job, transition) == {
        "state": "available",
        "version": 6,
        "requeues": 4,
        "enqueued_at": NOW,
        "started_at": None,
        "wake_at": None,
        **GONE,
    }
    assert apply_transition(job, transition).failures == job.failures - 1
    assert [draft.type for draft in transition.events] == ["job.enqueued"]


def test_a_failure_is_retried_with_a_delay() -> None:
    # T08, C-EVT-10
    job = running(attempt=2)
    error = make_error("Boom", retryable=None)
    transition = plan_failure(job, NOW, KEEP, error, 0.5, worker_id="w", fence=2)
    assert (transition.version, transition.worker_id, transition.fence) == (5, "w", 2)
    assert applied(job, transition) == {
        "state": "retryable",
        "version": 6,
        "retry_delay_ms": 2000,
        "next_retry_at": NOW + 2000,
        "error": error,
        "errors": (error,),
        "wake_at": NOW + 2000,
        **GONE,
    }
    failed, retrying = transition.events
    facts = {"code": "handler_error", "type": "Boom", "message": "It failed.", "retryable": True}
    assert (failed.type, failed.data) == ("job.failed", {"error": facts})
    assert retrying.type == "job.retrying"
    assert retrying.data == {
        "max_attempts": 3,
        "next_retry_at": "2026-02-12T10:30:02.000Z",
        "retry_delay_ms": 2000,
        "error": facts,
    }


def test_the_jitter_is_the_number_given() -> None:
    job = running(attempt=1, retry=RetryPolicy())
    assert plan_failure(job, NOW, KEEP, make_error(), 0.0).changes["retry_delay_ms"] == 500
    assert plan_failure(job, NOW, KEEP, make_error(), 0.75).changes["retry_delay_ms"] == 1250


def test_the_last_failure_discards() -> None:
    # T09, C-EVT-10
    job = running(attempt=3)
    error = make_error(retryable=True)
    transition = plan_failure(job, NOW, KEEP, error, 0.5)
    assert applied(job, transition) == {
        "state": "discarded",
        "version": 6,
        "completed_at": NOW,
        "discarded_at": NOW,
        "error": error,
        "errors": (error,),
        "wake_at": NOW + 7 * DAY,
        **GONE,
    }
    failed, discarded = transition.events
    assert (failed.type, discarded.type) == ("job.failed", "job.discarded")
    assert discarded.data == {"total_attempts": 3, "last_error": failed.data["error"], "dead_letter": False}


def test_a_requeue_leaves_one_more_try() -> None:
    # C-OPS-34
    assert plan_failure(running(attempt=3, requeues=1), NOW, KEEP, make_error(), 0.5).to == "retryable"


def test_a_dead_letter_is_kept_longer() -> None:
    # C-DLQ-01, C-DLQ-09
    policy = RetryPolicy(max_attempts=1, on_exhaustion="dead_letter")
    job = running(attempt=1, retry=policy)
    transition = plan_failure(job, NOW, KEEP, make_error(), 0.5)
    assert transition.changes["dead"] is True
    assert transition.wake_at == NOW + 180 * DAY
    assert transition.events[1].data["dead_letter"] is True


@pytest.mark.parametrize(
    ("error", "error_class"),
    [
        (make_error("Auth.Expired"), None),
        (make_error(code="auth"), None),
        (make_error(), "Auth.Expired"),
        (make_error(retryable=False), None),
    ],
)
def test_what_is_not_retryable_discards_at_once(error: JobError, error_class: str | None) -> None:
    # C-RTY-08, C-RTY-09
    policy = RetryPolicy(non_retryable=("Auth.*", "auth"))
    transition = plan_failure(running(retry=policy), NOW, KEEP, error, 0.5, error_class=error_class)
    assert transition.event is LifecycleEvent.DISCARD
    assert transition.events[0].data["error"]["retryable"] is (error.retryable is not False)


@pytest.mark.parametrize("error_type", ["visibility_timeout", "worker_death"])
def test_a_lapse_goes_back_without_backoff(error_type: str) -> None:
    # T12, Q-12b, C-VIS-02, C-VIS-03
    job = running(attempt=2)
    transition = plan_lapse(job, NOW, KEEP, error_type, "The worker is gone.")
    error = JobError(
        type=error_type, code=error_type, message="The worker is gone.", attempt=2, occurred_at=NOW, retryable=True
    )
    assert transition.version == 5
    assert applied(job, transition) == {
        "state": "available",
        "version": 6,
        "enqueued_at": NOW,
        "started_at": None,
        "error": error,
        "errors": (error,),
        "wake_at": None,
        **GONE,
    }
    assert [draft.type for draft in transition.events] == ["job.failed", "job.enqueued"]


@pytest.mark.parametrize(
    ("policy", "attempt", "to", "dead"),
    [
        (RetryPolicy(max_attempts=3), 3, "discarded", False),
        (RetryPolicy(max_attempts=3, on_exhaustion="dead_letter"), 3, "discarded", True),
        (RetryPolicy(max_attempts=0), 1, "discarded", False),
        (RetryPolicy(max_attempts=1), 1, "discarded", False),
        (RetryPolicy(max_attempts=3), 4, "discarded", False),
        (RetryPolicy(max_attempts=2), 1, "available", None),
    ],
)
def test_a_poison_pill_dies(policy: RetryPolicy, attempt: int, to: str, dead: bool | None) -> None:  # noqa: FBT001
    # T13
    transition = plan_lapse(running(attempt=attempt, retry=policy), NOW, KEEP, "worker_death", "gone")
    assert transition.to == to
    assert transition.changes.get("dead") is dead
    assert transition.events[0].type == "job.failed"


def test_the_history_is_capped() -> None:
    # C-RTY-12
    past = tuple(make_error(f"E{n}") for n in range(ERRORS_KEPT))
    job = running(errors=past, error=past[-1])
    error = make_error("new")
    after = apply_transition(job, plan_failure(job, NOW, KEEP, error, 0.5))
    assert after.errors == (*past[1:], error)
    assert after.error == error


# The last run: the job's workflow was cancelled meanwhile.


def test_after_its_last_run_a_failed_job_is_cancelled() -> None:
    # C-WF-18: what is not active is cancelled, and it would have been retried.
    job = running(last_run=True, workflow_id="flow", wake_at=NOW)
    error = make_error("Boom")
    transition = plan_failure(job, NOW, KEEP, error, 0.5, worker_id="w", fence=2)
    assert (transition.version, transition.worker_id, transition.fence) == (5, "w", 2)
    assert applied(job, transition) == {
        "state": "cancelled",
        "version": 6,
        "cancelled_at": NOW,
        "error": error,
        "errors": (error,),
        "wake_at": NOW + 1000,
        **GONE,
    }
    assert [draft.type for draft in transition.events] == ["job.failed", "job.cancelled"]
    assert transition.events[1].data == {"reason": "workflow_cancelled"}


def test_after_its_last_run_a_lost_job_is_cancelled() -> None:
    job = running(last_run=True, workflow_id="flow")
    transition = plan_lapse(job, NOW, KEEP, "worker_death", "gone")
    after = apply_transition(job, transition)
    assert (transition.version, after.state, after.error and after.error.type) == (5, "cancelled", "worker_death")
    assert [draft.type for draft in transition.events] == ["job.failed", "job.cancelled"]


def test_after_its_last_run_a_job_given_back_is_cancelled() -> None:
    job = running(last_run=True, workflow_id="flow")
    transition = plan_requeue(job, NOW, KEEP, worker_id="w", fence=2)
    assert (transition.version, transition.worker_id, transition.fence) == (5, "w", 2)
    after = apply_transition(job, transition)
    assert (after.state, after.requeues, after.errors) == ("cancelled", 0, ())
    assert [draft.type for draft in transition.events] == ["job.cancelled"]


@pytest.mark.parametrize("state", ["available", "retryable", "completed", "cancelled"])
def test_only_a_run_can_be_the_last(state: str) -> None:
    # C-LC-05: whoever reports on a job that nobody runs is refused, whatever its workflow did.
    job = make_job(JobState(state), version=5, last_run=True)
    assert not guard_holds(plan_failure(job, NOW, KEEP, make_error(), 0.5), job)
    assert not guard_holds(plan_requeue(job, NOW, KEEP), job)


def test_a_last_run_that_fails_for_good_discards_as_ever() -> None:
    # C-RTY-04, C-DLQ-01
    policy = RetryPolicy(max_attempts=2, on_exhaustion="dead_letter")
    job = running(last_run=True, retry=policy)
    for transition in (
        plan_failure(job, NOW, KEEP, make_error(), 0.5),
        plan_lapse(job, NOW, KEEP, "visibility_timeout", "gone"),
    ):
        assert (transition.to, transition.changes["dead"]) == ("discarded", True)
