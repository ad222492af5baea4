"""Results that the record of a workflow has no room for: left with the jobs, and read where they are handed on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from tests.service.flows import batch, chain, group, job

from ojs_core.backend import NewJob
from ojs_core.envelope import decode_object
from ojs_core.records import Workflow, encode
from ojs_core.testing.clock import NOW
from ojs_core.workflow import (
    RESULTS_MAX_BYTES,
    Advance,
    Outcome,
    advance,
    outcome_of_workflow,
    parse_workflow,
    reissue,
    render,
    start,
)
from ojs_core.workflow import step as step_module
from ojs_core.workflow import view as view_module

WORKFLOW_ID = "019c5186-9a40-7000-8000-000000000001"
TEN = Raw(b'"12345678"')


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """Have records keep, jobs be told, and views show 25 bytes of results."""
    monkeypatch.setattr(step_module, "RESULTS_MAX_BYTES", 25)
    monkeypatch.setattr(step_module, "TOLD_MAX_BYTES", 25)
    monkeypatch.setattr(view_module, "RESULTS_MAX_BYTES", 25)
    return 25


def dag(**steps: list[str]) -> dict[str, Any]:
    return {"steps": [{"id": name, **job(), "depends_on": before} for name, before in steps.items()]}


def started(definition: dict[str, Any]) -> Advance:
    text = json.dumps(definition).encode()
    return start(parse_workflow(*decode_object(text), NOW, workflow_id=WORKFLOW_ID), NOW)


def done(workflow: Workflow, position: int, result: Raw | None = TEN) -> Outcome:
    members = [*workflow.members, *workflow.callbacks.values()]
    return Outcome(step=position, state="completed", at=NOW, job_id=members[position].job_id, result=result)


def move(workflow: Workflow, *outcomes: Outcome, results: dict[int, Raw | None] | None = None) -> Advance:
    return advance(workflow, outcomes, NOW, results=results or {})


def kept(workflow: Workflow) -> list[tuple[bytes | None, int | None]]:
    return [
        (None if member.result is None else bytes(member.result), member.result_bytes) for member in workflow.members
    ]


def told(new: NewJob) -> Any:
    return json.loads(bytes(new.job.parent_results or b""))


def test_a_record_keeps_no_more_than_its_room(limit: int) -> None:
    """Two results of ten bytes, and later a short one: whatever still fits."""
    workflow = started(group(*[job()] * 5)).workflow
    workflow = move(workflow, done(workflow, 0), done(workflow, 1), done(workflow, 2)).workflow
    assert kept(workflow)[:3] == [(bytes(TEN), None)] * 2 + [(None, 10)]
    workflow = move(workflow, done(workflow, 3)).workflow
    step = move(workflow, done(workflow, 4, Raw(b"12345")))
    assert kept(step.workflow)[3:] == [(None, 10), (b"12345", None)]
    assert (step.workflow.state, step.finished) == ("completed", True)
    assert sum(len(text) for text, _ in kept(step.workflow) if text) == limit


def test_a_large_workflow_has_a_record_of_bounded_size() -> None:
    """By the real limit: it keeps 16 of 18 results of a mebibyte."""
    mebibyte = Raw(b'"' + b"x" * (2**20 - 2) + b'"')
    workflow = started(group(*[job()] * 18)).workflow
    for first in range(0, 18, 9):
        workflow = move(
            workflow, *(done(workflow, position, mebibyte) for position in range(first, first + 9))
        ).workflow
    assert workflow.state == "completed"
    assert RESULTS_MAX_BYTES <= len(encode(workflow)) < RESULTS_MAX_BYTES + 100_000
    assert kept(workflow)[15:] == [(bytes(mebibyte), None)] + [(None, 2**20)] * 2


@pytest.mark.usefixtures("limit")
def test_what_starts_at_once_needs_nothing_read() -> None:
    """A result is handed on by the step that brings it, before it is left with its job."""
    workflow = started(dag(a=[], b=[], c=[], after_c=["c"])).workflow
    workflow = move(workflow, done(workflow, 0), done(workflow, 1)).workflow
    step = move(workflow, done(workflow, 2))
    assert step.needs == ()
    assert kept(step.workflow)[2] == (None, 10)
    assert told(step.inserts[0]) == [None, None, "12345678"]


@pytest.fixture
def waiting(limit: int) -> Workflow:  # noqa: ARG001 - by its limit
    """The results of `left` and `c` are left with their jobs; `last` needs the former, and `late`."""
    workflow = started(dag(left=[], late=[], a=[], b=[], c=[], last=["left", "late"])).workflow
    return move(workflow, *(done(workflow, position) for position in (2, 3, 4, 0))).workflow


def test_what_starts_later_asks_for_what_was_left(waiting: Workflow) -> None:
    asking = move(waiting, done(waiting, 1, Raw(b"1")))
    assert (asking.needs, asking.inserts, asking.workflow, asking.changed) == ((0,), (), waiting, False)
    step = move(waiting, done(waiting, 1, Raw(b"1")), results={0: TEN})
    assert step.needs == ()
    assert told(step.inserts[0]) == ["12345678", 1]
    assert kept(step.workflow)[:2] == [(None, 10), (b"1", None)]


def test_a_result_that_is_gone_fails_who_needs_it(waiting: Workflow) -> None:
    step = move(waiting, done(waiting, 1), results={0: None})
    assert (step.needs, step.inserts, step.workflow.state) == ((), (), "failed")
    error = step.workflow.members[5].error
    assert error is not None
    assert error.code == "not_found"
    assert error.message.startswith("The result of 'left' is gone. A workflow keeps 25 bytes of results;")


def test_what_is_too_much_to_hand_on_is_not_read(limit: int) -> None:
    workflow = started(batch(*[job()] * 4, on_complete=job())).workflow
    assert limit < 4 * 10
    step = move(workflow, *(done(workflow, position) for position in range(3)))
    step = move(step.workflow, done(step.workflow, 3))
    assert (step.needs, step.inserts, step.workflow.state) == ((), (), "failed")
    error = step.workflow.callbacks["on_complete"].error
    assert error is not None
    assert error.code == "envelope_too_large"


@pytest.mark.usefixtures("limit")
def test_a_nested_group_that_had_to_leave_results_has_only_a_size() -> None:
    """Its results are more than can be handed on, so the step after it fails; nobody asks for them."""
    step = started(chain(group(*[job()] * 3), job()))
    outer, inner = step.workflow, step.children[0]
    inner = move(inner, *(done(inner, position) for position in range(3))).workflow
    end = outcome_of_workflow(inner)
    assert (end.result, end.result_bytes) == (None, len('["12345678","12345678","12345678"]'))
    step = move(outer, end)
    assert (step.needs, step.inserts, step.workflow.state) == ((), (), "failed")
    error = step.workflow.members[1].error
    assert error is not None
    assert error.code == "envelope_too_large"


@pytest.mark.usefixtures("limit")
def test_a_chain_leaves_nothing() -> None:
    """Its last result is that of the whole chain where it is nested."""
    step = started(chain(job(), job(), job()))
    for position in range(3):
        step = move(step.workflow, done(step.workflow, position, Raw(b'"1234"')))
    assert kept(step.workflow) == [(b'"1234"', None)] * 3
    step = started(chain(chain(job(), job()), job()))
    inner = move(step.children[0], done(step.children[0], 0)).workflow
    inner = move(inner, done(inner, 1, Raw(b'"' + b"x" * 18 + b'"'))).workflow
    step = move(step.workflow, outcome_of_workflow(inner))
    assert told(step.inserts[0]) == ["x" * 18]


def test_lost_jobs_are_made_again_with_what_was_left(waiting: Workflow) -> None:
    step = move(waiting, done(waiting, 1), results={0: TEN})
    again = reissue(step.workflow, [5])
    assert (again.needs, again.inserts) == ((0, 1), ())
    again = reissue(step.workflow, [5], {0: TEN, 1: TEN})
    assert again.inserts == step.inserts


def test_a_view_shows_sizes_of_what_it_has_no_room_for(waiting: Workflow) -> None:
    steps = render(waiting, {}, {})["steps"]
    shown = [(step.get("result"), step.get("result_bytes")) for step in steps]
    assert shown == [(None, 10), (None, None), (TEN, None), (TEN, None), (None, 10), (None, None)]


@pytest.mark.usefixtures("limit")
def test_a_view_has_room_for_all_workflows_in_it_together() -> None:
    """Each record has room for its own results; the answer has not."""
    step = started(group(group(job(), job()), group(job(), job())))
    children = {}
    for child in step.children:
        ended = move(child, done(child, 0), done(child, 1)).workflow
        assert kept(ended) == [(bytes(TEN), None)] * 2
        children[child.id] = ended
    inner = [element["workflow"]["jobs"] for element in render(step.workflow, {}, children)["jobs"]]
    assert ["result" in element for elements in inner for element in elements] == [True, True, False, False]
    assert ["result_bytes" in element for elements in inner for element in elements] == [False, False, True, True]


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[set[int]], list[list[int]]]:
    """Draw what each of some steps waits for, and in which order, and how many together, they end."""
    count = draw(st.integers(2, 7))
    before = [draw(st.sets(st.integers(0, position - 1))) if position else set() for position in range(count)]
    ends: list[list[int]] = [[]]
    left = set(range(count))
    while left:
        able = sorted(position for position in left if not before[position] & (left | set(ends[-1])))
        if not able or (ends[-1] and draw(st.booleans())):
            ends.append([])
            continue
        position = draw(st.sampled_from(able))
        ends[-1].append(position)
        left.remove(position)
    return before, ends


@given(runs(), st.integers(0, 60))
def test_the_room_changes_nothing_but_the_record(run: tuple[list[set[int]], list[list[int]]], room: int) -> None:
    """With results read where they are asked for, the same jobs start with the same results."""
    before, ends = run
    definition = dag(**{f"s{position}": [f"s{one}" for one in sorted(ones)] for position, ones in enumerate(before)})
    free = tight = started(definition)
    texts = {position: Raw(b'"' + b"x" * position * 3 + b'"') for position in range(len(before))}
    for together in ends:
        free = move(free.workflow, *(done(free.workflow, position, texts[position]) for position in together))
        assert free.needs == ()
        outcomes = [done(tight.workflow, position, texts[position]) for position in together]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step_module, "RESULTS_MAX_BYTES", room)
            step = move(tight.workflow, *outcomes)
            if step.needs:
                step = move(tight.workflow, *outcomes, results={needed: texts[needed] for needed in step.needs})
        tight = step
        assert tight.needs == ()
        assert tight.inserts == free.inserts
        assert sum(len(text) for text, _ in kept(tight.workflow) if text) <= room
    assert tight.workflow.state == "completed"
