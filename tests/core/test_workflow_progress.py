"""What follows from the start of a workflow, the end of its members and a cancel."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
import pytest
from msgspec import Raw
from tests.service.flows import batch, chain, group, job

from ojs_core.backend import Conflict
from ojs_core.envelope import decode_object
from ojs_core.errors import StateConflictError
from ojs_core.ids import is_uuid7
from ojs_core.job import JobError
from ojs_core.records import Member, Workflow
from ojs_core.workflow import (
    Advance,
    Outcome,
    advance,
    cancel,
    outcome_of_workflow,
    parse_workflow,
    refusal,
    reissue,
    start,
)
from ojs_core.workflow import step as step_module

NOW = 1_770_892_200_000
LATER = NOW + 5_000
WORKFLOW_ID = "019c5186-9a40-7000-8000-000000000001"
JOB_ID = "019c5186-9a40-7000-8000-00000000000a"
BOOM = JobError(type="handler_error", code="handler_error", message="boom", attempt=3, occurred_at=LATER)
TAKEN = JobError(type="duplicate", code="duplicate", message="taken", attempt=0, occurred_at=NOW)


def dag(**steps: list[str]) -> dict[str, Any]:
    return {"steps": [{"id": name, **job(), "depends_on": before} for name, before in steps.items()]}


def read(definition: dict[str, Any], workflow_id: str = WORKFLOW_ID) -> Workflow:
    return parse_workflow(*decode_object(json.dumps(definition).encode()), NOW, workflow_id=workflow_id)


def started(definition: dict[str, Any]) -> Advance:
    return start(read(definition), NOW)


def members(workflow: Workflow) -> list[Member]:
    return [*workflow.members, *workflow.callbacks.values()]


def outcome(
    workflow: Workflow,
    step: int,
    state: Literal["completed", "failed", "cancelled"],
    **rest: Any,
) -> Outcome:
    member = members(workflow)[step]
    return Outcome(step=step, state=state, at=LATER, job_id=member.job_id, child_id=member.child_id, **rest)


def done(workflow: Workflow, step: int, result: object = None) -> Outcome:
    raw = None if result is None else Raw(json.dumps(result).encode())
    return outcome(workflow, step, "completed", result=raw, started_at=LATER - 1_200)


def failed(workflow: Workflow, step: int) -> Outcome:
    return outcome(workflow, step, "failed", error=BOOM)


def move(step: Advance, *outcomes: Outcome) -> Advance:
    return advance(step.workflow, outcomes, LATER)


def states(workflow: Workflow) -> list[str]:
    return [member.state for member in members(workflow)]


def inserted(step: Advance) -> list[int | None]:
    return [new.job.workflow_step for new in step.inserts]


def told(step: Advance, index: int = 0) -> Any:
    """Return the parent results of an inserted job."""
    results = step.inserts[index].job.parent_results
    assert results is not None
    return json.loads(bytes(results))


def event_types(step: Advance) -> list[str]:
    return [event.type.removeprefix("workflow.") for event in step.events]


def facts(step: Advance, index: int = -1) -> dict[str, Any]:
    data = json.loads(bytes(step.events[index].data))
    assert isinstance(data, dict)
    return data


class TestChain:
    def test_only_the_first_step_is_enqueued(self) -> None:
        """C-WF-07."""
        step = started(chain(job("a"), job("b"), job("c"), name="orders"))
        assert states(step.workflow) == ["pending", "waiting", "waiting"]
        assert (step.workflow.started_at, step.workflow.completed_at, step.workflow.version) == (NOW, None, 0)
        assert (step.changed, step.finished, step.children) == (True, False, ())
        new = step.inserts[0].job
        assert inserted(step) == [0]
        assert (new.type, new.workflow_id, new.workflow_step, new.state) == ("a", WORKFLOW_ID, 0, "available")
        assert step.workflow.members[0].job_id == new.id
        assert step.workflow.members[0].enqueued_at == NOW
        assert told(step) == []

    def test_the_next_step_follows_a_success(self) -> None:
        """C-WF-07, C-WF-09, C-WF-10: with all results so far, at their positions."""
        step = started(chain(job("a"), job("b"), job("c"), job("d")))
        step = move(step, done(step.workflow, 0, {"n": 1}))
        assert inserted(step) == [1]
        assert told(step) == [{"n": 1}]
        step = move(step, done(step.workflow, 1))
        assert told(step) == [{"n": 1}, None]
        step = move(step, done(step.workflow, 2, 0))
        assert told(step) == [{"n": 1}, None, 0]
        step = move(step, done(step.workflow, 3, "end"))
        assert (step.inserts, step.finished, step.workflow.state) == ((), True, "completed")
        assert step.workflow.completed_at == LATER
        assert bytes(step.workflow.members[3].result or b"") == b'"end"'
        assert (step.workflow.members[0].started_at, step.workflow.members[0].completed_at) == (LATER - 1_200, LATER)

    def test_it_stops_at_a_failure(self) -> None:
        """C-WF-08."""
        step = started(chain(job(), job(), job(), job()))
        step = move(step, done(step.workflow, 0))
        step = move(step, failed(step.workflow, 1))
        assert states(step.workflow) == ["completed", "failed", "cancelled", "cancelled"]
        assert (step.inserts, step.finished, step.workflow.state) == ((), True, "failed")
        assert step.workflow.members[1].error == BOOM
        assert step.workflow.members[2].error is None
        assert step.workflow.completed_at == LATER

    def test_a_step_cancelled_on_its_own_fails_it(self) -> None:
        """C-WF-06, Q-23f."""
        step = started(chain(job(), job()))
        step = move(step, outcome(step.workflow, 0, "cancelled"))
        assert (states(step.workflow), step.workflow.state) == (["cancelled", "cancelled"], "failed")
        error = step.workflow.members[0].error
        assert error is not None
        assert error.code == "cancelled"

    def test_a_single_step(self) -> None:
        """L3-CHN-004."""
        step = started(chain(job()))
        step = move(step, done(step.workflow, 0))
        assert (step.workflow.state, event_types(step)) == ("completed", ["step_completed", "completed"])

    def test_a_later_step_counts_its_times_from_its_own_start(self) -> None:
        """C-WF-05: a schedule relative to the enqueue is relative to this one."""
        step = started(chain(job(), job(options={"scheduled_at": "+PT10S"})))
        step = move(step, done(step.workflow, 0))
        assert (step.inserts[0].job.state, step.inserts[0].job.scheduled_at) == ("scheduled", LATER + 10_000)
        assert step.inserts[0].job.created_at == LATER


class TestGroup:
    def test_all_jobs_are_enqueued_in_order(self) -> None:
        """C-WF-11, C-WF-12."""
        step = started(group(*[job() for _ in range(20)]))
        assert inserted(step) == list(range(20))
        assert set(states(step.workflow)) == {"pending"}

    def test_a_failure_leaves_the_others_alone(self) -> None:
        """C-WF-11: failed only when all have ended."""
        step = started(group(job(), job(), job()))
        step = move(step, failed(step.workflow, 1))
        assert (step.workflow.state, step.finished) == ("running", False)
        assert states(step.workflow) == ["pending", "failed", "pending"]
        step = move(step, done(step.workflow, 2), done(step.workflow, 0))
        assert (step.workflow.state, step.finished) == ("failed", True)
        assert states(step.workflow) == ["completed", "failed", "completed"]

    def test_it_completes_when_all_did(self) -> None:
        step = started(group(job(), job()))
        step = move(step, done(step.workflow, 1, 2), done(step.workflow, 0, 1))
        steps = ["step_completed", "job_completed"] * 2
        assert (step.workflow.state, event_types(step)) == ("completed", [*steps, "completed"])
        assert [bytes(member.result or b"") for member in step.workflow.members] == [b"1", b"2"]


class TestOutcomes:
    def test_an_outcome_counts_once(self) -> None:
        """The state is a set of outcomes: a repetition, even another verdict, changes nothing."""
        step = started(group(job(), job()))
        once = move(step, done(step.workflow, 0, 1))
        for again in (done(once.workflow, 0, 2), failed(once.workflow, 0)):
            assert move(once, again) == Advance(workflow=once.workflow)
        both = move(step, done(step.workflow, 0, 1), failed(step.workflow, 0))
        assert both == once

    def test_an_outcome_of_something_else_does_not_count(self) -> None:
        step = started(chain(job(), job()))
        mine = done(step.workflow, 0)
        for stray in (
            msgspec.structs.replace(mine, step=1),
            msgspec.structs.replace(mine, step=2),
            msgspec.structs.replace(mine, step=-1),
            msgspec.structs.replace(mine, job_id=JOB_ID),
            msgspec.structs.replace(mine, child_id=JOB_ID),
            Outcome(step=1, state="completed", at=LATER),
        ):
            assert not move(step, stray).changed

    def test_nothing_moves_what_has_ended(self) -> None:
        """C-WF-18: a cancel that came first wins."""
        step = started(chain(job(), job()))
        cancelled = cancel(step.workflow, NOW).workflow
        assert advance(cancelled, [done(step.workflow, 0)], LATER) == Advance(workflow=cancelled)

    def test_no_outcome_no_change(self) -> None:
        step = started(chain(job()))
        assert move(step) == Advance(workflow=step.workflow)

    def test_a_second_start_changes_nothing(self) -> None:
        step = started(chain(job()))
        assert start(step.workflow, LATER) == Advance(workflow=step.workflow)

    def test_the_same_decision_twice_is_the_same(self) -> None:
        """So that repeating it after a crash makes the same ids, and nothing twice."""
        definition = batch(job(), chain(job(), job()), on_complete=job())
        first, second = started(definition), started(definition)
        assert first == second
        ids = [new.job.id for new in first.inserts] + [child.id for child in first.children]
        assert len(set(ids)) == 3
        assert all(is_uuid7(each) for each in ids)
        later = start(read(definition), LATER)
        assert [new.job.id for new in later.inserts] == [new.job.id for new in first.inserts]
        other = start(read(definition, JOB_ID), NOW)
        assert not {new.job.id for new in other.inserts} & {new.job.id for new in first.inserts}

    def test_a_client_id_is_the_job_id(self) -> None:
        step = started(chain(job(id=JOB_ID)))
        assert step.workflow.members[0].job_id == step.inserts[0].job.id == JOB_ID


class TestBatch:
    @pytest.mark.parametrize(
        ("fails", "defined", "fired"),
        [
            (False, ["on_complete", "on_success", "on_failure"], ["on_complete", "on_success"]),
            (True, ["on_complete", "on_success", "on_failure"], ["on_complete", "on_failure"]),
            (False, ["on_success"], ["on_success"]),
            (True, ["on_failure"], ["on_failure"]),
            (True, ["on_complete"], ["on_complete"]),
            (False, ["on_complete", "on_failure"], ["on_complete"]),
        ],
    )
    def test_the_callbacks_that_fire(self, *, fails: bool, defined: list[str], fired: list[str]) -> None:
        """C-WF-13 and the matrix of OJS workflows §6.5; C-WF-14: with the results of all jobs by position."""
        step = started(batch(job(), job(), job(), **{name: job(name) for name in reversed(defined)}))
        assert inserted(step) == [0, 1, 2]
        last = failed(step.workflow, 1) if fails else done(step.workflow, 1)
        step = move(step, done(step.workflow, 2, "c"), done(step.workflow, 0, "a"))
        assert step.inserts == ()
        step = move(step, last)
        assert [new.job.type for new in step.inserts] == fired
        assert (step.workflow.state, step.finished) == ("running", False)
        for index, new in enumerate(step.inserts):
            assert told(step, index) == ["a", None, "c"]
            name = members(step.workflow)[new.job.workflow_step or 0].id
            assert name == new.job.type
            assert step.workflow.callbacks[name].job_id == new.job.id
        skipped = [member for name, member in step.workflow.callbacks.items() if name not in fired]
        assert {(member.state, member.error, member.job_id) for member in skipped} <= {("cancelled", None, None)}
        for new in step.inserts:
            assert new.job.workflow_step is not None
            step = move(step, done(step.workflow, new.job.workflow_step))
        assert (step.workflow.state, step.finished) == ("completed", True)

    def test_a_failed_callback_fails_it(self) -> None:
        """C-WF-15: with the callback's name, whether or not its jobs failed."""
        for first in (done, failed):
            step = started(batch(job(), on_complete=job("c"), on_success=job("s"), on_failure=job("f")))
            step = move(step, first(step.workflow, 0))
            assert len(step.inserts) == 2
            step = move(step, failed(step.workflow, 1))
            assert step.workflow.state == "running"
            assert step.inserts == ()
            pending = states(step.workflow).index("pending")
            step = move(step, done(step.workflow, pending))
            assert (step.workflow.state, facts(step)["failed_step_id"]) == ("failed", "on_complete")

    def test_a_failed_callback_is_the_reason(self) -> None:
        """It was told of the failed job, so what fails the batch is its own failure."""
        step = started(batch(job(), on_complete=job()))
        step = move(step, failed(step.workflow, 0))
        step = move(step, failed(step.workflow, 1))
        assert (step.workflow.state, facts(step)["failed_step_id"]) == ("failed", "on_complete")

    def test_a_failure_nobody_is_told_of_fails_it(self) -> None:
        """Q-23c: only `on_success` is defined."""
        step = started(batch(job(), job(), on_success=job()))
        step = move(step, failed(step.workflow, 0), done(step.workflow, 1))
        assert (step.workflow.state, step.finished, step.inserts) == ("failed", True, ())
        assert facts(step)["failed_step_id"] == "job-0"

    def test_success_with_only_on_failure_completes_it(self) -> None:
        """Q-23c."""
        step = started(batch(job(), on_failure=job()))
        step = move(step, done(step.workflow, 0))
        assert (step.workflow.state, step.finished, step.inserts) == ("completed", True, ())

    def test_callbacks_keep_their_options(self) -> None:
        """C-WF-14."""
        step = started(batch(job(), on_complete=job(options={"queue": "reports", "retry": {"max_attempts": 5}})))
        step = move(step, done(step.workflow, 0))
        assert (step.inserts[0].job.queue, step.inserts[0].job.retry.max_attempts) == ("reports", 5)

    def test_positions_do_not_depend_on_the_order_of_keys(self) -> None:
        """A store may give an object's keys back in another order."""
        step = started(batch(job(), on_complete=job("c"), on_failure=job("f")))
        turned = msgspec.structs.replace(step.workflow, callbacks=dict(reversed(list(step.workflow.callbacks.items()))))
        after = advance(turned, [failed(turned, 0)], LATER)
        assert [(new.job.type, new.job.workflow_step) for new in after.inserts] == [("c", 1), ("f", 2)]


