"""The events of a workflow (C-WF-22, OJS events §3.5 and §4).

Their subject is the workflow. `total_steps` counts its members, not its callbacks; `steps_remaining` counts members and
callbacks that have not ended. A nested workflow has events of its own, which name its parent.
"""

from __future__ import annotations

from typing import Any

from ojs_core.events import Event, other_event
from ojs_core.job import JobError
from ojs_core.records import Member, Workflow
from ojs_core.workflow.members import all_members


def _event(event_type: str, workflow: Workflow, now: int, **facts: Any) -> Event:
    data: dict[str, Any] = {
        "workflow_id": workflow.id,
        "workflow_name": workflow.name or "",
        "workflow_type": workflow.kind,
    }
    if workflow.parent_id is not None:
        data |= {"parent_workflow_id": workflow.parent_id, "parent_step_index": workflow.parent_step}
    return other_event(event_type, now, workflow.id, **data, **facts)


def _duration_ms(workflow: Workflow, now: int) -> int:
    return max(0, now - (workflow.started_at or workflow.created_at))


def started_event(workflow: Workflow, now: int) -> Event:
    """Make the event of a workflow whose first jobs are enqueued."""
    return _event("workflow.started", workflow, now, total_steps=len(workflow.members))


def step_completed_event(workflow: Workflow, member: Member, position: int, remaining: int, now: int) -> Event:
    """Make the event of a member, or callback, that completed; it gives the time of its execution."""
    began = member.started_at or member.enqueued_at or now
    return _event(
        "workflow.step_completed",
        workflow,
        now,
        step_id=member.id,
        step_index=position,
        step_type=member.type,
        job_id=member.job_id,
        duration_ms=max(0, (member.completed_at or now) - began),
        steps_remaining=remaining,
    )


def ended_event(workflow: Workflow, failure: tuple[int, JobError] | None, now: int) -> Event:
    """Make the event of a workflow that completed, or failed with the failure at a position."""
    facts = {"total_steps": len(workflow.members), "duration_ms": _duration_ms(workflow, now)}
    if failure is None:
        return _event("workflow.completed", workflow, now, **facts)
    position, error = failure
    member = all_members(workflow)[position]
    return _event(
        "workflow.failed",
        workflow,
        now,
        failed_step_id=member.id,
        failed_step_index=position,
        failed_step_type=member.type,
        failed_job_id=member.job_id,
        error={"code": error.code, "type": error.type, "message": error.message},
        **facts,
    )


def cancelled_event(workflow: Workflow, now: int) -> Event:
    """Make the event of a cancelled workflow."""
    return _event(
        "workflow.cancelled",
        workflow,
        now,
        total_steps=len(workflow.members),
        steps_completed=sum(member.state == "completed" for member in workflow.members),
        duration_ms=_duration_ms(workflow, now),
    )
