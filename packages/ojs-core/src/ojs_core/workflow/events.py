"""The events of a workflow (C-WF-22, OJS events §3.5 and §4, OJS workflows appendix B).

A member that completed is a completed step in any workflow, and in groups and batches a completed job too. The subject
is the workflow. `total_steps` counts its members, not its callbacks; `steps_remaining` counts members and callbacks
that have not ended. A nested workflow has events of its own, which name its parent; it is started, not created.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ojs_core.events import Event, other_event
from ojs_core.job import JobError
from ojs_core.records import Member, Workflow
from ojs_core.workflow.members import CALLBACKS, all_members


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


def created_event(workflow: Workflow, now: int) -> Event:
    """Make the event of a workflow that was accepted."""
    return _event("workflow.created", workflow, now, total_steps=len(workflow.members))


def member_events(workflow: Workflow, member: Member, position: int, remaining: int, now: int) -> Iterator[Event]:
    """Make the events of a member, or callback, that completed or failed; they give the time of its execution."""
    parallel = workflow.kind in ("group", "batch")
    facts = _facts(member, position)
    facts["duration_ms"] = max(0, (member.completed_at or now) - (member.started_at or member.enqueued_at or now))
    facts["steps_remaining"] = remaining
    if member.state == "completed":
        yield _event("workflow.step_completed", workflow, now, **facts)
        if parallel:
            yield _event("workflow.job_completed", workflow, now, **facts)
    else:
        failed = "workflow.job_failed" if parallel else "workflow.step_failed"
        yield _event(failed, workflow, now, **facts, error=_error(member.error))


def callback_event(workflow: Workflow, member: Member, position: int, now: int) -> Event:
    """Make the event of a callback of a batch that is enqueued."""
    name = [name for name in CALLBACKS if name in workflow.callbacks][position - len(workflow.members)]
    return _event("workflow.callback_fired", workflow, now, callback=name, **_facts(member, position))


def _facts(member: Member, position: int) -> dict[str, Any]:
    return {"step_id": member.id, "step_index": position, "step_type": member.type, "job_id": member.job_id}


def _error(error: JobError | None) -> dict[str, Any] | None:
    return None if error is None else {"code": error.code, "type": error.type, "message": error.message}


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
        error=_error(error),
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
