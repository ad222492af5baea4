"""The view: a workflow as answers show it, with the states its jobs have right now (C-WF-19, C-WF-20).

A chain and steps with dependencies have `steps*` keys, a group and a batch `jobs*` keys. Elements carry `id` and
`depends_on` whatever the form, because the Python and Go clients ask for them. Steps with dependencies have no `type`,
as in OJS HTTP §14: clients know three types and some refuse a fourth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw, Struct

from ojs_core.job import TERMINAL, Job, JobError, JobState
from ojs_core.records import Member, Workflow
from ojs_core.timestamps import format_ms
from ojs_core.workflow.members import all_members, child_ids, size
from ojs_core.workflow.outcome import job_counts, outcome_of_job, outcome_of_workflow, record_outcome
from ojs_core.workflow.step import RESULTS_MAX_BYTES


class _Arguments(Struct):
    args: Raw


_Inner: TypeAlias = Mapping[str | None, dict[str, Any]]
"""Views of nested workflows by id."""

_decode_arguments = msgspec.json.Decoder(_Arguments).decode


class _Room:
    """What is left of the bytes of results that one view may hold."""

    def __init__(self) -> None:
        self._left = RESULTS_MAX_BYTES

    def take(self, result: Raw) -> bool:
        """Take the room of a result; False, and nothing is taken, if there is not enough."""
        fits = size(result) <= self._left
        self._left -= size(result) if fits else 0
        return fits


def render(workflow: Workflow, jobs: Mapping[str, Job], children: Mapping[str, Workflow]) -> dict[str, Any]:
    """Return the workflow as `WF` of C-WF-20, ready for `msgspec.json.encode`.

    Args:
        workflow: the record.
        jobs: by id, at least those of `open_job_ids`; a job that is not there counts as waiting, or as cancelled if the
            workflow has ended.
        children: nested workflows by id. Those of `child_ids` that are there are shown whole in their element (their
            own children and jobs are looked up in the same places). Of the others the counters are known once they end.

    A member whose job has ended shows that, even if the workflow has not taken note of it yet. Error keys are there
    only when something failed; `cancelled_at`, `steps_cancelled` and `steps_already_completed` only when cancelled
    (C-EP-25). Results are embedded as the JSON text that came in, as long as all of them together take no more than
    `RESULTS_MAX_BYTES`; beyond, an element has `result_bytes` instead of `result`, and its job or nested workflow the
    result.
    """
    return _render(workflow, jobs, children, _Room())


def _render(
    workflow: Workflow, jobs: Mapping[str, Job], children: Mapping[str, Workflow], room: _Room
) -> dict[str, Any]:
    shown = [_look_up(workflow, member, jobs, children) for member in all_members(workflow)]
    members = shown[: len(workflow.members)]
    inner: _Inner = {
        child_id: _render(children[child_id], jobs, children, room)
        for child_id in child_ids(workflow)
        if child_id in children
    }
    view: dict[str, Any] = {"id": workflow.id, "name": workflow.name, "state": workflow.state}
    if workflow.kind != "dag":
        view["type"] = workflow.kind
    view |= _elements(workflow, members, inner, room)
    if workflow.callbacks:
        view["callbacks"] = {one.member.id: _element(one, inner, room) for one in shown[len(members) :]}
    if workflow.parent_id is not None:
        view |= {"parent_workflow_id": workflow.parent_id, "parent_step_index": workflow.parent_step}
    times = _times(
        created_at=workflow.created_at,
        started_at=workflow.started_at,
        completed_at=workflow.completed_at,
        cancelled_at=workflow.cancelled_at,
    )
    view["metadata"] = {**times, "job_count": workflow.job_count, **_counts(members, inner)}
    view |= times
    if workflow.state == "cancelled":
        view["steps_cancelled"] = sum(one.state == "cancelled" for one in members)
        view["steps_already_completed"] = sum(one.state == "completed" for one in members)
    _add_failures(view, workflow, shown, inner)
    return view


class _Shown(Struct, frozen=True):
    """A member as it is right now."""

    member: Member
    state: str


def _look_up(workflow: Workflow, member: Member, jobs: Mapping[str, Job], children: Mapping[str, Workflow]) -> _Shown:
    if member.state != "pending":
        return _Shown(member, member.state)
    unknown = _Shown(member, "pending" if workflow.state == "running" else "cancelled")
    if member.child_id is not None:
        child = children.get(member.child_id)
        if child is None:
            return unknown if workflow.state != "running" else _Shown(member, "active")
        if child.state == "running":
            return _Shown(member, "active")
        outcome = outcome_of_workflow(child)
    else:
        job = jobs.get(member.job_id or "")
        # A dead letter that was revived is no longer the workflow's.
        if job is None or job.workflow_id != workflow.id:
            return unknown
        if job.state is JobState.ACTIVE:
            return _Shown(msgspec.structs.replace(member, started_at=job.started_at), "active")
        if job.state not in TERMINAL:
            return _Shown(member, "pending")
        outcome = outcome_of_job(job)
    member = record_outcome(member, outcome)
    if workflow.state == member.state == "cancelled":
        # Cancelled along with the workflow: no failure of its own.
        member = msgspec.structs.replace(member, error=None, failed_count=0)
    return _Shown(member, member.state)


def _elements(workflow: Workflow, members: Sequence[_Shown], inner: _Inner, room: _Room) -> dict[str, Any]:
    """Return the elements and how many there are, under the names that go with the kind."""
    ids = [member.id for member in workflow.members]
    elements = [
        {
            "index": index,
            **_element(one, inner, room),
            "depends_on": [ids[position] for position in one.member.depends_on],
        }
        for index, one in enumerate(members)
    ]
    completed = sum(one.state == "completed" for one in members)
    if workflow.kind in ("chain", "dag"):
        return {"steps_total": len(members), "steps_completed": completed, "steps": elements}
    failed = sum(one.member.error is not None for one in members)
    return {"jobs_total": len(members), "jobs_completed": completed, "jobs_failed": failed, "jobs": elements}


def _element(one: _Shown, inner: _Inner, room: _Room) -> dict[str, Any]:
    member = one.member
    element: dict[str, Any] = {"id": member.id, "type": member.type, "state": one.state, "job_id": member.job_id}
    if member.name is not None:
        element["name"] = member.name
    if not member.nested:
        element["args"] = _decode_arguments(member.definition).args
    if member.child_id is not None:
        element["workflow_id"] = member.child_id
        if member.child_id in inner:
            element["workflow"] = inner[member.child_id]
    if member.result is not None and room.take(member.result):
        element["result"] = member.result
    elif member.result is not None or member.result_bytes is not None:
        element["result_bytes"] = size(member.result) or member.result_bytes
    element |= _times(started_at=member.started_at, completed_at=member.completed_at)
    if member.error is not None:
        element["error"] = _error(member.error)
    return element


def _error(error: JobError) -> dict[str, Any]:
    return {"code": error.code, "type": error.type, "message": error.message, "attempt": error.attempt}


def _times(**instants: int | None) -> dict[str, str]:
    return {name: format_ms(at) for name, at in instants.items() if at is not None}


def _counts(members: Sequence[_Shown], inner: _Inner) -> dict[str, int]:
    """Count jobs that completed and failed, those of nested workflows included (C-WF-17)."""
    completed, failed = job_counts(one.member for one in members)
    for one in members:
        if one.state == "active" and one.member.child_id in inner:
            metadata = inner[one.member.child_id]["metadata"]
            completed += metadata["completed_count"]
            failed += metadata["failed_count"]
    return {"completed_count": completed, "failed_count": failed}


def _add_failures(view: dict[str, Any], workflow: Workflow, shown: Sequence[_Shown], inner: _Inner) -> None:
    """Add what failed: jobs, errors, the step of a chain, the callbacks of a batch (OJS workflows §9.5, §9.6)."""
    job_ids: list[str] = []
    errors: list[dict[str, Any]] = []
    callbacks: dict[str, Any] = {}
    for position, one in enumerate(shown):
        member = one.member
        if member.error is not None:
            owner = {"job_id": member.job_id} if member.child_id is None else {"workflow_id": member.child_id}
            errors.append({**owner, "step_id": member.id, **_error(member.error)})
            job_ids += [member.job_id] if member.job_id is not None else []
            if position >= len(workflow.members):
                callbacks[member.id] = _error(member.error)
            elif workflow.kind in ("chain", "dag"):
                view.setdefault("failed_step_index", position)
        below = inner.get(member.child_id or "", {})
        job_ids += below.get("failed_job_ids", [])
        errors += below.get("errors", [])
    if job_ids:
        view["failed_job_ids"] = job_ids
    if errors:
        view["errors"] = errors
    if callbacks:
        view["metadata"]["failed_callbacks"] = callbacks
