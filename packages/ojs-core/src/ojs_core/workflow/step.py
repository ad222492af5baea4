"""One step of a workflow in the making: what ends, what that starts, and the record, jobs and events it comes to.

There is one engine. A chain is a line of members that wait for each other, a group members that wait for nothing, a
batch a group and callbacks that wait for all of it; `Member.depends_on` and `Member.trigger` say the rest. A workflow
ends when every member has ended. A callback is started by the one step that sees its last member end, so it is started
once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct

from ojs_core.backend import NewJob
from ojs_core.envelope import new_job, parse_job_request
from ojs_core.errors import EnvelopeTooLargeError, NotFoundError, OJSError
from ojs_core.events import Event
from ojs_core.job import JobError
from ojs_core.records import Member, Trigger, Workflow
from ojs_core.workflow.definition import parse_nested
from ojs_core.workflow.events import callback_event, created_event, ended_event, member_events, started_event
from ojs_core.workflow.members import (
    OPEN,
    all_members,
    before_mask,
    named_id,
    parent_results,
    size,
    unhandled_failure,
    with_members,
)
from ojs_core.workflow.outcome import Outcome, outcome_of_workflow, record_outcome


class Advance(Struct, frozen=True, kw_only=True):
    """One step of a workflow.

    `workflow` is the record after it, with the `version` it had: the write bumps that. `inserts` are the jobs to
    enqueue, in order. `children` are the nested workflows that begin with it, already started, each to be written anew;
    their first jobs are among `inserts`, their events among `events`. `changed` is false if there is nothing to write;
    `finished` is true if this very step ended the workflow.

    `needs` are positions of members whose results the record has left elsewhere and this step hands on. If there are
    any, the rest counts for nothing: read those results and decide again.
    """

    workflow: Workflow
    inserts: tuple[NewJob, ...] = ()
    children: tuple[Workflow, ...] = ()
    events: tuple[Event, ...] = ()
    changed: bool = False
    finished: bool = False
    needs: tuple[int, ...] = ()


Verdict = Literal["wait", "start", "cancel"]

HANDED_MAX_BYTES: Final = 64 * 1024 * 1024
"""Results that one step hands to jobs, counted for each of them: they are part of its one commit."""
RESULTS_MAX_BYTES: Final = 16 * 1024 * 1024
"""Results kept in the record of a workflow, which is written at each member's end: those beyond stay with the jobs."""
TOLD_MAX_BYTES: Final = RESULTS_MAX_BYTES
"""Results that one job is told.

Not more than a record keeps: what a nested group or batch has to leave is then never wanted, as it is too large to hand
on. Nor has a chain anything to leave: its last step was told the results of all the others.
"""


def _decide(trigger: Trigger, *, missing: bool, broken: bool) -> Verdict:
    """Say what becomes of a waiting member.

    Args:
        trigger: the member's.
        missing: something it waits for has not ended.
        broken: something it waits for ended without success.
    """
    if trigger == "success" and broken:
        return "cancel"
    if missing:
        return "wait"
    return "cancel" if trigger == "failure" and not broken else "start"


