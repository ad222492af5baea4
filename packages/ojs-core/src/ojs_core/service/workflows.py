"""Workflows: creation, progress, cancellation (OJS workflows).

The engine in `ojs_core.workflow` decides; here it is joined with the store.

A member's end and the workflow's next step are two commits. The second says, on the member's record, that it happened;
until then the record's clock brings the sweeper, which does it again, with the same result. Outcomes that arrive
together for one workflow share a commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from ojs_core.backend import Commit, Committed, Conflict, NewJob, Refused, WorkflowWrite
from ojs_core.coalesce import Coalescer
from ojs_core.errors import NotFoundError, StateConflictError
from ojs_core.events import Event
from ojs_core.ids import uuid7
from ojs_core.job import Job, JobError
from ojs_core.lifecycle import Transition, plan_abandon, plan_note
from ojs_core.records import Workflow
from ojs_core.service.batch import duplicate
from ojs_core.service.context import Context
from ojs_core.workflow import (
    Advance,
    advance,
    cancel,
    child_ids,
    open_job_ids,
    outcome_of_job,
    outcome_of_workflow,
    parse_workflow,
    refusal,
    render,
    start,
)

CANCEL_GRACE_MS = 1000
"""How long after a cancellation the sweeper looks whether its jobs were cancelled too."""
RETENTION_MS = 7 * 24 * 3600 * 1000
"""How long a finished workflow is kept."""
RACES_MAX = 50
"""How often progress is decided anew after another server moved the workflow."""


class WorkflowService:
    """Workflows."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._advancing: dict[str, Coalescer[Job, None]] = {}

    async def create(self, envelope: dict[str, Any], raw: dict[str, Raw]) -> dict[str, Any]:
        """Create and start a workflow; return its view.

        Raises `InvalidRequestError`, `EnvelopeTooLargeError`, `UnsupportedError`, `DuplicateJobError`.
        """
        now = self._context.clock.now()
        members_max = self._context.settings.batch_max
        parsed = parse_workflow(envelope, raw, now, workflow_id=uuid7(now), members_max=members_max)
        advanced = start(parsed, now)
        step = _Step()
        step.take(advanced, 0)
        answer = await self._context.commits.ask(step.commit(now))
        if isinstance(answer, Refused):
            raise duplicate(answer.conflicts[0])
        jobs = {job.id: job for job in answer.inserted}
        workflow = advanced.workflow
        return render(workflow, jobs, {child.id: child for child in advanced.children})

    async def get(self, workflow_id: str) -> dict[str, Any]:
        """Return the view of a workflow."""
        return await self._view(await self._load(workflow_id))

    async def cancel(self, workflow_id: str) -> dict[str, Any]:
        """Cancel a workflow: what waits is cancelled, what runs may finish without consequence (C-WF-18, Q-23f)."""
        refused: dict[str, JobError] = {}
        there: set[str] = set()
        for _ in range(RACES_MAX):
            workflow = await self._load(workflow_id)
            now = self._context.clock.now()
            root = cancel(workflow, now)
            nested = [cancel(child, now) for child in await self._nested(workflow) if child.state == "running"]
            step = _Step(there)
            for part in (root, *nested):
                step.write(part.workflow, part.workflow.version, wake_at=now + CANCEL_GRACE_MS)
                step.events.extend(part.events)
            await self._move_parents(step, root.workflow, now, refused)
            answer = await self._context.commits.ask(step.commit(now))
            if isinstance(answer, Committed):
                for part in (root, *nested):
                    await self._cancel_jobs(part.workflow)
                return await self._view(root.workflow)
            for conflict in answer.conflicts:
                step.settle(conflict, now, refused, there)
        raise _keeps_changing(workflow_id)

    async def _nested(self, workflow: Workflow) -> list[Workflow]:
        """Return all started workflows below one, at any depth."""
        found: list[Workflow] = []
        level = [workflow]
        while level:
            ids = [child_id for member in level for child_id in child_ids(member)]
            children = [await self._context.backend.get_workflow(child_id) for child_id in ids]
            level = [child for child in children if child is not None]
            found += level
        return found

    async def _cancel_jobs(self, workflow: Workflow) -> None:
        """Cancel the jobs of a cancelled workflow that nobody runs, and have the others run for the last time.

        Then it is left to its retention. If a job keeps changing, it stays due, and the sweeper goes on.
        """
        context = self._context
        now = context.clock.now()
        jobs: Sequence[Job | None] = await context.backend.get_jobs(open_job_ids(workflow))
        for _ in range(RACES_MAX):
            plans = [plan for job in jobs if job is not None and (plan := plan_abandon(job, now, context.retention))]
            if not plans:
                break
            for plan in plans:
                context.remembered.pop(plan.job_id, None)
            answers = await asyncio.gather(*(context.commits.ask(Commit(transitions=(plan,))) for plan in plans))
            # One that was claimed, or ended, at this very moment is looked at again.
            jobs = [answer.conflicts[0].job for answer in answers if isinstance(answer, Refused)]
        else:
            return
        current = await context.backend.get_workflow(workflow.id)
        if current is not None:
            await self._put(current, wake_at=(current.cancelled_at or now) + RETENTION_MS)

    async def _put(self, workflow: Workflow, *, wake_at: int | None) -> None:
        record = None if wake_at is None else msgspec.structs.replace(workflow, wake_at=wake_at)
        write = WorkflowWrite(workflow.id, record, workflow.version)
        # Whoever wins this race leaves the same behind.
        await self._context.commits.ask(Commit(workflows=(write,)))

    # Progress.

    async def note_ended(self, jobs: Sequence[Job]) -> list[BaseException]:
        """Let the workflows of jobs that ended take note of it and go on; return what kept some from it.

        Their members stay due, so the sweeper tries again.
        """
        asked = [self._coalescer(job.workflow_id).ask(job) for job in jobs if job.workflow_id]
        return [answer for answer in await asyncio.gather(*asked, return_exceptions=True) if answer is not None]

    def _coalescer(self, workflow_id: str) -> Coalescer[Job, None]:
        found = self._advancing.get(workflow_id)
        if found is not None:
            return found

        async def send(jobs: Sequence[Job]) -> list[None]:
            try:
                await self._advance(workflow_id, jobs)
            finally:
                if coalescer.idle:
                    self._advancing.pop(workflow_id, None)
            return [None] * len(jobs)

        coalescer = self._advancing[workflow_id] = Coalescer(send)
        return coalescer

    async def _advance(self, workflow_id: str, jobs: Sequence[Job]) -> None:
        """Record the outcomes of members and do what follows from them."""
        context = self._context
        members = {job.id: job for job in jobs}
        refused: dict[str, JobError] = {}
        there: set[str] = set()
        for _ in range(RACES_MAX):
            now = context.clock.now()
            step = _Step(there)
            step.notes = tuple(plan_note(job, now, context.retention) for job in members.values() if not job.advanced)
            workflow = await context.backend.get_workflow(workflow_id)
            if workflow is not None:
                moved = advance(workflow, [outcome_of_job(job) for job in members.values()], now, refused)
                step.take(moved, workflow.version)
                if moved.finished:
                    await self._move_parents(step, moved.workflow, now, refused)
            answer = await context.commits.ask(step.commit(now))
            if isinstance(answer, Committed):
                return
            for conflict in answer.conflicts:
                if conflict.kind == "transition":
                    _look_again(members, step.notes[conflict.index].job_id, conflict.job)
                else:
                    step.settle(conflict, now, refused, there)
        raise _keeps_changing(workflow_id)

    async def _move_parents(self, step: _Step, workflow: Workflow, now: int, refused: Mapping[str, JobError]) -> None:
        """Carry the end of a nested workflow outwards, in the same commit."""
        while workflow.parent_id is not None:
            parent = await self._context.backend.get_workflow(workflow.parent_id)
            if parent is None:
                return
            moved = advance(parent, [outcome_of_workflow(workflow)], now, refused)
            step.take(moved, parent.version)
            if not moved.finished:
                return
            workflow = moved.workflow

    async def wake(self, workflow: Workflow) -> None:
        """Do what is due: finish a cancellation that was cut off, or remove a workflow whose retention ended."""
        ended_at = workflow.cancelled_at or workflow.completed_at
        if ended_at is None:
            return
        if self._context.clock.now() >= ended_at + RETENTION_MS:
            await self._put(workflow, wake_at=None)
        else:
            await self._cancel_jobs(workflow)

    # Views.

    async def _load(self, workflow_id: str) -> Workflow:
        workflow = await self._context.backend.get_workflow(workflow_id)
        if workflow is None:
            raise NotFoundError(
                f"There is no workflow {workflow_id}.", resource_type="workflow", resource_id=workflow_id
            )
        return workflow

    async def _view(self, workflow: Workflow) -> dict[str, Any]:
        nested = await self._nested(workflow)
        open_jobs = [job_id for one in (workflow, *nested) for job_id in open_job_ids(one)]
        jobs = await self._context.backend.get_jobs(open_jobs)
        return render(workflow, {job.id: job for job in jobs if job is not None}, {child.id: child for child in nested})


