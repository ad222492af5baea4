"""Outcomes: how a member of a workflow ended, read from its job or its nested workflow (C-WF-06, C-WF-16)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from ojs_core.backend import Conflict, NewJob
from ojs_core.job import TERMINAL, Job, JobError, JobState
from ojs_core.records import Member, Workflow
from ojs_core.workflow.members import all_members, array_of_results, size_of_results, unhandled_failure

_ERROR_TEXT_MAX = 1024
"""Longest error message kept with a workflow; the job has the whole of it."""


class Outcome(Struct, frozen=True, kw_only=True):
    """The end of one member.

    `step` is the member's position, callbacks after the last member. `job_id` or `child_id` says whose end it is: an
    outcome of anything but what the workflow started there does not count. `error` is set unless `state` is
    `completed`; a member that was cancelled on its own shows as `cancelled` and counts as failed (Q-23f). The counts
    are of the jobs in a nested workflow. `result_bytes` is set instead of `result` where that is too large to hand on.
    """

    step: int
    state: Literal["completed", "failed", "cancelled"]
    at: int
    job_id: str | None = None
    child_id: str | None = None
    result: Raw | None = None
    result_bytes: int | None = None
    error: JobError | None = None
    started_at: int | None = None
    completed_count: int = 0
    failed_count: int = 0


def outcome_of_job(job: Job) -> Outcome:
    """Read the outcome of a member from its job: completed, discarded (failed) or cancelled.

    Raises `ValueError` for a job that has not ended or is no member; `retryable` is not failure (C-WF-06).
    """
    if job.state not in TERMINAL or job.workflow_step is None:
        raise ValueError(
            f"job {job.id} is {job.state} at step {job.workflow_step}: it is no ended member of a workflow"
        )
    at = job.discarded_at or job.cancelled_at or job.completed_at or job.created_at
    match job.state:
        case JobState.COMPLETED:
            return Outcome(
                step=job.workflow_step,
                state="completed",
                at=at,
                job_id=job.id,
                result=job.result,
                started_at=job.started_at,
            )
        case JobState.CANCELLED:
            error = _error("cancelled", "The job was cancelled.", at, job.attempt)
        case _:
            # Expiry leaves the error of an earlier attempt in place, and no `completed_at`.
            expired = _error("expired", "The job expired before a worker took it.", at, job.attempt)
            error = expired if job.error is None or job.completed_at is None else _kept(job.error)
    return Outcome(
        step=job.workflow_step,
        state="cancelled" if job.state is JobState.CANCELLED else "failed",
        at=at,
        job_id=job.id,
        error=error,
        started_at=job.started_at,
    )


def outcome_of_workflow(child: Workflow) -> Outcome:
    """Read the outcome of a member from its nested workflow; the inner state is the outer one (C-WF-16).

    The result of a chain is that of its last step; of anything else, the array of its members' results, without those
    of callbacks (C-WF-17). A nested workflow that failed has no result, and of one whose record had no room for all of
    them only the size is known: by then it is too large to hand on. Raises `ValueError` for one that is running or
    has no parent.
    """
    if child.state == "running" or child.parent_step is None:
        raise ValueError(f"workflow {child.id} is {child.state} at step {child.parent_step}: it is no ended member")
    at = child.completed_at or child.created_at
    members = all_members(child)
    failure = unhandled_failure(child, members)
    result = result_bytes = error = None
    if child.state == "completed" and child.kind == "chain":
        result = child.members[-1].result
    elif child.state == "completed":
        result_bytes = size_of_results(child.members)
        if result_bytes is None:
            result = array_of_results(member.result for member in child.members)
    elif child.state == "cancelled" or failure is None:
        error = _error("cancelled", "The nested workflow was cancelled.", at)
    else:
        position, inner = failure
        error = _kept(inner, f"{members[position].id}: ")
    completed_count, failed_count = job_counts(child.members)
    return Outcome(
        step=child.parent_step,
        state=child.state,
        at=at,
        child_id=child.id,
        result=result,
        result_bytes=result_bytes,
        error=error,
        started_at=child.started_at,
        completed_count=completed_count,
        failed_count=failed_count,
    )


def job_counts(members: Iterable[Member]) -> tuple[int, int]:
    """Count the jobs that completed and that failed, those of ended nested workflows included (C-WF-17)."""
    completed = failed = 0
    for member in members:
        completed += member.completed_count
        failed += member.failed_count
        if not member.nested:
            completed += member.state == "completed"
            failed += member.error is not None
    return completed, failed


def record_outcome(member: Member, outcome: Outcome) -> Member:
    """Return the member as its outcome leaves it."""
    error = outcome.error
    if outcome.state != "completed" and error is None:
        error = _error(outcome.state, f"The member {outcome.state}.", outcome.at)
    return msgspec.structs.replace(
        member,
        state=outcome.state,
        result=outcome.result,
        result_bytes=outcome.result_bytes,
        error=error,
        started_at=outcome.started_at,
        completed_at=outcome.at,
        completed_count=outcome.completed_count,
        failed_count=outcome.failed_count,
    )


def refusal(insert: NewJob, conflict: Conflict, now: int) -> JobError | None:
    """Say what it means that the store refused to insert a member's job.

    Args:
        insert: the job, from `Advance.inserts`.
        conflict: what the store found in its way, of kind `id` or `hold`.
        now: when.

    None: the job in the way is the member's own, from an attempt that was cut short; leave it out and commit the rest.
    Otherwise the id is another job's or a unique policy forbids the job, whatever its `on_conflict` says: a workflow
    cannot wait for a job that is not its own. A new workflow is then refused as a whole (409 `duplicate`); later,
    repeat `advance` with `refused={job id: error}`, and the member fails with the code `duplicate`.
    """
    ours = insert.job
    found = conflict.job
    if found is not None and conflict.kind == "id" and found.workflow_id == ours.workflow_id:
        return None
    other = "another job" if found is None else f"job {found.id}"
    taken = f"Its id is taken by {other}." if conflict.kind == "id" else f"Its unique policy forbids it beside {other}."
    return _error("duplicate", f"The job could not be enqueued. {taken}", now)


def _error(code: str, message: str, at: int, attempt: int = 0) -> JobError:
    return JobError(type=code, code=code, message=message, attempt=attempt, occurred_at=at)


def _kept(error: JobError, prefix: str = "") -> JobError:
    """Return what of an error the workflow keeps: a record of a thousand members must not hold their stack traces."""
    message = f"{prefix}{error.message}"[:_ERROR_TEXT_MAX]
    return msgspec.structs.replace(error, message=message, details=None, backtrace=None)