class TestGraph:
    def test_a_step_starts_when_all_it_waits_for_completed(self) -> None:
        """C-WF-21: a diamond; results at their positions, those of steps not before it null."""
        step = started(dag(d=["b", "c"], a=[], b=["a"], x=[], c=["a"]))
        assert inserted(step) == [1, 3]
        step = move(step, done(step.workflow, 3, "x"), done(step.workflow, 1, "a"))
        assert inserted(step) == [2, 4]
        assert told(step, 0) == told(step, 1) == [None, "a"]
        step = move(step, done(step.workflow, 4, "c"))
        assert inserted(step) == []
        step = move(step, done(step.workflow, 2, "b"))
        assert inserted(step) == [0]
        assert told(step) == [None, "a", "b", None, "c"]
        step = move(step, done(step.workflow, 0))
        assert step.workflow.state == "completed"

    def test_the_way_back_may_meet_itself(self) -> None:
        """A step named twice on the way, directly and through another, counts once."""
        step = started(dag(a=[], b=["a"], c=["b"], x=[], d=["b", "c"]))
        for position in (0, 1, 2):
            step = move(step, done(step.workflow, position, position))
        assert told(step) == [0, 1, 2]

    def test_a_line_is_told_what_a_chain_is_told(self) -> None:
        """The Python and Go clients send a chain so."""
        line, real = started(dag(a=[], b=["a"], c=["b"])), started(chain(job(), job(), job()))
        for number, result in enumerate([{"n": 1}, None]):
            line, real = (move(each, done(each.workflow, number, result)) for each in (line, real))
            assert told(line) == told(real)

    def test_a_failure_cancels_what_depends_on_it(self) -> None:
        """Directly or not; independent branches go on, and the end waits for them."""
        step = started(dag(far=["near"], a=[], near=["a"], b=[], c=["b"]))
        step = move(step, failed(step.workflow, 1))
        assert states(step.workflow) == ["cancelled", "failed", "cancelled", "pending", "waiting"]
        assert step.workflow.state == "running"
        step = move(step, done(step.workflow, 3))
        assert inserted(step) == [4]
        step = move(step, done(step.workflow, 4))
        assert (step.workflow.state, facts(step)["failed_step_id"]) == ("failed", "a")

    def test_a_join_is_cancelled_once(self) -> None:
        step = started(dag(a=[], b=[], join=["a", "b"], after=["join"]))
        step = move(step, failed(step.workflow, 0))
        assert states(step.workflow) == ["failed", "pending", "cancelled", "cancelled"]
        step = move(step, failed(step.workflow, 1))
        assert (step.workflow.state, facts(step)["failed_step_id"]) == ("failed", "a")

    @pytest.mark.parametrize("fails", [False, True])
    def test_callbacks_of_the_official_clients(self, *, fails: bool) -> None:
        """A batch written as steps does what a batch does (Q-23c), whichever client wrote it."""
        names = ["job-0", "job-1"]
        go = dag(**{"job-0": [], "job-1": [], "on-complete": names, "on-success": names, "on-failure": names})
        python = {
            "steps": [
                *go["steps"][:2],
                *(
                    {"id": name, **job(), "depends_on": names, "options": {"callback_type": name}}
                    for name in ("on_complete", "on_success", "on_failure")
                ),
            ]
        }
        for definition in (go, python):
            step = started(definition)
            assert inserted(step) == [0, 1]
            step = move(step, failed(step.workflow, 0) if fails else done(step.workflow, 0, "a"))
            assert inserted(step) == []
            step = move(step, done(step.workflow, 1, "b"))
            assert inserted(step) == ([2, 4] if fails else [2, 3])
            assert told(step) == [None if fails else "a", "b"]
            step = move(step, *(done(step.workflow, position) for position in (2, 4 if fails else 3)))
            assert step.workflow.state == "completed"

    def test_a_failure_no_callback_waited_for_fails_it(self) -> None:
        steps = dag(a=[], b=[], told=["a"])["steps"]
        steps[2]["options"] = {"callback_type": "on_failure"}
        step = started({"steps": steps})
        step = move(step, failed(step.workflow, 0), failed(step.workflow, 1))
        assert inserted(step) == [2]
        step = move(step, done(step.workflow, 2))
        assert (step.workflow.state, facts(step)["failed_step_id"]) == ("failed", "b")

    def test_a_callback_waits_for_those_that_were_cancelled_too(self) -> None:
        steps = dag(a=[], b=["a"], told=["b"])["steps"]
        steps[2]["options"] = {"callback_type": "on_complete"}
        step = started({"steps": steps})
        step = move(step, failed(step.workflow, 0))
        assert states(step.workflow) == ["failed", "cancelled", "pending"]

    def test_a_callback_remembers_an_early_failure(self) -> None:
        """It fires steps later, when the last of those it waits for ends."""
        steps = dag(a=[], b=[], told=["a", "b"])["steps"]
        steps[2]["options"] = {"callback_type": "on_failure"}
        step = started({"steps": steps})
        step = move(step, failed(step.workflow, 0))
        assert inserted(step) == []
        step = move(step, done(step.workflow, 1))
        assert inserted(step) == [2]


