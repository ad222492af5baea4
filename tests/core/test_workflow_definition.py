"""Reading workflow definitions: what is accepted, what is refused and where, what each element keeps."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from ojs_core.envelope import decode_object, parse_job_request
from ojs_core.errors import EnvelopeTooLargeError, InvalidRequestError, UnsupportedError
from ojs_core.records import Workflow, decode_workflow, encode
from ojs_core.workflow import DEFINITION_MAX_BYTES, MEMBERS_MAX, NAME_MAX, WORKFLOW_DEPTH_MAX, parse_workflow, start

NOW = 1_770_892_200_000
WORKFLOW_ID = "019c5186-9a40-7000-8000-000000000001"
JOB_ID = "019c5186-9a40-7000-8000-00000000000a"


def read(definition: dict[str, Any] | str) -> Workflow:
    text = definition if isinstance(definition, str) else json.dumps(definition)
    return parse_workflow(*decode_object(text.encode()), NOW, workflow_id=WORKFLOW_ID)


def mistakes(definition: dict[str, Any]) -> dict[str, str]:
    """Return message by path."""
    with pytest.raises(InvalidRequestError) as caught:
        read(definition)
    assert caught.value.status == 400
    assert caught.value.code == "invalid_request"
    errors = caught.value.details["validation_errors"]
    assert caught.value.details["field"] == errors[0]["path"]
    assert errors[0]["message"] in caught.value.message
    return {error["path"]: error["message"] for error in errors}


def job(job_type: str = "a.b", **attributes: Any) -> dict[str, Any]:
    return {"type": job_type, "args": [], **attributes}


def options_of(workflow: Workflow, position: int = 0) -> dict[str, Any]:
    options = json.loads(bytes(workflow.members[position].definition)).get("options", {})
    assert isinstance(options, dict)
    return options


class TestKinds:
    def test_a_chain_is_a_line(self) -> None:
        """C-WF-01, C-WF-03, C-WF-04."""
        workflow = read({"type": "chain", "name": "orders", "steps": [job("a"), job("b"), job("c")]})
        assert workflow.id == WORKFLOW_ID
        assert (workflow.kind, workflow.state, workflow.name) == ("chain", "running", "orders")
        assert (workflow.created_at, workflow.started_at, workflow.job_count) == (NOW, None, 3)
        assert [member.type for member in workflow.members] == ["a", "b", "c"]
        assert [member.id for member in workflow.members] == ["step-0", "step-1", "step-2"]
        assert [member.depends_on for member in workflow.members] == [(), (0,), (1,)]
        assert {member.state for member in workflow.members} == {"waiting"}

    def test_a_group_waits_for_nothing(self) -> None:
        workflow = read({"type": "group", "jobs": [job(), job(name="second")]})
        assert workflow.kind == "group"
        assert workflow.name is None
        assert [member.depends_on for member in workflow.members] == [(), ()]
        assert [member.id for member in workflow.members] == ["job-0", "job-1"]
        assert [member.name for member in workflow.members] == [None, "second"]

    def test_a_batch_has_callbacks(self) -> None:
        """The order of callbacks is fixed, whatever the order given; null is absent."""
        callbacks = {"on_failure": job("f"), "on_success": None, "on_complete": job("c")}
        workflow = read({"type": "batch", "jobs": [job()], "callbacks": callbacks})
        assert list(workflow.callbacks) == ["on_complete", "on_failure"]
        assert [(member.type, member.trigger) for member in workflow.callbacks.values()] == [
            ("c", "complete"),
            ("f", "failure"),
        ]
        assert workflow.job_count == 1

    @pytest.mark.parametrize("kind", ["pipeline", "dag", "", 3, ["chain"], {}, None])
    def test_another_type_is_refused(self, kind: object) -> None:
        assert "type" in mistakes({"type": kind, "jobs": [job()]})

    def test_a_saga_is_not_supported(self) -> None:
        """C-WF-23: 422, at any depth."""
        for definition in (
            {"type": "saga", "steps": [job()]},
            {"type": "chain", "steps": [job(), {"type": "saga", "steps": [{"name": "x", "job_type": "a"}]}]},
        ):
            with pytest.raises(UnsupportedError) as caught:
                read(definition)
            assert caught.value.status == 422
        assert caught.value.details["field"] == "steps[1].type"

    @pytest.mark.parametrize(
        ("definition", "path"),
        [
            ({"type": "chain"}, "steps"),
            ({"type": "chain", "steps": []}, "steps"),
            ({"type": "chain", "steps": {}}, "steps"),
            ({"type": "chain", "jobs": [{"type": "a", "args": []}]}, "steps"),
            ({"type": "group", "jobs": []}, "jobs"),
            ({"type": "group", "steps": [{"type": "a", "args": []}]}, "jobs"),
            ({"type": "batch", "jobs": [{"type": "a", "args": []}]}, "callbacks"),
            ({"type": "batch", "jobs": [{"type": "a", "args": []}], "callbacks": {}}, "callbacks"),
            ({"type": "batch", "jobs": [{"type": "a", "args": []}], "callbacks": []}, "callbacks"),
            ({"type": "batch", "jobs": [{"type": "a", "args": []}], "callbacks": {"on_success": None}}, "callbacks"),
            ({"type": "chain", "name": 3, "steps": [{"type": "a", "args": []}]}, "name"),
            ({"type": "chain", "name": "n" * (NAME_MAX + 1), "steps": [{"type": "a", "args": []}]}, "name"),
            ({"type": "chain", "options": [], "steps": [{"type": "a", "args": []}]}, "options"),
        ],
    )
    def test_the_wrong_shape_is_refused(self, definition: dict[str, Any], path: str) -> None:
        """C-WF-01."""
        assert list(mistakes(definition)) == [path]


class TestElements:
    @pytest.mark.parametrize(
        ("element", "path"),
        [
            (3, ""),
            (None, ""),
            ([], ""),
            ({"args": []}, ".type"),
            ({"type": "No", "args": []}, ".type"),
            ({"type": "a"}, ".args"),
            ({"type": "a", "args": {}}, ".args"),
            ({"type": "a", "args": [], "id": "x"}, ".id"),
            ({"type": "a", "args": [], "name": 3}, ".name"),
            ({"type": "a", "args": [], "meta": 3}, ".meta"),
            ({"type": "a", "args": [], "meta": {"m": "x" * 70_000}}, ".meta"),
            ({"type": "a", "args": ["x" * 1_100_000]}, ""),
            ({"type": "a", "args": [], "options": 3}, ".options"),
            ({"type": "a", "args": [], "specversion": "9"}, ".specversion"),
            ({"type": "a", "args": [], "queue": "Q"}, ".queue"),
            ({"type": "a", "args": [], "options": {"queue": "Q"}}, ".options.queue"),
            ({"type": "a", "args": [], "options": {"retry": {"max_attempts": -1}}}, ".options.retry.max_attempts"),
            ({"type": "a", "args": [], "retry": {"max_attempts": -1}}, ".retry.max_attempts"),
            ({"type": "a", "args": [], "retry_policy": {"max_attempts": -1}}, ".retry.max_attempts"),
            ({"type": "a", "args": [], "options": {"unique": {"args_keys": ["k"]}}}, ".options.unique.args_keys"),
        ],
    )
    def test_each_is_validated_at_creation(self, element: object, path: str) -> None:
        """C-WF-02: everything a single enqueue refuses is refused here, with its place; a bad retry policy too."""
        chain = {"type": "chain", "steps": [job(), element]}
        assert list(mistakes(chain)) == [f"steps[1]{path}"]
        group = {"type": "group", "jobs": [element]}
        assert list(mistakes(group)) == [f"jobs[0]{path}"]
        batch = {"type": "batch", "jobs": [job()], "callbacks": {"on_complete": element, "on_failure": job()}}
        if element is not None:
            assert list(mistakes(batch)) == [f"callbacks.on_complete{path}"]

    def test_every_mistake_is_named(self) -> None:
        steps = [job("A"), job(), {"type": "group", "jobs": [job(), job(queue="Q"), {"type": "batch", "jobs": []}]}]
        assert list(mistakes({"type": "chain", "name": 1, "steps": steps})) == [
            "name",
            "steps[0].type",
            "steps[2].jobs[1].queue",
            "steps[2].jobs[2].jobs",
            "steps[2].jobs[2].callbacks",
        ]

    def test_the_list_of_mistakes_is_bounded(self) -> None:
        assert len(mistakes({"type": "group", "jobs": [{} for _ in range(300)]})) == 100

    def test_an_id_is_the_job_id(self) -> None:
        """C-WF-02, C-ENV-03."""
        workflow = read({"type": "chain", "steps": [job(id=JOB_ID), job()]})
        assert start(workflow, NOW).inserts[0].job.id == JOB_ID

    def test_an_id_is_used_once_in_the_whole_tree(self) -> None:
        inner = {"type": "group", "jobs": [job(id=JOB_ID)]}
        definition = {"type": "batch", "jobs": [job(id=JOB_ID), inner], "callbacks": {"on_success": job(id=JOB_ID)}}
        assert list(mistakes(definition)) == ["jobs[1].jobs[0].id", "callbacks.on_success.id"]

    def test_the_number_of_elements_is_bounded(self) -> None:
        inner = {"type": "group", "jobs": [job()] * 3}
        assert list(mistakes({"type": "group", "jobs": [job()] * (MEMBERS_MAX + 1)})) == ["jobs"]
        assert list(mistakes({"type": "group", "jobs": [inner, *[job()] * (MEMBERS_MAX - 3)]})) == ["jobs[0].jobs"]

    def test_the_text_of_values_is_kept(self) -> None:
        """Numbers come back as they came in, with and without default options (C-JSON-05)."""
        element = '{"type":"a","args":[1.50,12345678901234567890,1e400000],"x":1.0}'
        element = element.replace(",1e400000", "")
        for options in ("", '"options":{"priority":1},'):
            workflow = read(f'{{"type":"group",{options}"jobs":[{element}]}}')
            request = parse_job_request(workflow.members[0].definition, NOW)
            assert bytes(request.args) == b"[1.50,12345678901234567890]"
            assert request.extra is not None
            assert bytes(request.extra) == b'{"x":1.0}'

    def test_the_record_survives_encoding(self) -> None:
        inner = {"type": "chain", "steps": [job()]}
        workflow = read({"type": "batch", "jobs": [job(), inner], "callbacks": {"on_complete": job()}})
        started = start(workflow, NOW).workflow
        assert encode(decode_workflow(encode(started))) == encode(started)


class TestNesting:
    def test_an_element_may_be_a_workflow(self) -> None:
        """C-WF-16, C-WF-17: nested jobs are counted."""
        inner = {"type": "batch", "name": "inner", "jobs": [job(), job()], "callbacks": {"on_complete": job()}}
        workflow = read({"type": "chain", "steps": [job(), inner, {"type": "group", "jobs": [inner, job()]}]})
        assert [(member.type, member.nested) for member in workflow.members] == [
            ("a.b", False),
            ("batch", True),
            ("group", True),
        ]
        assert workflow.members[1].name == "inner"
        assert workflow.job_count == 6

    def test_what_has_args_is_a_job(self) -> None:
        """`chain` and `group` are legal job types."""
        workflow = read({"type": "group", "jobs": [job("chain"), job("saga", jobs=[1]), job("x.y", steps=[2])]})
        assert [(member.type, member.nested) for member in workflow.members] == [
            ("chain", False),
            ("saga", False),
            ("x.y", False),
        ]
        assert read({"type": "group", "jobs": [job("chain", steps=[job()])]}).members[0].nested

    def test_steps_with_dependencies_may_be_nested(self) -> None:
        inner = {"steps": [{"id": "a", **job()}, {"id": "b", **job(), "depends_on": ["a"]}]}
        member = read({"type": "group", "jobs": [inner]}).members[0]
        assert (member.nested, member.type) == (True, "dag")

    def test_the_depth_is_bounded(self) -> None:
        """C-WF-16: at least 3 levels; deeper is refused at creation."""
        assert WORKFLOW_DEPTH_MAX >= 3
        definition: dict[str, Any] = {"type": "group", "jobs": [job()]}
        for _ in range(WORKFLOW_DEPTH_MAX - 1):
            definition = {"type": "chain", "steps": [definition]}
        read(definition)
        assert list(mistakes({"type": "group", "jobs": [definition]})) == ["jobs[0]" + ".steps[0]" * 4]

    def test_a_callback_is_a_job(self) -> None:
        """OJS workflows §6.3: a job envelope."""
        callbacks = {"on_complete": {"type": "group", "jobs": [job()]}}
        assert list(mistakes({"type": "batch", "jobs": [job()], "callbacks": callbacks})) == ["callbacks.on_complete"]

    def test_a_nested_type_is_checked(self) -> None:
        assert list(mistakes({"type": "group", "jobs": [{"type": "batch"}]})) == ["jobs[0].jobs", "jobs[0].callbacks"]


class TestDefaultOptions:
    def test_they_reach_every_element(self) -> None:
        """C-WF-02: jobs, callbacks and nested workflows, to the innermost."""
        inner = {"type": "chain", "options": {"priority": 7}, "steps": [job(), job(options={"queue": "own"})]}
        definition = {
            "type": "batch",
            "options": {"queue": "common", "priority": 3},
            "jobs": [job(), inner],
            "callbacks": {"on_complete": job()},
        }
        workflow = read(definition)
        assert options_of(workflow) == {"queue": "common", "priority": 3}
        step = start(workflow, NOW)
        assert [(new.job.queue, new.job.priority) for new in step.inserts] == [("common", 3), ("common", 7)]
        own = parse_job_request(step.children[0].members[1].definition, NOW)
        assert (own.queue, own.priority) == ("own", 7)
        callback = parse_job_request(workflow.callbacks["on_complete"].definition, NOW)
        assert (callback.queue, callback.priority) == ("common", 3)

    @pytest.mark.parametrize(
        ("own", "expected"),
        [
            ({"options": {"queue": "own"}}, {"queue": "own", "retry": {"max_attempts": 5}, "timeout": 9}),
            ({"queue": "own"}, {"retry": {"max_attempts": 5}, "timeout": 9}),
            ({"options": {"retry": {"jitter": False}}}, {"retry": {"jitter": False}, "queue": "common", "timeout": 9}),
            ({"options": {"retry_policy": {}}}, {"retry_policy": {}, "queue": "common", "timeout": 9}),
            ({"timeout_ms": 5}, {"queue": "common", "retry": {"max_attempts": 5}}),
            ({"options": {"queue": None}}, {"queue": None, "retry": {"max_attempts": 5}, "timeout": 9}),
            ({"options": None}, {"queue": "common", "retry": {"max_attempts": 5}, "timeout": 9}),
            ({"options": {"queue": "o", "timeout": 1, "retry": {}}}, {"queue": "o", "timeout": 1, "retry": {}}),
        ],
    )
    def test_what_the_element_sets_wins(self, own: dict[str, Any], expected: dict[str, Any]) -> None:
        """Under any spelling, in `options` or beside it, as a whole."""
        defaults = {"queue": "common", "retry": {"max_attempts": 5}, "timeout": 9}
        assert options_of(read({"type": "group", "options": defaults, "jobs": [job(**own)]})) == expected

    def test_a_mistake_in_them_is_named_once(self) -> None:
        definition = {"type": "group", "options": {"queue": "Q", "priority": 1}, "jobs": [job(), job()]}
        assert list(mistakes(definition)) == ["options.queue"]
        definition = {"type": "group", "options": {"retry": {"max_attempts": "x"}}, "jobs": [job(), job()]}
        assert list(mistakes(definition)) == ["options.retry.max_attempts"]

    def test_a_mistake_in_the_element_is_still_found(self) -> None:
        definition = {"type": "group", "options": {"priority": 1}, "jobs": [job(options="x")]}
        assert list(mistakes(definition)) == ["jobs[0].options"]

    def test_without_any_the_text_is_untouched(self) -> None:
        text = '{ "type" : "a" , "args" : [ ] }'
        workflow = read(f'{{"type":"group","options":{{}},"jobs":[{text}]}}')
        assert bytes(workflow.members[0].definition) == text.encode()

    def test_all_options_apply_to_the_job(self) -> None:
        """C-WF-05: queue, priority, retry, timeouts, schedule, tags, meta, unique; in every position."""
        own = {
            "queue": "q",
            "priority": 4,
            "retry": {"max_attempts": 9},
            "timeout_ms": 5000,
            "visibility_timeout_ms": 6000,
            "scheduled_at": "+PT10S",
            "tags": ["t"],
            "unique": {"keys": ["type"]},
            "metadata": {"m": 1},
            "rate_limit": {"max_per_second": 5},
        }
        workflow = read({"type": "chain", "steps": [job(options=own, schema="urn:s")]})
        new = start(workflow, NOW).inserts[0]
        assert new.job.state == "scheduled"
        assert new.job.scheduled_at == NOW + 10_000
        assert (new.job.queue, new.job.priority, new.job.retry.max_attempts) == ("q", 4, 9)
        assert (new.job.timeout_ms, new.job.visibility_timeout_ms) == (5000, 6000)
        assert (new.job.tags, new.job.schema, bytes(new.job.meta)) == (("t",), "urn:s", b'{"m":1}')
        assert new.job.fingerprint is not None
        assert new.hold is not None
        assert new.max_per_second == 5


def test_options_that_would_multiply_are_refused() -> None:
    """A body of a hundred kilobytes must not become a record of as many megabytes (C-JSON-13)."""
    options = {"tags": ["x" * 100_000]}
    fitting = DEFINITION_MAX_BYTES // 101_000
    assert len(read({"type": "group", "options": options, "jobs": [job()] * fitting}).members) == fitting
    inner = {"type": "chain", "steps": [job()] * (fitting // 2 + 10)}
    for jobs in ([job()] * (fitting + 10), [inner, inner]):
        with pytest.raises(EnvelopeTooLargeError) as caught:
            read({"type": "group", "options": options, "jobs": jobs})
        assert caught.value.details["max_bytes"] == DEFINITION_MAX_BYTES


def test_a_definition_is_read_the_same_every_time() -> None:
    definition = {"type": "group", "options": {"queue": "q"}, "jobs": [job(), {"type": "chain", "steps": [job()]}]}
    assert msgspec.json.encode(read(definition)) == msgspec.json.encode(read(definition))
