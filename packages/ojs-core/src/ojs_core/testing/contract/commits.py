"""Commits: sets of changes that happen together or not at all, one after the other."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_core.backend import Backend, Commit, Committed, CronWrite, Refused, Removal, WorkflowWrite
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import HOUR, NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import (
    accept,
    apply,
    claim_ids,
    commit,
    counts,
    event_types,
    insert,
    insert_one,
    job_in,
    listed,
    read,
    refuse,
    snapshot,
)
from ojs_core.testing.factories import (
    make_cron,
    make_event,
    make_id,
    make_new,
    make_transition,
    make_unique,
    make_workflow,
)

CONFLICTS = (
    "id",
    "id in the batch",
    "hold",
    "hold in the batch",
    "state",
    "version",
    "fence",
    "worker",
    "no such job",
    "removal of another version",
    "removal of no job",
    "workflow that exists",
    "workflow of another version",
    "workflow that is gone",
    "cron that exists",
    "cron of another version",
    "cron that is gone",
)
"""Everything that can stand in the way of a commit."""


class _Bench:
    """A store with one of everything, and commits against it."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    async def fill(self) -> None:
        self.active = await job_in(self.backend, JobState.ACTIVE, worker_id="holder")
        [self.held] = await insert(self.backend, make_unique("a" * 64, queue="held"))
        self.old = await job_in(self.backend, JobState.COMPLETED, queue="old")
        self.waiting = await insert_one(self.backend, queue="waiting")
        self.workflow = make_workflow(wake_at=NOW + HOUR)
        await accept(
            self.backend,
            workflows=(WorkflowWrite(self.workflow.id, self.workflow, 0),),
            cron=CronWrite("nightly", make_cron(), 0),
        )

    def good(self) -> dict[str, Any]:
        """Return one change of every kind, none of which meets a conflict."""
        other = make_workflow()
        return {
            "inserts": (make_new(max_per_second=5), make_unique("b" * 64, queue="new")),
            "transitions": (make_transition(LifecycleEvent.CANCEL, self.waiting.id, version=self.waiting.version),),
            "removals": (Removal(self.old.id, self.old.version),),
            "workflows": (WorkflowWrite(other.id, other, 0),),
            "cron": CronWrite("hourly", make_cron("hourly"), 0),
            "events": (make_event(),),
        }

    def bad(self, conflict: str) -> tuple[str, int, dict[str, Any]]:
        """Return the same with one conflict, what kind it is, and where."""
        parts = self.good()
        ack = LifecycleEvent.ACK
        first, unique = parts["inserts"]
        inserts = {
            "id": make_new(id=self.held.id),
            "id in the batch": make_new(id=first.job.id),
            "hold": make_unique("a" * 64),
            "hold in the batch": make_unique("b" * 64),
        }
        transitions = {
            "state": make_transition(LifecycleEvent.PROMOTE, self.active.id),
            "version": make_transition(ack, self.active.id, version=self.active.version - 1),
            "fence": make_transition(ack, self.active.id, fence=self.active.fence - 1),
            "worker": make_transition(ack, self.active.id, worker_id="someone else"),
            "no such job": make_transition(ack, make_id()),
        }
        removals = {
            "removal of another version": Removal(self.active.id, self.active.version + 1),
            "removal of no job": Removal(make_id(), 1),
        }
        flow = self.workflow
        workflows = {
            "workflow that exists": WorkflowWrite(flow.id, flow, 0),
            "workflow of another version": WorkflowWrite(flow.id, None, 2),
            "workflow that is gone": WorkflowWrite(make_id(), None, 1),
        }
        crons = {
            "cron that exists": CronWrite("nightly", make_cron(), 0),
            "cron of another version": CronWrite("nightly", None, 2),
            "cron that is gone": CronWrite("weekly", make_cron("weekly"), 1),
        }
        if conflict in inserts:
            return conflict.split(maxsplit=1)[0], 2, {**parts, "inserts": (first, unique, inserts[conflict])}
        if conflict in transitions:
            return "transition", 1, {**parts, "transitions": (*parts["transitions"], transitions[conflict])}
        if conflict in removals:
            return "removal", 1, {**parts, "removals": (*parts["removals"], removals[conflict])}
        if conflict in workflows:
            return "workflow", 1, {**parts, "workflows": (*parts["workflows"], workflows[conflict])}
        return "cron", 0, {**parts, "cron": crons[conflict]}


