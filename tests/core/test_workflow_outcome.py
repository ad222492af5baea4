"""How the end of a member's job is read (C-WF-06)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from ojs_core.failing import plan_failure, plan_lapse
from ojs_core.job import Job, JobError, JobState
from ojs_core.lifecycle import (
    Retention,
    Transition,
    apply_transition,
    claim_job,
    plan_ack,
    plan_cancel,
    plan_expire,
)
from ojs_core.retry import RetryPolicy
from ojs_core.workflow import Outcome, outcome_of_job

NOW = 1_770_892_200_000
LATER = NOW + 5_000
KEEP = Retention()
BOOM = JobError(
    type="Boom",
    code="handler_error",
    message="m" * 5_000,
    attempt=1,
    occurred_at=LATER,
    details=Raw(b"{}"),
    backtrace=("a", "b"),
)


def member(**changes: Any) -> Job:
    job = Job(
        id="j",
        type="a",
        queue="q",
        args=Raw(b"[]"),
        meta=Raw(b"{}"),
        state=JobState.AVAILABLE,
        created_at=NOW,
        workflow_id="w",
        workflow_step=4,
    )
    return msgspec.structs.replace(job, **changes)


def active(**changes: Any) -> Job:
    return claim_job(
        member(**changes), now=NOW + 10, worker_id=None, lease_ms=None, default_lease_ms=1, default_timeout_ms=1
    )


def after(job: Job, transition: Transition) -> Outcome:
    return outcome_of_job(apply_transition(job, transition))


def test_completed() -> None:
    outcome = after(active(), plan_ack("j", LATER, KEEP, result=Raw(b"1")))
    assert (outcome.step, outcome.state, outcome.at, outcome.job_id) == (4, "completed", LATER, "j")
    assert (outcome.started_at, outcome.error) == (NOW + 10, None)
    assert bytes(outcome.result or b"") == b"1"


def test_discarded_is_failed() -> None:
    """The error is kept in brief: the workflow is written often, and the job has the rest."""
    outcome = after(
        active(retry=RetryPolicy(max_attempts=1)),
        plan_failure(active(retry=RetryPolicy(max_attempts=1)), LATER, KEEP, BOOM, 0.5),
    )
    assert (outcome.state, outcome.at, outcome.result) == ("failed", LATER, None)
    assert outcome.error == JobError(
        type="Boom", code="handler_error", message="m" * 1024, attempt=1, occurred_at=LATER
    )


def test_a_lost_last_attempt_is_failed() -> None:
    job = active(retry=RetryPolicy(max_attempts=1))
    outcome = after(job, plan_lapse(job, LATER, KEEP, "visibility_timeout", "gone"))
    assert outcome.error is not None
    assert (outcome.state, outcome.error.code) == ("failed", "visibility_timeout")


def test_cancelled_on_its_own() -> None:
    """Shown as cancelled, counted as failed (Q-23f)."""
    outcome = after(active(), plan_cancel("j", LATER, KEEP))
    assert outcome.error is not None
    assert (outcome.state, outcome.error.code, outcome.error.attempt, outcome.at) == (
        "cancelled",
        "cancelled",
        1,
        LATER,
    )


@pytest.mark.parametrize("earlier", [None, BOOM])
def test_expired_is_failed(earlier: JobError | None) -> None:
    """Whatever went wrong before: the job ended because nobody took it in time."""
    job = member(state=JobState.RETRYABLE, error=earlier, expires_at=NOW + 1)
    outcome = after(job, plan_expire(job, LATER, KEEP))
    assert outcome.error is not None
    assert (outcome.state, outcome.error.code, outcome.at) == ("failed", "expired", LATER)


@pytest.mark.parametrize("state", [state for state in JobState if state not in {"completed", "cancelled", "discarded"}])
def test_what_has_not_ended_has_no_outcome(state: JobState) -> None:
    """C-WF-06: `retryable` is not failure."""
    with pytest.raises(ValueError, match=f"is {state}"):
        outcome_of_job(member(state=state))


def test_what_is_no_member_has_no_outcome() -> None:
    with pytest.raises(ValueError, match="no ended member"):
        outcome_of_job(member(state=JobState.COMPLETED, workflow_step=None))