class TestNesting:
    def test_a_nested_workflow_starts_in_its_turn(self) -> None:
        """C-WF-16, C-WF-17: a group step's jobs all get the chain's results."""
        step = started(chain(job(), group(job("x"), job("y"), name="fan"), job("z")))
        assert step.children == ()
        step = move(step, done(step.workflow, 0, {"report": 1}))
        (child,) = step.children
        member = step.workflow.members[1]
        assert (child.id, child.parent_id, child.parent_step) == (member.child_id, WORKFLOW_ID, 1)
        assert (child.name, child.kind, child.state) == ("fan", "group", "running")
        assert (child.created_at, child.started_at) == (NOW, LATER)
        assert [new.job.type for new in step.inserts] == ["x", "y"]
        assert {new.job.workflow_id for new in step.inserts} == {child.id}
        assert told(step, 0) == told(step, 1) == [{"report": 1}]
        assert (member.state, member.job_id) == ("pending", None)
        assert event_types(step) == ["step_completed", "started"]

        inner = advance(child, [done(child, 1, "y"), done(child, 0, "x")], LATER)
        assert inner.finished
        outer = move(step, outcome_of_workflow(inner.workflow))
        assert told(outer) == [{"report": 1}, ["x", "y"]]
        assert (outer.workflow.members[1].completed_count, outer.workflow.members[1].started_at) == (2, LATER)

    def test_results_of_each_kind(self) -> None:
        """C-WF-17: of a chain the last step's, of anything else the array of all; callbacks left out."""
        for definition, expected in (
            (chain(job(), job()), "r1"),
            (group(job(), job()), ["r0", "r1"]),
            (batch(job(), job(), on_complete=job()), ["r0", "r1"]),
            (dag(a=[], b=["a"]), ["r0", "r1"]),
        ):
            outer = started(group(definition))
            child = outer.children[0]
            position = 0
            while child.state == "running":
                child = advance(child, [done(child, position, f"r{position}")], LATER).workflow
                position += 1
            result = outcome_of_workflow(child).result
            assert result is not None
            assert json.loads(bytes(result)) == expected
            assert move(outer, outcome_of_workflow(child)).workflow.state == "completed"

    def test_a_nested_failure_is_the_elements_failure(self) -> None:
        """C-WF-16."""
        step = started(chain(group(job(), job()), job()))
        child = step.children[0]
        child = advance(child, [done(child, 0, 1), failed(child, 1)], LATER).workflow
        verdict = outcome_of_workflow(child)
        assert (verdict.state, verdict.result, verdict.completed_count, verdict.failed_count) == ("failed", None, 1, 1)
        step = move(step, verdict)
        assert (step.workflow.state, states(step.workflow)) == ("failed", ["failed", "cancelled"])
        error = step.workflow.members[0].error
        assert error is not None
        assert (error.code, error.message, error.attempt) == ("handler_error", "job-1: boom", 3)

    def test_a_nested_workflow_cancelled_on_its_own_counts_as_failed(self) -> None:
        step = started(group(chain(job(), job())))
        child = cancel(step.children[0], LATER).workflow
        step = move(step, outcome_of_workflow(child))
        assert (step.workflow.state, states(step.workflow)) == ("failed", ["cancelled"])

    def test_three_levels_start_at_once(self) -> None:
        """Each first job is enqueued in array order, at any depth, and told what the outermost was told: nothing."""
        step = started(group(job("a"), chain(group(job("b"), job("c")), job("e")), job("d")))
        assert [new.job.type for new in step.inserts] == ["a", "b", "c", "d"]
        assert [child.kind for child in step.children] == ["chain", "group"]
        assert step.children[1].parent_id == step.children[0].id
        assert all(told(step, index) == [] for index in range(4))
        assert event_types(step) == ["created", *["started"] * 3]
        assert facts(step)["parent_workflow_id"] == step.children[0].id

    def test_only_ended_children_have_an_outcome(self) -> None:
        step = started(group(chain(job())))
        with pytest.raises(ValueError, match="is running"):
            outcome_of_workflow(step.children[0])
        top = cancel(step.workflow, NOW).workflow
        with pytest.raises(ValueError, match="at step None"):
            outcome_of_workflow(top)