class CommitContract(BackendFixtures):
    """`JobStore.commit` as a whole (C-LC-02)."""

    @pytest.fixture
    async def bench(self, backend: Backend) -> _Bench:
        """A store with one of everything."""
        bench = _Bench(backend)
        await bench.fill()
        return bench

    async def test_no_commits_no_answers(self, backend: Backend) -> None:
        """Nothing asked, nothing answered."""
        assert await backend.commit([]) == []

    async def test_an_empty_commit_changes_nothing(self, backend: Backend) -> None:
        """A commit without parts happens."""
        before = await snapshot(backend)
        assert await commit(backend) == Committed()
        assert await snapshot(backend) == before

    async def test_every_part_of_a_commit_happens(self, backend: Backend, bench: _Bench) -> None:
        """Inserts, swaps, removals, workflow, cron entry and events of one commit are all there after it."""
        parts = bench.good()
        answer = await accept(backend, **parts)
        assert [job.id for job in answer.inserted] == [new.job.id for new in parts["inserts"]]
        assert [(change.job.id, change.previous) for change in answer.changed] == [(bench.waiting.id, "available")]
        assert await backend.get_jobs([bench.old.id]) == [None]
        assert await counts(backend, "waiting") == {"cancelled": 1}
        assert await counts(backend, "new") == {"available": 1}
        assert await backend.get_workflow(parts["workflows"][0].workflow_id) is not None
        assert await backend.get_cron("hourly") is not None
        assert (await event_types(backend)).count("worker.stopped") == 1

    @pytest.mark.parametrize("conflict", CONFLICTS)
    async def test_nothing_of_a_refused_commit_is_visible(self, backend: Backend, bench: _Bench, conflict: str) -> None:
        """One conflict anywhere, and no job, index, counter, limit, workflow, cron entry or event is different."""
        kind, index, parts = bench.bad(conflict)
        flows = [bench.workflow.id, *(write.workflow_id for write in parts["workflows"])]
        before = await snapshot(backend, flows)
        conflicts = await refuse(backend, **parts)
        assert [(found.kind, found.index) for found in conflicts] == [(kind, index)]
        assert await snapshot(backend, flows) == before
        assert await claim_ids(backend, "waiting", "held", "new") == [bench.waiting.id, bench.held.id]

    async def test_the_swap_happens_after_a_refusal(self, backend: Backend, bench: _Bench) -> None:
        """What a refused commit asked for can still be asked for: it left no trace to stumble over."""
        parts = bench.good()
        await refuse(backend, **{**parts, "cron": CronWrite("nightly", make_cron(), 0)})
        answer = await accept(backend, **parts)
        assert [job.version for job in answer.inserted] == [1, 1]

    async def test_conflicts_of_several_parts(self, backend: Backend, bench: _Bench) -> None:
        """Every conflict of the inserts is named, and the first of the others, with the job found."""
        await apply(backend, make_transition(LifecycleEvent.CANCEL, bench.waiting.id))
        conflicts = await refuse(
            backend,
            inserts=(make_new(id=bench.held.id), make_new(), make_unique("a" * 64)),
            transitions=(
                make_transition(LifecycleEvent.CANCEL, bench.active.id),
                make_transition(LifecycleEvent.CANCEL, bench.waiting.id),
            ),
        )
        found = {(conflict.kind, conflict.index): conflict.job for conflict in conflicts}
        assert found["id", 0] == found["hold", 2] == bench.held
        assert found["transition", 1] == await read(backend, bench.waiting.id)
        assert ("transition", 0) not in found
        assert ("id", 1) not in found
        assert (await read(backend, bench.active.id)).state is JobState.ACTIVE

    @pytest.mark.parametrize("conflict", ["removal of another version", "removal of no job"])
    async def test_a_removal_conflict_carries_the_job(self, backend: Backend, bench: _Bench, conflict: str) -> None:
        """The job as it is, or none."""
        _, _, parts = bench.bad(conflict)
        [found] = await refuse(backend, removals=parts["removals"])
        assert found.job == (bench.active if conflict == "removal of another version" else None)

    async def test_later_commits_see_the_earlier_ones(self, backend: Backend) -> None:
        """In one call a job can be inserted, swapped, met by others, and removed."""
        new = make_unique("a" * 64)
        job_id = new.job.id
        workflow = make_workflow()
        answers = await backend.commit(
            [
                Commit(inserts=(new,), workflows=(WorkflowWrite(workflow.id, workflow, 0),)),
                Commit(inserts=(make_new(id=job_id),)),
                Commit(inserts=(make_unique("a" * 64),)),
                Commit(transitions=(make_transition(LifecycleEvent.CANCEL, job_id, version=1),)),
                Commit(transitions=(make_transition(LifecycleEvent.CANCEL, job_id),)),
                Commit(inserts=(make_unique("a" * 64),)),
                Commit(workflows=(WorkflowWrite(workflow.id, workflow, 1),), cron=CronWrite("c", make_cron("c"), 0)),
                Commit(cron=CronWrite("c", None, 1), workflows=(WorkflowWrite(workflow.id, None, 1),)),
                Commit(cron=CronWrite("c", None, 1), removals=(Removal(job_id, 2),)),
                Commit(inserts=(make_new(id=job_id),)),
            ]
        )
        kinds = [
            [conflict.kind for conflict in answer.conflicts] if isinstance(answer, Refused) else []
            for answer in answers
        ]
        assert kinds == [[], ["id"], ["hold"], [], ["transition"], [], [], ["workflow"], [], []]
        found = [conflict.job for answer in answers if isinstance(answer, Refused) for conflict in answer.conflicts]
        assert [job and (job.id, job.state, job.version) for job in found] == [
            (job_id, "available", 1),
            (job_id, "available", 1),
            (job_id, "cancelled", 2),
            None,
        ]
        assert await counts(backend) == {"available": 2}
        assert await backend.get_cron("c") is None

    async def test_a_refused_commit_does_not_stop_the_next(self, backend: Backend) -> None:
        """Each commit of a call stands for itself."""
        job = await insert_one(backend)
        bad = Commit(inserts=(make_new(), make_new(id=job.id)), events=(make_event(),))
        answers = await backend.commit([bad, Commit(inserts=(make_new(),)), bad, Commit(events=(make_event(),))])
        assert [type(answer) for answer in answers] == [Refused, Committed, Refused, Committed]
        assert await counts(backend) == {"available": 2}
        assert len(await event_types(backend, types=("worker.*",))) == 1

    # A removal.

    @pytest.mark.parametrize("state", list(JobState))
    async def test_a_removed_job_is_gone_from_everywhere(self, backend: Backend, state: JobState) -> None:
        """Record, listing, numbers, clock, queue and hold forget it (C-DLQ-06)."""
        changes = {"dead": True} if state is JobState.DISCARDED else None
        job = await job_in(
            backend, state, changes=changes, fingerprint="a" * 64, worker_id="w", expires_at=NOW + HOUR, priority=5
        )
        stays = await insert_one(backend)
        await accept(backend, removals=(Removal(job.id, job.version),))
        assert await backend.get_jobs([job.id]) == [None]
        assert await listed(backend) == [stays.id]
        assert await listed(backend, dead=True) == []
        assert await counts(backend) == {"available": 1}
        assert await backend.due_jobs(NOW + 1000 * HOUR, 10) == []
        assert await backend.next_wake_at() is None
        await insert(backend, make_unique("a" * 64, *JobState, queue="other"))
        assert await claim_ids(backend) == [stays.id]
        [conflict] = await refuse(backend, removals=(Removal(job.id, job.version),))
        assert (conflict.kind, conflict.job) == ("removal", None)

    async def test_a_commit_may_swap_a_job_and_insert_in_its_place(self, backend: Backend) -> None:
        """Inserts meet the jobs as the other parts leave them: a swap or removal frees the fingerprint (C-UNQ-09)."""
        [first, gone] = await insert(backend, make_unique("a" * 64), make_unique("b" * 64))
        answer = await accept(
            backend,
            transitions=(make_transition(LifecycleEvent.CANCEL, first.id, version=first.version),),
            removals=(Removal(gone.id, gone.version),),
            inserts=(make_unique("a" * 64), make_unique("b" * 64), make_new(id=gone.id)),
        )
        assert await counts(backend) == {"available": 3, "cancelled": 1}
        assert await claim_ids(backend) == [job.id for job in answer.inserted]
        assert await event_types(backend, types=("job.cancelled",)) == []

    async def test_a_commit_may_not_insert_against_what_it_makes(self, backend: Backend) -> None:
        """The same the other way round: a swap into a state that a hold forbids stands in its way."""
        job = await job_in(backend, JobState.DISCARDED, fingerprint="a" * 64)
        revive = make_transition(LifecycleEvent.REVIVE, job.id)
        [conflict] = await refuse(backend, transitions=(revive,), inserts=(make_unique("a" * 64),))
        assert (conflict.kind, conflict.index) == ("hold", 0)
        assert conflict.job is not None
        assert conflict.job.id == job.id
        assert await read(backend, job.id) == job