class _Step:
    """The commit that decisions about workflows become. Jobs in `there` are in the store already and are left out."""

    def __init__(self, there: set[str] | None = None) -> None:
        self.notes: tuple[Transition, ...] = ()
        self.inserts: list[NewJob] = []
        self.events: list[Event] = []
        self._there = there or set()
        self._writes: dict[str, tuple[Workflow, int, int | None]] = {}

    def write(self, workflow: Workflow, expected_version: int, *, wake_at: int | None = None) -> None:
        """Write a workflow; one that has ended is due at the end of its retention unless `wake_at` says otherwise."""
        self._writes[workflow.id] = (workflow, expected_version, wake_at)

    def take(self, moved: Advance, expected_version: int) -> None:
        """Add all that one workflow's progress changes."""
        if not moved.changed:
            return
        self.write(moved.workflow, expected_version)
        for child in moved.children:
            self.write(child, 0)
        self.inserts += [new for new in moved.inserts if new.job.id not in self._there]
        self.events.extend(moved.events)

    def settle(self, conflict: Conflict, now: int, refused: dict[str, JobError], there: set[str]) -> None:
        """Note why a job could not be inserted, for the next attempt; other conflicts are settled by reading again."""
        if conflict.kind not in ("id", "hold"):
            return
        new = self.inserts[conflict.index]
        error = refusal(new, conflict, now)
        if error is None:
            there.add(new.job.id)
        else:
            refused[new.job.id] = error

    def commit(self, now: int) -> Commit:
        """Return what is to be written."""
        writes = []
        for workflow, version, wake_at in self._writes.values():
            ends_at = None if workflow.state == "running" else (workflow.completed_at or now) + RETENTION_MS
            record = msgspec.structs.replace(workflow, wake_at=wake_at or ends_at)
            writes.append(WorkflowWrite(workflow.id, record, version))
        return Commit(
            inserts=tuple(self.inserts), transitions=self.notes, workflows=tuple(writes), events=tuple(self.events)
        )


def _look_again(members: dict[str, Job], job_id: str, actual: Job | None) -> None:
    """Go on with a member as it is now; one that is gone or was revived no longer concerns the workflow."""
    if actual is None or not actual.ended:
        del members[job_id]
    else:
        members[job_id] = actual


def _keeps_changing(workflow_id: str) -> StateConflictError:
    return StateConflictError(f"Workflow {workflow_id} keeps changing. Try again.")
