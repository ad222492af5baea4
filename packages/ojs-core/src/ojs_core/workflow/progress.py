"""Progress: what follows from the start of a workflow, from the end of members, and from a cancel (C-WF-06 to C-WF-18).

State is a set of outcomes: one that is repeated, late or raced by another changes nothing. Decisions are values. The
caller commits `Advance.inserts`, the workflow, its `children` and its events in one guarded step, and repeats the
decision on the workflow as it is by then when the guard fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Raw, Struct

from ojs_core.errors import StateConflictError
from ojs_core.events import Event
from ojs_core.job import JobError
from ojs_core.records import Workflow
from ojs_core.workflow.events import cancelled_event
from ojs_core.workflow.members import all_members, with_members
from ojs_core.workflow.outcome import Outcome
from ojs_core.workflow.step import Advance, Step


class Cancellation(Struct, frozen=True, kw_only=True):
    """A cancelled workflow, the jobs and nested workflows to cancel with it, and the event.

    `job_ids` are all that were started and have not ended as far as the workflow knows. Those that are active by now
    may finish (Q-23f); they no longer move the workflow.
    """

    workflow: Workflow
    job_ids: tuple[str, ...]
    child_ids: tuple[str, ...]
    events: tuple[Event, ...]


def start(workflow: Workflow, now: int, refused: Mapping[str, JobError] = {}) -> Advance:
    """Start a workflow: enqueue the members that wait for nothing, in the order given (C-WF-07, C-WF-11, C-WF-12).

    Args:
        workflow: as `parse_workflow` returned it; one that was started stays as it is.
        now: ms since the epoch.
        refused: jobs that cannot be inserted, by id, and why (see `refusal`). They fail at once.

    Same arguments, same result, ids included.
    """
    if workflow.started_at is not None:
        return Advance(workflow=workflow)
    return Step(workflow, now, refused).begin()


def advance(
    workflow: Workflow,
    outcomes: Iterable[Outcome],
    now: int,
    refused: Mapping[str, JobError] = {},
    results: Mapping[int, Raw | None] = {},
) -> Advance:
    """Take note of outcomes and do what they lead to.

    Args:
        workflow: as stored.
        outcomes: in any order; those already noted, and those of members that were not started, change nothing.
        now: ms since the epoch.
        refused: see `start`.
        results: those that the record has left elsewhere, by position, for an answer that asked for them in `needs`;
            None for one that is not there any more: the member that waits for it fails with `not_found`.

    No effect unless the workflow is `running`, so a cancel that came first wins (C-WF-18). Same arguments, same result.
    """
    if workflow.state != "running":
        return Advance(workflow=workflow)
    step = Step(workflow, now, refused, results)
    for outcome in outcomes:
        step.note(outcome)
    return step.finish()


def cancel(workflow: Workflow, now: int) -> Cancellation:
    """Cancel a workflow: what was not started never will be (C-WF-18).

    Raises `StateConflictError` if it has ended. Members that were started keep their state; what became of their jobs
    is for `render` to show.
    """
    if workflow.state != "running":
        raise StateConflictError(
            f"Workflow {workflow.id} is already {workflow.state}.",
            workflow_id=workflow.id,
            current_state=workflow.state,
            expected_state="running",
        )
    members = [
        msgspec.structs.replace(member, state="cancelled", completed_at=now) if member.state == "waiting" else member
        for member in all_members(workflow)
    ]
    cancelled = with_members(workflow, members, state="cancelled", cancelled_at=now, completed_at=now)
    pending = [member for member in members if member.state == "pending"]
    return Cancellation(
        workflow=cancelled,
        job_ids=tuple(member.job_id for member in pending if member.job_id is not None),
        child_ids=tuple(member.child_id for member in pending if member.child_id is not None),
        events=(cancelled_event(cancelled, now),),
    )


def reissue(workflow: Workflow, steps: Iterable[int], results: Mapping[int, Raw | None] = {}) -> Advance:
    """Make the jobs and nested workflows of started members again, as they were made when they started.

    For repair on a store that writes the workflow first and its jobs after: `steps` are the positions of members whose
    job or nested workflow is recorded and does not exist. Positions of members that are not under way make nothing. The
    events of the workflow itself are not repeated. `results` and `Advance.needs` as with `advance`.
    """
    members = all_members(workflow)
    step = Step(workflow, workflow.created_at, {}, results)
    for position in steps:
        if members[position].state == "pending":
            step.make(position, members[position].enqueued_at or workflow.created_at)
    if step.needs:
        return Advance(workflow=workflow, needs=tuple(sorted(step.needs)))
    return Advance(workflow=workflow, inserts=tuple(step.inserts), children=tuple(step.children))
