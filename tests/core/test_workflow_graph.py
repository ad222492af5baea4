"""Steps that name what they depend on, as the official clients write them (C-WF-21, Q-23d)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ojs_core.envelope import decode_object, parse_job_request
from ojs_core.errors import InvalidRequestError
from ojs_core.records import Workflow
from ojs_core.workflow import DEPENDENCIES_MAX, NAME_MAX, parse_workflow

NOW = 1_770_892_200_000
WORKFLOW_ID = "019c5186-9a40-7000-8000-000000000001"


def read(*steps: object, **rest: Any) -> Workflow:
    text = json.dumps({"name": "w", "steps": steps, **rest})
    return parse_workflow(*decode_object(text.encode()), NOW, workflow_id=WORKFLOW_ID)


def mistakes(*steps: object) -> dict[str, str]:
    with pytest.raises(InvalidRequestError) as caught:
        read(*steps)
    return {error["path"]: error["message"] for error in caught.value.details["validation_errors"]}


def step(name: str, *depends_on: str, **rest: Any) -> dict[str, Any]:
    return {"id": name, "type": "a.b", "args": [], "depends_on": list(depends_on), **rest}


def triggers(workflow: Workflow) -> list[str]:
    return [member.trigger for member in workflow.members]


class TestReading:
    def test_dependencies_become_positions(self) -> None:
        """The example of OJS HTTP §14.1; a position may lie ahead."""
        workflow = read(step("confirm", "welcome", "profile"), step("welcome"), step("profile", "welcome"))
        assert workflow.kind == "dag"
        assert [member.id for member in workflow.members] == ["confirm", "welcome", "profile"]
        assert [member.depends_on for member in workflow.members] == [(1, 2), (), (1,)]
        assert workflow.job_count == 3

    def test_without_depends_on_a_step_waits_for_nothing(self) -> None:
        """The Java client leaves it out; null is absent, a repetition counts once."""
        bare = {"id": "a", "type": "a.b", "args": []}
        workflow = read(bare, {**bare, "id": "b", "depends_on": None}, step("c", "a", "a", "b"))
        assert [member.depends_on for member in workflow.members] == [(), (), (0, 1)]

    def test_the_job_gets_neither_id_nor_depends_on(self) -> None:
        """They name steps; the id of a job is a UUIDv7 and an unknown attribute would be echoed (C-ENV-21)."""
        workflow = read(step("a", colour="red"), options={"queue": "q"})
        request = parse_job_request(workflow.members[0].definition, NOW)
        assert request.id is None
        assert request.extra is not None
        assert bytes(request.extra) == b'{"colour":"red"}'
        assert request.queue == "q"

    def test_a_step_may_be_a_workflow(self) -> None:
        nested = {"id": "fan", "type": "group", "jobs": [{"type": "a", "args": []}], "depends_on": ["a"]}
        workflow = read(step("a"), nested)
        assert [(member.nested, member.depends_on) for member in workflow.members] == [(False, ()), (True, (0,))]

    @pytest.mark.parametrize(
        ("steps", "path"),
        [
            ([{"type": "a", "args": []}], "steps[0].id"),
            ([step("")], "steps[0].id"),
            ([step("x" * (NAME_MAX + 1))], "steps[0].id"),
            ([{**step("a"), "id": 3}], "steps[0].id"),
            ([step("a"), step("b"), step("a")], "steps[2].id"),
            ([{**step("a"), "depends_on": "b"}], "steps[0].depends_on"),
            ([{**step("a"), "depends_on": [3]}], "steps[0].depends_on"),
            ([step("a"), step("b", "a", "z")], "steps[1].depends_on[1]"),
            ([step("a", "a")], "steps"),
            ([step("a", "c"), step("b", "a"), step("c", "b"), step("d")], "steps"),
            ([step("a"), step("b", "a", options={"callback_type": "on_whim"})], "steps[1].options.callback_type"),
            ([step("a"), step("b", "a", options={"callback_type": 3})], "steps[1].options.callback_type"),
            ([step("a"), step("b", options={"callback_type": "on_complete"})], "steps[1].depends_on"),
            (
                [step("a"), step("b", "a", options={"callback_type": "on_complete"}), step("c", "b")],
                "steps[2].depends_on",
            ),
        ],
    )
    def test_a_bad_graph_is_refused(self, steps: list[Any], path: str) -> None:
        """Cycles, unknown and repeated ids, callbacks that cannot be (C-WF-21: 400)."""
        assert list(mistakes(*steps)) == [path]

    def test_an_element_of_another_kind_is_refused(self) -> None:
        assert list(mistakes(step("a"), 3)) == ["steps[1].id", "steps[1]"]

    def test_a_cycle_is_shown(self) -> None:
        assert mistakes(step("in", "b"), step("b", "c"), step("c", "b"))["steps"].endswith("cycle: b -> c -> b")
        long = [step(f"s{i}", f"s{(i + 1) % 9}") for i in range(9)]
        assert mistakes(*long)["steps"].endswith("s0 -> s1 -> s2 -> s3 -> s4 -> … -> s0")

    def test_the_number_of_dependencies_is_bounded(self) -> None:
        names = [f"s{i}" for i in range(400)]
        first = [step(name) for name in names]
        wide = [step(f"t{i}", *names) for i in range(DEPENDENCIES_MAX // 400 + 1)]
        assert list(mistakes(*first, *wide)) == [f"steps[{400 + len(wide) - 1}].depends_on"]

    def test_a_nested_graph_has_its_own_path(self) -> None:
        inner = {"id": "i", "steps": [step("a", "z")]}
        assert list(mistakes(step("a"), inner)) == ["steps[1].steps[0].depends_on[0]"]


class TestCallbacks:
    def test_callback_type_makes_a_callback(self) -> None:
        """What the Python client's `batch` sends. Elsewhere, and as a default, the option means nothing."""
        workflow = read(
            step("step-0"),
            step("step-1", "step-0"),
            step("on_complete", "step-0", options={"callback_type": "on_complete"}),
            step("good", "step-1", options={"callback_type": "on_success"}),
            step("bad", "step-0", "step-1", options={"callback_type": "on_failure"}),
            options={"callback_type": "on_failure"},
        )
        assert triggers(workflow) == ["success", "success", "complete", "success", "failure"]

    @pytest.mark.parametrize("sign", ["-", "_"])
    def test_the_shape_of_a_batch_makes_callbacks(self, sign: str) -> None:
        """What the Go (`on-failure`) and Java (`on_failure`) clients send for a batch."""
        workflow = read(
            step("job-0"),
            step("job-1"),
            step(f"on{sign}complete", "job-0", "job-1"),
            step(f"on{sign}success", "job-1", "job-0"),
            step(f"on{sign}failure", "job-0", "job-1"),
        )
        assert triggers(workflow) == ["success", "success", "complete", "success", "failure"]

    @pytest.mark.parametrize(
        "steps",
        [
            [step("a"), step("b"), step("on_failure", "a")],
            [step("a"), step("b", "a"), step("on_failure", "a", "b")],
            [step("a"), step("on_complete"), step("on_failure", "a")],
            [step("a"), step("on_complete", "a"), step("on_failure", "a", "on_complete")],
            [step("on_failure")],
        ],
    )
    def test_any_other_shape_is_taken_literally(self, steps: list[Any]) -> None:
        assert set(triggers(read(*steps))) == {"success"}

    def test_a_step_of_a_nested_graph_is_no_callback_of_the_outer_one(self) -> None:
        """The outer step's `options` are defaults of the inner ones, but its role is its own."""
        inner = {
            "id": "bad",
            "steps": [step("x"), step("y", "x")],
            "depends_on": ["a"],
            "options": {"callback_type": "on_failure"},
        }
        workflow = read(step("a"), inner)
        assert triggers(workflow) == ["success", "failure"]
        text = bytes(workflow.members[1].definition)
        assert triggers(parse_workflow(*decode_object(text), NOW, workflow_id=WORKFLOW_ID)) == ["success", "success"]