class Step:
    """One step in the making: the members as they become, and what has to be done about it."""

    def __init__(
        self,
        workflow: Workflow,
        now: int,
        refused: Mapping[str, JobError],
        results: Mapping[int, Raw | None] = {},
    ) -> None:
        self.workflow = workflow
        self.now = now
        self.refused = refused
        self.results = results
        self.members = [
            msgspec.structs.replace(member, result=results[position]) if position in results else member
            for position, member in enumerate(all_members(workflow))
        ]
        self.needs: set[int] = set()
        self._left = [position for position, member in enumerate(self.members) if member.result_bytes is not None]
        self.changed = False
        self.inserts: list[NewJob] = []
        self.children: list[Workflow] = []
        self.events: list[Event] = []
        self.child_events: list[Event] = []
        self.ready: list[int] = []
        self.handed_bytes = 0
        """Results handed to jobs in this step, each counted as often as it is handed."""
        self._ended: deque[int] = deque()
        self._reported: list[int] = []
        self._called: list[int] = []
        self._ancestors: dict[int, int] = {}
        # Counted once and kept up to date: a step must not cost more the more outcomes it brings.
        self._open_members = 0
        self._open_callbacks = 0
        self._missing: dict[int, int] = {}
        self._broken: set[int] = set()
        self._dependents: dict[int, list[int]] = {}
        self._count()

    def _count(self) -> None:
        for position, member in enumerate(self.workflow.members):
            if member.state in OPEN:
                self._open_members += 1
                if member.depends_on and member.state == "waiting":
                    self._link(position, member)
        self._open_callbacks = sum(member.state in OPEN for member in self.workflow.callbacks.values())

    def _link(self, position: int, member: Member) -> None:
        """Count what a waiting member waits for."""
        missing = 0
        for before in member.depends_on:
            state = self.members[before].state
            if state in OPEN:
                missing += 1
                self._dependents.setdefault(before, []).append(position)
            elif state != "completed":
                self._broken.add(position)
        self._missing[position] = missing

    def begin(self) -> Advance:
        """Start the members that wait for nothing, in the order given; the workflow was not started yet."""
        self.workflow = msgspec.structs.replace(self.workflow, started_at=self.now)
        if self.workflow.parent_id is None:
            self.events.append(created_event(self.workflow, self.now))
        self.events.append(started_event(self.workflow, self.now))
        self.ready = [position for position, member in enumerate(self.workflow.members) if not member.depends_on]
        return self.finish()

    def note(self, outcome: Outcome) -> None:
        """Record the end of a member that is under way; ignore any other outcome."""
        if 0 <= outcome.step < len(self.members):
            member = self.members[outcome.step]
            ours = (outcome.job_id, outcome.child_id) == (member.job_id, member.child_id)
            if ours and member.state == "pending":
                self._end(outcome.step, record_outcome(member, outcome))

    def _end(self, position: int, member: Member) -> None:
        self.members[position] = member
        self.changed = True
        self._ended.append(position)
        if member.result_bytes is not None:
            self._left.append(position)
        if position < len(self.workflow.members):
            self._open_members -= 1
        else:
            self._open_callbacks -= 1
        if member.state in ("completed", "failed"):
            self._reported.append(position)

    def make(self, position: int, at: int) -> None:
        """Start a member at `at`: make its job, or its nested workflow with its first jobs.

        What cannot be made fails here instead of holding up the rest. Its request was valid when the workflow was
        created, so that takes a relative time that has run past the last year, too much to hand on, or a job the store
        refused.
        """
        member = self.members[position]
        new_id = named_id(self.workflow, position)
        self.changed = True
        try:
            results = self._results_for(position)
            if member.nested:
                self._make_child(position, at, new_id, results)
            else:
                self._make_job(position, at, new_id, results)
        except OJSError as error:
            reason = JobError(type=error.code, code=error.code, message=error.message, attempt=0, occurred_at=at)
            self._fail(position, reason)

    def _results_for(self, position: int) -> Raw:
        """Return what the job at a position is told of those before it; once it is too much, nobody is told more."""
        if self.handed_bytes <= HANDED_MAX_BYTES:
            left = self._left_before(position)
            wanted = [before for before in left if before not in self.results]
            results = parent_results(self.workflow, self.members, position, self._ancestors)
            # For each that is wanted there is a null so far.
            missing = sum((self.members[before].result_bytes or 0) - len(b"null") for before in wanted)
            told = size(results) + missing
            self.handed_bytes += told
            if told > TOLD_MAX_BYTES:
                raise EnvelopeTooLargeError(
                    f"The results to hand to the job are {told} bytes; at most {TOLD_MAX_BYTES} are handed on."
                )
            if self.handed_bytes <= HANDED_MAX_BYTES:
                self._check_there(left)
                self.needs.update(wanted)
                return results
        raise EnvelopeTooLargeError(
            f"The results to hand to the jobs that start together are more than {HANDED_MAX_BYTES} bytes."
        )

    def _left_before(self, position: int) -> list[int]:
        """Return the positions whose results the job at a position is told and the record has left elsewhere."""
        if not self._left or (position < len(self.workflow.members) and not self.members[position].depends_on):
            return []
        mask = before_mask(self.workflow, self.members, position, self._ancestors)
        return [before for before in self._left if mask >> before & 1]

    def _check_there(self, left: list[int]) -> None:
        """Raise `NotFoundError` if one of these results was looked for in vain."""
        gone = [self.members[before].id for before in left if before in self.results and self.results[before] is None]
        if gone:
            raise NotFoundError(
                f"The result of '{gone[0]}' is gone. A workflow keeps {RESULTS_MAX_BYTES} bytes of results; the others"
                " are kept with their jobs, until the retention of these ends."
            )

    def _make_job(self, position: int, at: int, new_id: str, results: Raw) -> None:
        new = new_job(
            parse_job_request(self.members[position].definition, at),
            at,
            job_id=new_id,
            workflow_id=self.workflow.id,
            workflow_step=position,
            parent_results=results,
        )
        reason = self.refused.get(new.job.id)
        if reason is not None:
            self._fail(position, reason)
            return
        self.inserts.append(new)
        if position >= len(self.workflow.members):
            self._called.append(position)
        self.members[position] = msgspec.structs.replace(
            self.members[position], state="pending", job_id=new.job.id, enqueued_at=at
        )

    def _make_child(self, position: int, at: int, new_id: str, results: Raw) -> None:
        child = msgspec.structs.replace(
            parse_nested(self.members[position], at, workflow_id=new_id),
            created_at=self.workflow.created_at,
            parent_id=self.workflow.id,
            parent_step=position,
            input=results,
        )
        inner = Step(child, at, self.refused)
        inner.handed_bytes = self.handed_bytes
        step = inner.begin()
        self.handed_bytes = inner.handed_bytes
        self.inserts += step.inserts
        self.children += (step.workflow, *step.children)
        self.child_events += step.events
        self.members[position] = msgspec.structs.replace(
            self.members[position], state="pending", child_id=child.id, enqueued_at=at
        )
        if step.finished:
            # All its first jobs were refused.
            self.note(outcome_of_workflow(step.workflow))

    def _fail(self, position: int, error: JobError) -> None:
        failed = Outcome(step=position, state="failed", at=error.occurred_at, error=error)
        self._end(position, record_outcome(self.members[position], failed))

    def finish(self) -> Advance:
        """Follow every consequence to its end and return the step."""
        while self._ended or self.ready:
            while self._ended:
                self._pass_on(self._ended.popleft())
            if not self._open_members:
                self._call_back()
            # In the order given, for jobs that become ready together (C-WF-12).
            ready, self.ready = sorted(self.ready), []
            for position in ready:
                self.make(position, self.now)
        if self.needs:
            return Advance(workflow=self.workflow, needs=tuple(sorted(self.needs)))
        if not self.changed:
            return Advance(workflow=self.workflow)
        return self._close()

    def _pass_on(self, ended: int) -> None:
        """Tell those who wait for a member that it has ended."""
        for position in self._dependents.pop(ended, ()):
            self._missing[position] -= 1
            if self.members[ended].state != "completed":
                self._broken.add(position)
            self._follow(position, missing=self._missing[position] > 0, broken=position in self._broken)

    def _call_back(self) -> None:
        """Decide about the callbacks of a batch, all of whose members have ended (C-WF-13)."""
        split = len(self.workflow.members)
        broken = any(member.state != "completed" for member in self.members[:split])
        for position in range(split, len(self.members)):
            self._follow(position, missing=False, broken=broken)

    def _follow(self, position: int, *, missing: bool, broken: bool) -> None:
        member = self.members[position]
        if member.state != "waiting":
            return
        verdict = _decide(member.trigger, missing=missing, broken=broken)
        if verdict == "start":
            self.ready.append(position)
        elif verdict == "cancel":
            self._end(position, msgspec.structs.replace(member, state="cancelled", completed_at=self.now))

    def _leave_results(self) -> None:
        """Leave with their jobs the results that the record has no room for, and those that were brought."""
        for position in self.results:
            self.members[position] = msgspec.structs.replace(self.members[position], result=None)
        if self.workflow.kind == "chain":
            return
        room = RESULTS_MAX_BYTES - sum(size(member.result) for member in all_members(self.workflow))
        for position in self._reported:
            member = self.members[position]
            taken = size(member.result)
            if taken > room:
                self.members[position] = msgspec.structs.replace(member, result=None, result_bytes=taken)
            else:
                room -= taken

    def _close(self) -> Advance:
        self._leave_results()
        still_open = self._open_members + self._open_callbacks
        failure = None if still_open else unhandled_failure(self.workflow, self.members)
        changes: dict[str, object] = {}
        if not still_open:
            changes = {"state": "completed" if failure is None else "failed", "completed_at": self.now}
        workflow = with_members(self.workflow, self.members, **changes)
        # What remains after each of several ends: as if they had been noted one by one.
        remaining = still_open + len(self._reported)
        for position in self._reported:
            remaining -= 1
            self.events += member_events(workflow, self.members[position], position, remaining, self.now)
        for position in self._called:
            self.events.append(callback_event(workflow, self.members[position], position, self.now))
        self.events += self.child_events
        if not still_open:
            self.events.append(ended_event(workflow, failure, self.now))
        return Advance(
            workflow=workflow,
            inserts=tuple(self.inserts),
            children=tuple(self.children),
            events=tuple(self.events),
            changed=True,
            finished=not still_open,
        )