class TestCancel:
    def test_what_was_not_started_is_cancelled(self) -> None:
        """C-WF-18, Q-23f: jobs under way are the caller's to cancel, if they are not active."""
        step = started(batch(job(), chain(job()), job(), on_complete=job()))
        step = move(step, done(step.workflow, 0))
        cancelled = cancel(step.workflow, LATER)
        assert states(cancelled.workflow) == ["completed", "pending", "pending", "cancelled"]
        assert (cancelled.workflow.state, cancelled.workflow.cancelled_at) == ("cancelled", LATER)
        assert cancelled.workflow.completed_at == LATER
        assert cancelled.job_ids == (step.workflow.members[2].job_id,)
        assert cancelled.child_ids == (step.workflow.members[1].child_id,)
        (event,) = cancelled.events
        assert (event.type, event.subject) == ("workflow.cancelled", WORKFLOW_ID)
        data = json.loads(bytes(event.data))
        assert (data["total_steps"], data["steps_completed"], data["duration_ms"]) == (3, 1, 5_000)

    def test_only_what_runs_can_be_cancelled(self) -> None:
        """C-WF-18: 409."""
        step = started(chain(job()))
        for ended in (
            move(step, done(step.workflow, 0)).workflow,
            move(step, failed(step.workflow, 0)).workflow,
            cancel(step.workflow, NOW).workflow,
        ):
            with pytest.raises(StateConflictError, match=f"already {ended.state}") as caught:
                cancel(ended, LATER)
            assert caught.value.details["current_state"] == ended.state


