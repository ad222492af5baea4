"""Positions and states of a workflow's members: what definition, progress and view all need to know.

A position counts the members and goes on with the callbacks of a batch, in the order of `CALLBACKS`. It is what
`Job.workflow_step` and `Outcome.step` hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Raw

from ojs_core.ids import uuid7_named
from ojs_core.job import JobError
from ojs_core.records import Member, MemberState, Trigger, Workflow

CALLBACKS: Final[Mapping[str, Trigger]] = {"on_complete": "complete", "on_success": "success", "on_failure": "failure"}
"""The callbacks of a batch, in the order of their positions, and when each starts (C-WF-13)."""

OPEN: Final[frozenset[MemberState]] = frozenset({"waiting", "pending"})
"""States of a member that has not ended."""

NO_RESULTS: Final = Raw(b"[]")
"""`parent_results` of a job with nothing before it."""


def all_members(workflow: Workflow) -> list[Member]:
    """Return members and callbacks by position."""
    # Not `callbacks.values()`: a store may give the keys of an object back in another order.
    return [*workflow.members, *(workflow.callbacks[name] for name in CALLBACKS if name in workflow.callbacks)]


def with_members(workflow: Workflow, members: Sequence[Member], **changes: object) -> Workflow:
    """Return the workflow with these members, the inverse of `all_members`, and further changes."""
    split = len(workflow.members)
    names = [name for name in CALLBACKS if name in workflow.callbacks]
    return msgspec.structs.replace(
        workflow,
        members=tuple(members[:split]),
        callbacks=dict(zip(names, members[split:], strict=True)),
        **changes,
    )


def open_job_ids(workflow: Workflow) -> tuple[str, ...]:
    """Return the jobs that were started and have not ended as far as the workflow knows, by position."""
    return tuple(member.job_id for member in all_members(workflow) if member.state == "pending" and member.job_id)


def child_ids(workflow: Workflow) -> tuple[str, ...]:
    """Return the nested workflows that were started, by position."""
    return tuple(member.child_id for member in workflow.members if member.child_id)


def named_id(workflow: Workflow, position: int) -> str:
    """Return the id of the job or nested workflow at a position; the same at every call.

    A step that is repeated after a crash so makes the same jobs again, and their insert is refused as a duplicate
    instead of doubling them. That is why the time in the id is the workflow's and not the step's.
    """
    return uuid7_named(workflow.created_at, workflow.id, "step", str(position))


def unhandled_failure(workflow: Workflow, members: Sequence[Member]) -> tuple[int, JobError] | None:
    """Return the first failure that fails the workflow, with its position; None if there is none.

    Failed members are handled by a callback that was told of them: one that waited for them, and started because all
    ended or because one failed. What a callback that failed leaves behind is its own failure (C-WF-15, Q-23c). Asked of
    a workflow whose members have all ended.
    """
    failures = {position: member.error for position, member in enumerate(members) if member.error is not None}
    if failures:
        for position, member in enumerate(members):
            if member.trigger == "success":
                continue
            if member.error is not None:
                return position, member.error
            if member.state == "completed":
                for handled in waits_for(workflow, member, position):
                    failures.pop(handled, None)
    return next(iter(failures.items()), None)


def waits_for(workflow: Workflow, member: Member, position: int) -> Sequence[int]:
    """Return the positions a member waits for."""
    return range(len(workflow.members)) if position >= len(workflow.members) else member.depends_on


def array_of_results(results: Iterable[Raw | None]) -> Raw:
    """Return the results as a JSON array, `null` where there is none, so that positions stay (Q-23b)."""
    return Raw(b"[" + b",".join(b"null" if result is None else bytes(result) for result in results) + b"]")


def size_of_results(members: Sequence[Member]) -> int | None:
    """Return about how long the array of the members' results is if some of them are left elsewhere, else None."""
    if all(member.result_bytes is None for member in members):
        return None
    return sum(member.result_bytes or size(member.result) for member in members) + len(members) + 1


def size(result: Raw | None) -> int:
    """Return the bytes of a result."""
    return 0 if result is None else len(memoryview(result))


def parent_results(workflow: Workflow, members: Sequence[Member], position: int, known: dict[int, int]) -> Raw:
    """Return what the job at a position is told of the jobs before it: an array by position (C-WF-10, C-WF-14).

    Element i is the result of the member at position i if that is, directly or not, among those waited for; the other
    elements are null. So a chain's step gets all earlier results and a callback those of all jobs, whether the client
    wrote `chain` and `batch` or the same thing as dependencies. What starts first gets the outer workflow's (C-WF-17).

    `known` remembers ancestors between calls about the same workflow.
    """
    if position < len(workflow.members) and not members[position].depends_on:
        return workflow.input or NO_RESULTS
    before = reversed(f"{before_mask(workflow, members, position, known):b}")
    # The mask ends at the last ancestor, and so does the array.
    return array_of_results(member.result if bit == "1" else None for member, bit in zip(members, before, strict=False))


def before_mask(workflow: Workflow, members: Sequence[Member], position: int, known: dict[int, int]) -> int:
    """Return, as a bit mask, the positions whose results the job at a position is told; `known` as above."""
    if position >= len(workflow.members):
        return (1 << len(workflow.members)) - 1
    if workflow.kind == "chain":
        return (1 << position) - 1
    return _ancestors(members, position, known)


def _ancestors(members: Sequence[Member], position: int, known: dict[int, int]) -> int:
    """Return the positions before one as a bit mask. With sets, a wide graph would take a thousand times as long."""
    stack = [position]
    while stack:
        current = stack[-1]
        if current in known:
            stack.pop()
            continue
        missing = [before for before in members[current].depends_on if before not in known]
        if missing:
            stack += missing
            continue
        mask = 0
        for before in members[current].depends_on:
            mask |= known[before] | 1 << before
        known[stack.pop()] = mask
    return known[position]
