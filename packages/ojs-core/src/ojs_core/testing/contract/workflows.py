"""Workflows as records: each write a swap on the version (C-WF-18, C-WF-19)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ojs_core.backend import Backend, Commit, Committed, WorkflowWrite
from ojs_core.job import JobState
from ojs_core.records import Member
from ojs_core.testing.clock import DAY, NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import accept, counts, job_in, read, refuse, snapshot
from ojs_core.testing.factories import make_error, make_event, make_id, make_new, make_note, make_workflow, raw


def _member(**fields: Any) -> Member:
    return Member(**{"id": "m", "type": "test.step", "definition": raw({"type": "test.step", "args": [1.0]}), **fields})


class WorkflowContract(BackendFixtures):
    """`WorkflowStore`, and `Commit.workflows`."""

    async def test_a_workflow_comes_back_whole(self, backend: Backend) -> None:
        """Every field of it and of its members and callbacks, with the version the store gave it."""
        flow = make_workflow(
            kind="batch",
            name="é",
            state="failed",
            members=(
                _member(state="completed", job_id=make_id(), result=raw({"n": 2**70}), started_at=1, completed_at=2),
                _member(state="failed", job_id=make_id(), error=make_error(details=raw([1])), depends_on=(0,)),
                _member(child_id=make_id()),
            ),
            callbacks={"on_failure": _member(id="on_failure", state="pending"), "on_complete": _member()},
            input=raw([None, 1.0]),
            parent_id=make_id(),
            parent_step=3,
            job_count=9,
            wake_at=NOW + 5,
            started_at=NOW,
            completed_at=NOW + 1,
            cancelled_at=NOW + 2,
        )
        await accept(backend, workflows=(WorkflowWrite(flow.id, flow, 0),))
        assert await backend.get_workflow(flow.id) == msgspec.structs.replace(flow, version=1)

    @pytest.mark.parametrize("text", ["", "no-id", "é", "*", "'"])
    async def test_an_unknown_workflow(self, backend: Backend, text: str) -> None:
        """None, whatever the text."""
        assert await backend.get_workflow(text) is None

    async def test_each_write_of_a_workflow_is_a_new_version(self, backend: Backend) -> None:
        """One more than expected, whatever the record itself says."""
        flow = make_workflow(version=77)
        for expected in range(4):
            flow = msgspec.structs.replace(flow, job_count=expected)
            await accept(backend, workflows=(WorkflowWrite(flow.id, flow, expected),))
            stored = await backend.get_workflow(flow.id)
            assert stored is not None
            assert (stored.version, stored.job_count) == (expected + 1, expected)

    @pytest.mark.parametrize("expected", [0, 1, 3])
    async def test_a_stale_write_of_a_workflow_is_refused(self, backend: Backend, expected: int) -> None:
        """For a change as for a deletion: a cancellation that came first wins (C-WF-18)."""
        flow = make_workflow()
        for version in (0, 1):
            await accept(backend, workflows=(WorkflowWrite(flow.id, flow, version),))
        before = await snapshot(backend, [flow.id])
        for record in (msgspec.structs.replace(flow, state="completed"), None):
            [conflict] = await refuse(backend, workflows=(WorkflowWrite(flow.id, record, expected),))
            assert (conflict.kind, conflict.index) == ("workflow", 0)
        assert await snapshot(backend, [flow.id]) == before

    async def test_a_deleted_workflow_is_gone(self, backend: Backend) -> None:
        """From reads and from the clock; its id begins anew at version 1."""
        flow = make_workflow(wake_at=NOW)
        await accept(backend, workflows=(WorkflowWrite(flow.id, flow, 0),))
        await accept(backend, workflows=(WorkflowWrite(flow.id, None, 1),))
        assert await backend.get_workflow(flow.id) is None
        assert await backend.due_workflows(NOW + DAY, 10) == []
        assert await backend.next_wake_at() is None
        await refuse(backend, workflows=(WorkflowWrite(flow.id, flow, 1),))
        await accept(backend, workflows=(WorkflowWrite(flow.id, flow, 0),))

    async def test_several_workflows_in_one_commit(self, backend: Backend) -> None:
        """An outer one and those it starts are written together; one conflict, named by position, stops all."""
        outer, inner, other = make_workflow(), make_workflow(), make_workflow()
        await accept(backend, workflows=tuple(WorkflowWrite(flow.id, flow, 0) for flow in (outer, inner)))
        conflicts = await refuse(
            backend, workflows=(WorkflowWrite(outer.id, outer, 1), WorkflowWrite(other.id, other, 1))
        )
        assert (conflicts[0].kind, conflicts[0].index) == ("workflow", 1)
        stored = await backend.get_workflow(outer.id)
        assert stored is not None
        assert stored.version == 1
        await accept(backend, workflows=(WorkflowWrite(outer.id, None, 1), WorkflowWrite(other.id, other, 0)))
        assert await backend.get_workflow(outer.id) is None
        assert await backend.get_workflow(other.id) is not None

    async def test_a_step_is_taken_once(self, backend: Backend) -> None:
        """Of many that advance from the same version one starts the next step and notes the member (C-WF-13)."""
        flow = make_workflow()
        await accept(backend, workflows=(WorkflowWrite(flow.id, flow, 0),))
        job = await job_in(backend, JobState.COMPLETED, workflow_id=flow.id, workflow_step=0)
        advances = [
            Commit(
                workflows=(WorkflowWrite(flow.id, msgspec.structs.replace(flow, job_count=n), 1),),
                inserts=(make_new(workflow_id=flow.id, workflow_step=1, parent_results=raw([n])),),
                transitions=(make_note(job, member_wake_at=NOW + DAY),),
                events=(make_event("workflow.step_completed", subject=flow.id),),
            )
            for n in range(5)
        ]
        answers = await backend.commit(advances)
        assert [isinstance(answer, Committed) for answer in answers] == [True] + [False] * 4
        assert await counts(backend) == {"available": 1, "completed": 1}
        assert (await read(backend, job.id)).advanced
        stored = await backend.get_workflow(flow.id)
        assert stored is not None
        assert (stored.version, stored.job_count) == (2, 0)