class TestTrouble:
    def test_a_refused_job_fails_its_member(self) -> None:
        """A later step's id or unique policy may collide: the step counts as failed with the code `duplicate`."""
        before = started(chain(job(), job(id=JOB_ID), job()))
        step = move(before, done(before.workflow, 0))
        assert [new.job.id for new in step.inserts] == [JOB_ID]
        again = advance(before.workflow, [done(before.workflow, 0)], LATER, refused={JOB_ID: TAKEN})
        assert (again.inserts, again.finished, again.workflow.state) == ((), True, "failed")
        assert states(again.workflow) == ["completed", "failed", "cancelled"]
        assert (again.workflow.members[1].error, again.workflow.members[1].job_id) == (TAKEN, None)

    def test_a_refused_callback_fails_the_batch(self) -> None:
        before = started(batch(job(), on_complete=job(id=JOB_ID), on_failure=job()))
        again = advance(before.workflow, [failed(before.workflow, 0)], LATER, refused={JOB_ID: TAKEN})
        assert inserted(again) == [2]
        after = move(again, done(again.workflow, 2))
        assert (after.workflow.state, facts(after)["failed_step_id"]) == ("failed", "on_complete")

    def test_refusals_are_followed_to_their_end(self) -> None:
        """In nested workflows too, whatever they lead to."""
        workflow = read(batch(chain(group(job(id=JOB_ID)), job()), on_failure=job("f")))
        step = start(workflow, NOW, refused={JOB_ID: TAKEN})
        assert [new.job.type for new in step.inserts] == ["f"]
        assert [child.state for child in step.children] == ["failed", "failed"]
        error = step.workflow.members[0].error
        assert error is not None
        assert error.message == "step-0: job-0: taken"
        inner = ["started", "step_failed", "started", "job_failed", "failed", "failed"]
        assert event_types(step) == ["created", "started", "job_failed", "callback_fired", *inner]

    def test_what_became_impossible_fails(self) -> None:
        """A relative time can run past the last year; the member fails instead of stopping the workflow."""
        late = job(options={"scheduled_at": "+P90Y"})
        for element in (late, chain(job(), late)):
            step = started(chain(job(), element, job()))
            much_later = 253_402_300_799_000 - 1
            step = advance(step.workflow, [done(step.workflow, 0)], much_later)
            assert (step.workflow.state, states(step.workflow)) == ("failed", ["completed", "failed", "cancelled"])
            error = step.workflow.members[1].error
            assert error is not None
            assert error.code == "invalid_request"

    def test_results_that_are_too_much_to_hand_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is told to the jobs that start together is bounded, in nested workflows too; who gets no more fails."""
        monkeypatch.setattr(step_module, "HANDED_MAX_BYTES", 350)
        step = started(chain(job(), group(*[job() for _ in range(5)])))
        # 102 bytes with its quotes and brackets: for the nested workflow, and for two of its jobs.
        step = move(step, done(step.workflow, 0, "x" * 98))
        assert states(step.children[0]) == ["pending", "pending", "failed", "failed", "failed"]
        assert [len(bytes(new.job.parent_results or b"")) for new in step.inserts] == [102, 102]
        error = step.children[0].members[2].error
        assert error is not None
        assert error.code == "envelope_too_large"

    def test_the_meaning_of_a_conflict(self) -> None:
        new = started(chain(job())).inserts[0]
        stranger = msgspec.structs.replace(new.job, workflow_id=None)
        assert refusal(new, Conflict(kind="id", index=0, job=new.job), NOW) is None
        for conflict, text in (
            (Conflict(kind="id", index=0, job=stranger), f"Its id is taken by job {new.job.id}."),
            (Conflict(kind="id", index=0), "Its id is taken by another job."),
            (Conflict(kind="hold", index=0, job=new.job), f"Its unique policy forbids it beside job {new.job.id}."),
            (Conflict(kind="hold", index=0), "Its unique policy forbids it beside another job."),
        ):
            error = refusal(new, conflict, NOW)
            assert error is not None
            assert (error.code, error.occurred_at) == ("duplicate", NOW)
            assert error.message.endswith(text)

    def test_lost_jobs_are_made_again(self) -> None:
        """As they were, times included, for a store that writes the workflow first."""
        step = started(chain(job(), group(job(options={"scheduled_at": "+PT10S"}), job()), job()))
        step = move(step, done(step.workflow, 0, 1))
        again = reissue(step.workflow, [0, 1, 2])
        assert (again.inserts, again.children) == (step.inserts, step.children)
        assert (again.workflow, again.events, again.changed) == (step.workflow, (), False)
        child = step.children[0]
        assert reissue(child, [1]).inserts == step.inserts[1:]
        assert reissue(child, []).inserts == ()


class TestEvents:
    def test_what_each_carries(self) -> None:
        """C-WF-22 and the table of C-EVT-03."""
        step = started(chain(job("a"), job("b"), name="orders"))
        common = {"workflow_id": WORKFLOW_ID, "workflow_name": "orders", "workflow_type": "chain"}
        assert event_types(step) == ["created", "started"]
        assert facts(step, 0) == facts(step) == {**common, "total_steps": 2, "timestamp": "2026-02-12T10:30:00.000Z"}
        assert (step.events[0].subject, step.events[0].at) == (WORKFLOW_ID, NOW)

        step = move(step, done(step.workflow, 0))
        assert event_types(step) == ["step_completed"]
        first = facts(step)
        assert {key: first[key] for key in ("step_id", "step_index", "step_type")} == {
            "step_id": "step-0",
            "step_index": 0,
            "step_type": "a",
        }
        assert (first["duration_ms"], first["steps_remaining"]) == (1_200, 1)
        assert first["job_id"] == step.workflow.members[0].job_id

        completed = move(step, done(step.workflow, 1))
        assert event_types(completed) == ["step_completed", "completed"]
        assert facts(completed, 0)["steps_remaining"] == 0
        assert (facts(completed)["total_steps"], facts(completed)["duration_ms"]) == (2, 5_000)

        ended = move(step, failed(step.workflow, 1))
        assert event_types(ended) == ["step_failed", "failed"]
        assert (facts(ended, 0)["step_id"], facts(ended, 0)["error"]["message"]) == ("step-1", "boom")
        data = facts(ended)
        assert (data["failed_step_id"], data["failed_step_type"], data["failed_step_index"]) == ("step-1", "b", 1)
        assert data["error"] == {"code": "handler_error", "type": "handler_error", "message": "boom"}

    def test_several_completions_count_down(self) -> None:
        step = started(batch(job(), job(), job(), job(), on_complete=job()))
        assert facts(step)["workflow_name"] == ""
        step = move(step, done(step.workflow, 2), failed(step.workflow, 0), done(step.workflow, 1))
        assert event_types(step) == ["step_completed", "job_completed", "job_failed", "step_completed", "job_completed"]
        assert [facts(step, index)["steps_remaining"] for index in range(5)] == [4, 4, 3, 2, 2]

    def test_a_callback_fires(self) -> None:
        """Its event tells which, once, when its job is enqueued."""
        step = started(batch(job(), on_success=job("s"), on_failure=job("f"), on_complete=job("c")))
        step = move(step, failed(step.workflow, 0))
        fired = [event for event in step.events if event.type == "workflow.callback_fired"]
        data = [json.loads(bytes(event.data)) for event in fired]
        assert [(one["callback"], one["step_type"]) for one in data] == [("on_complete", "c"), ("on_failure", "f")]
        assert [one["job_id"] for one in data] == [new.job.id for new in step.inserts]

    def test_without_a_start_the_enqueue_counts(self) -> None:
        step = started(chain(job()))
        step = move(step, outcome(step.workflow, 0, "completed"))
        assert facts(step, 0)["duration_ms"] == 5_000
