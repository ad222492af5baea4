"""The workflow as answers show it (C-WF-19, C-WF-20, C-EP-25)."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from ojs_core.envelope import decode_object
from ojs_core.job import Job, JobError, JobState
from ojs_core.records import Workflow
from ojs_core.workflow import (
    Advance,
    Outcome,
    advance,
    cancel,
    child_ids,
    open_job_ids,
    outcome_of_workflow,
    parse_workflow,
    render,
    start,
)

NOW = 1_770_892_200_000
LATER = NOW + 5_000
AT_NOW = "2026-02-12T10:30:00.000Z"
AT_LATER = "2026-02-12T10:30:05.000Z"
WORKFLOW_ID = "019c5186-9a40-7000-8000-000000000001"
BOOM = JobError(type="Boom", code="handler_error", message="boom", attempt=3, occurred_at=LATER)
SHOWN_BOOM = {"code": "handler_error", "type": "Boom", "message": "boom", "attempt": 3}


def job(job_type: str = "a.b", **attributes: Any) -> dict[str, Any]:
    return {"type": job_type, "args": [], **attributes}


def started(definition: dict[str, Any]) -> Advance:
    text = json.dumps(definition).encode()
    return start(parse_workflow(*decode_object(text), NOW, workflow_id=WORKFLOW_ID), NOW)


def jobs_of(step: Advance, **changes: Any) -> dict[str, Job]:
    return {new.job.id: msgspec.structs.replace(new.job, **changes) for new in step.inserts}


def show(workflow: Workflow, jobs: dict[str, Job] | None = None, *children: Workflow) -> Any:
    """Return the view as a client reads it."""
    view = render(workflow, jobs or {}, {child.id: child for child in children})
    return json.loads(msgspec.json.encode(view))


def done(workflow: Workflow, step: int, result: bytes | None = None) -> Workflow:
    member = [*workflow.members, *workflow.callbacks.values()][step]
    outcome = Outcome(
        step=step,
        state="completed",
        at=LATER,
        job_id=member.job_id,
        child_id=member.child_id,
        result=None if result is None else Raw(result),
        started_at=NOW + 1,
    )
    return advance(workflow, [outcome], LATER).workflow


def failed(workflow: Workflow, step: int) -> Workflow:
    member = [*workflow.members, *workflow.callbacks.values()][step]
    outcome = Outcome(step=step, state="failed", at=LATER, job_id=member.job_id, error=BOOM)
    return advance(workflow, [outcome], LATER).workflow


def test_a_new_chain() -> None:
    """C-WF-20, and what the Python and Go clients read: `name`, `steps[].id`, `args`, `depends_on`."""
    step = started({"type": "chain", "name": "orders", "steps": [job("a", args=[1.50]), job("b", name="second")]})
    new = step.inserts[0].job
    assert show(step.workflow, jobs_of(step)) == {
        "id": WORKFLOW_ID,
        "type": "chain",
        "name": "orders",
        "state": "running",
        "steps_total": 2,
        "steps_completed": 0,
        "steps": [
            {
                "index": 0,
                "id": "step-0",
                "type": "a",
                "state": "pending",
                "job_id": new.id,
                "args": [1.50],
                "depends_on": [],
            },
            {
                "index": 1,
                "id": "step-1",
                "name": "second",
                "type": "b",
                "state": "waiting",
                "job_id": None,
                "args": [],
                "depends_on": ["step-0"],
            },
        ],
        "metadata": {
            "created_at": AT_NOW,
            "started_at": AT_NOW,
            "job_count": 2,
            "completed_count": 0,
            "failed_count": 0,
        },
        "created_at": AT_NOW,
        "started_at": AT_NOW,
    }


def test_a_chain_that_failed() -> None:
    """L3-CHN-003: the failed step, its job and its error; `steps_completed` counts successes only."""
    workflow = started({"type": "chain", "steps": [job(), job(), job()]}).workflow
    workflow = failed(done(workflow, 0, b'{"n":1.50}'), 1)
    view = show(workflow)
    assert (view["state"], view["steps_total"], view["steps_completed"]) == ("failed", 3, 1)
    assert [element["state"] for element in view["steps"]] == ["completed", "failed", "cancelled"]
    assert (view["steps"][0]["started_at"], view["steps"][0]["completed_at"]) == ("2026-02-12T10:30:00.001Z", AT_LATER)
    assert view["steps"][1]["error"] == SHOWN_BOOM
    assert view["failed_step_index"] == 1
    assert view["failed_job_ids"] == [workflow.members[1].job_id]
    assert view["errors"] == [{"job_id": workflow.members[1].job_id, "step_id": "step-1", **SHOWN_BOOM}]
    assert (view["completed_at"], view["metadata"]["completed_at"]) == (AT_LATER, AT_LATER)
    assert (view["metadata"]["completed_count"], view["metadata"]["failed_count"]) == (1, 1)
    assert b'"result":{"n":1.50}' in msgspec.json.encode(render(workflow, {}, {}))


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("available", "pending"),
        ("scheduled", "pending"),
        ("pending", "pending"),
        ("retryable", "pending"),
        ("active", "active"),
        ("completed", "completed"),
        ("discarded", "failed"),
        ("cancelled", "cancelled"),
    ],
)
def test_the_state_of_an_element_is_that_of_its_job(state: str, shown: str) -> None:
    """C-WF-19: at once, even before the workflow takes note of it."""
    step = started({"type": "group", "jobs": [job()]})
    jobs = jobs_of(step, state=JobState(state), started_at=NOW + 7, result=Raw(b"1") if state == "completed" else None)
    (element,) = show(step.workflow, jobs)["jobs"]
    assert element["state"] == shown
    assert ("started_at" in element) == (shown != "pending")
    assert ("result" in element) == (shown == "completed")


def test_a_group() -> None:
    """C-WF-20: `jobs*` keys, successes and failures apart."""
    workflow = started({"type": "group", "jobs": [job(), job(), job()]}).workflow
    assert len(open_job_ids(workflow)) == 3
    workflow = failed(done(workflow, 2), 0)
    view = show(workflow)
    assert (view["type"], view["name"], view["state"]) == ("group", None, "running")
    assert (view["jobs_total"], view["jobs_completed"], view["jobs_failed"]) == (3, 1, 1)
    assert [element["id"] for element in view["jobs"]] == ["job-0", "job-1", "job-2"]
    assert not {"steps", "steps_total", "failed_step_index", "callbacks"} & view.keys()
    assert view["failed_job_ids"] == [workflow.members[0].job_id]
    assert open_job_ids(workflow) == (workflow.members[1].job_id,)


def test_a_batch() -> None:
    """C-WF-20: callbacks by name; C-WF-15: a failed one is recorded with its name."""
    callbacks = {"on_complete": job("c"), "on_success": job("s")}
    workflow = started({"type": "batch", "jobs": [job()], "callbacks": callbacks}).workflow
    assert show(workflow)["callbacks"]["on_success"] == {
        "id": "on_success",
        "type": "s",
        "state": "waiting",
        "job_id": None,
        "args": [],
    }
    workflow = failed(done(done(workflow, 0), 2, b"2"), 1)
    view = show(workflow)
    assert (view["state"], view["jobs_total"], view["jobs_completed"], view["jobs_failed"]) == ("failed", 1, 1, 0)
    assert [callback["state"] for callback in view["callbacks"].values()] == ["failed", "completed"]
    assert view["callbacks"]["on_complete"]["job_id"] == workflow.callbacks["on_complete"].job_id
    assert view["callbacks"]["on_success"]["result"] == 2
    assert view["metadata"]["failed_callbacks"] == {"on_complete": SHOWN_BOOM}
    assert view["metadata"]["job_count"] == 1
    assert [error["step_id"] for error in view["errors"]] == ["on_complete"]


def test_steps_with_dependencies() -> None:
    """As in OJS HTTP §14: steps by id, and no `type`, which some clients read as one of three."""
    steps = [{"id": "b", **job(), "depends_on": ["a"]}, {"id": "a", **job()}]
    view = show(started({"name": "w", "steps": steps}).workflow)
    assert "type" not in view
    assert [(element["id"], element["depends_on"], element["state"]) for element in view["steps"]] == [
        ("b", ["a"], "waiting"),
        ("a", [], "pending"),
    ]


class TestCancelled:
    def test_what_became_of_each_element(self) -> None:
        """Q-23f: an active job may finish, and is shown to; C-EP-25: the counts Go and Rust clients read."""
        step = started({"type": "group", "jobs": [job() for _ in range(5)]})
        workflow = cancel(done(step.workflow, 0), LATER).workflow
        states = [None, JobState.CANCELLED, JobState.ACTIVE, JobState.COMPLETED]
        jobs = {
            new.job.id: msgspec.structs.replace(new.job, state=state)
            for new, state in zip(step.inserts, states, strict=False)
            if state is not None
        }
        view = show(workflow, jobs)
        assert [element["state"] for element in view["jobs"]] == [
            "completed",
            "cancelled",
            "active",
            "completed",
            "cancelled",
        ]
        assert (view["state"], view["cancelled_at"], view["completed_at"]) == ("cancelled", AT_LATER, AT_LATER)
        assert (view["steps_cancelled"], view["steps_already_completed"]) == (2, 2)
        assert not {"errors", "failed_job_ids"} & view.keys()
        assert view["metadata"]["failed_count"] == 0

    def test_a_revived_job_is_no_longer_the_workflows(self) -> None:
        step = started({"type": "group", "jobs": [job()]})
        jobs = jobs_of(step, state=JobState.COMPLETED, workflow_id=None, workflow_step=None)
        assert show(cancel(step.workflow, LATER).workflow, jobs)["jobs"][0]["state"] == "cancelled"

    def test_waiting_steps_count(self) -> None:
        """L3-CHN-005."""
        workflow = done(started({"type": "chain", "steps": [job(), job(), job()]}).workflow, 0)
        view = show(cancel(workflow, LATER).workflow)
        assert (view["steps_cancelled"], view["steps_already_completed"], view["steps_completed"]) == (2, 1, 1)


class TestNested:
    DEFINITION = {  # noqa: RUF012 - never changed
        "type": "chain",
        "steps": [{"type": "group", "name": "fan", "jobs": [job(), {"type": "chain", "steps": [job()]}]}, job()],
    }

    def test_a_child_is_shown_in_its_element(self) -> None:
        """C-WF-16: tracked on its own, and visible from outside; C-WF-17: its jobs count."""
        step = started(self.DEFINITION)
        outer, (fan, inner) = step.workflow, step.children
        fan = failed(fan, 0)
        view = show(outer, jobs_of(step, state=JobState.ACTIVE), fan, inner)
        element = view["steps"][0]
        assert child_ids(outer) == (fan.id,)
        assert (element["type"], element["name"], element["state"]) == ("group", "fan", "active")
        assert (element["job_id"], element["workflow_id"]) == (None, fan.id)
        assert "args" not in element
        assert element["workflow"]["parent_workflow_id"] == WORKFLOW_ID
        assert element["workflow"]["parent_step_index"] == 0
        assert element["workflow"]["jobs"][1]["workflow"]["steps"][0]["state"] == "active"
        assert (view["metadata"]["job_count"], view["metadata"]["failed_count"]) == (3, 1)
        assert view["failed_job_ids"] == [fan.members[0].job_id]
        assert [error["job_id"] for error in view["errors"]] == [fan.members[0].job_id]

    def test_its_counts_outlive_it(self) -> None:
        """Once it has ended, the outer workflow knows them."""
        step = started(self.DEFINITION)
        outer, (fan, inner) = step.workflow, step.children
        inner = done(inner, 0, b"1")
        fan = failed(fan, 0)
        fan = advance(fan, [outcome_of_workflow(inner)], LATER).workflow
        for view in (
            show(outer, None, fan, inner),
            show(advance(outer, [outcome_of_workflow(fan)], LATER).workflow),
        ):
            counts = view["metadata"]
            assert (counts["completed_count"], counts["failed_count"]) == (1, 1)
            assert view["steps"][0]["state"] == "failed"
            assert view["steps"][0]["error"]["message"] == "job-0: boom"
        assert view["errors"][0]["workflow_id"] == fan.id
        assert "failed_job_ids" not in view

    def test_a_child_that_is_not_at_hand(self) -> None:
        workflow = started(self.DEFINITION).workflow
        assert show(workflow)["steps"][0]["state"] == "active"
        assert show(cancel(workflow, LATER).workflow)["steps"][0]["state"] == "cancelled"

    def test_a_child_cancelled_with_the_whole(self) -> None:
        step = started(self.DEFINITION)
        fan = cancel(step.children[0], LATER).workflow
        view = show(cancel(step.workflow, LATER).workflow, None, fan)
        assert view["steps"][0]["state"] == "cancelled"
        assert view["metadata"]["failed_count"] == 0
        assert "errors" not in view
