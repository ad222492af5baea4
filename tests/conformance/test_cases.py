"""Case files are read strictly, and a bad one is reported instead of left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ojs_core.testing.conformance import load_cases, parse_case, select_cases
from ojs_core.testing.conformance.steps import Comparison, Request, Wait

GET: dict[str, Any] = {"id": "a", "action": "GET", "path": "/x", "assertions": {"status": 200}}
POST: dict[str, Any] = {**GET, "action": "POST"}
WAIT: dict[str, Any] = {"id": "w", "action": "WAIT", "duration_ms": 10}
JOBS = "{{steps.a.response.body.jobs}}"
CLAIM: dict[str, Any] = {"job_id": "{{steps.a.response.body.id}}", "fetches": [JOBS, JOBS], "exactly_one_has_job": True}


def case_text(*steps: object, **keys: object) -> str:
    """Return a case file with these steps."""
    return json.dumps({"test_id": "T-1", "level": 0, "steps": list(steps), **keys})


def problem(*steps: object, **keys: object) -> str | None:
    """Return what is wrong with a case."""
    return parse_case(case_text(*steps, **keys), "t.json").problem


def one_step(**keys: object) -> Request:
    """Return the only step of a case, a request with these keys changed."""
    case = parse_case(case_text({**POST, **keys}), "t.json")
    assert case.problem is None, case.problem
    step = case.groups[0][0]
    assert isinstance(step, Request)
    return step


def test_reads_a_full_case() -> None:
    """Setup, steps and teardown are kept in order, with everything that people may have written about them."""
    prose = {"category": "c", "name": "n", "description": "d", "spec_ref": "s", "tags": ["t"], "preconditions": "p"}
    text = case_text(
        {**GET, "id": "b", "intent": "look", "description": "d", "delay_ms": 5},
        WAIT,
        {"id": "c", "action": "ASSERT", "assertions": {"exclusive_claim": CLAIM, "description": "d"}},
        setup={"steps": [POST]},
        teardown={"steps": [{"id": "z", "action": "DELETE", "path": "/x"}]},
        **prose,
    )
    case = parse_case(text, "folder/t.json")
    assert case.problem is None
    assert (case.id, case.file, case.level) == ("T-1", "folder/t.json", "0")
    assert [step.id for group in case.groups for step in group] == ["a", "b", "w", "c"]
    assert [step.id for group in case.teardown for step in group] == ["z"]
    assert [type(group[0]) for group in case.groups] == [Request, Request, Wait, Comparison]
    assert case.wait_ms == 15


@pytest.mark.parametrize(("level", "read"), [(4, "4"), ("ext", "ext"), ("extension", "ext")])
def test_levels(level: object, read: str) -> None:
    """Levels are numbers, or one word for extensions."""
    assert parse_case(case_text(GET, level=level), "t.json").level == read


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"test_id": "T", "test_id": "U", "level": 0, "steps": []}',
        '{"level": 0, "steps": [{"action": "GET", "path": "/x", "assertions": {"status": 200}}]}',
        case_text(GET, level="high"),
        case_text(GET, level=True),
        case_text(GET, level=[]),
        case_text(GET, timeout=3),
        case_text(),
        case_text(GET, steps={}),
        case_text(GET, setup=[]),
        case_text(GET, setup={"steps": [], "x": 1}),
        case_text(GET, teardown={"steps": []}),
        case_text(GET, GET),
        case_text(WAIT),
        case_text({**GET, "assertions": {}}),
        case_text({"id": "a", "action": "GET", "path": "/x"}),
        case_text("GET /x"),
    ],
)
def test_bad_cases(text: str) -> None:
    """A case that is not understood says why."""
    assert parse_case(text, "t.json").problem


@pytest.mark.parametrize(
    "keys",
    [
        {"retries": 3},
        {"action": "get it"},
        {"action": None},
        {"action": ["GET"]},
        {"id": ""},
        {"id": 7},
        {"path": "x"},
        {"path": None},
        {"path": "/{{a b}}"},
        {"headers": {"X": 1}},
        {"headers": []},
        {"headers": {"X": "{{a b}}"}},
        {"body": {"a": "{{a b}}"}},
        {"body": None},
        {"raw_body": {}},
        {"raw_body": "x", "body": {}},
        {"delay_ms": -1},
        {"delay_ms": "5"},
        {"delay_ms": True},
        {"duration_ms": 5},
        {"repeat": 0},
        {"repeat": 2.5},
        {"repeat": True},
        {"capture": ["a"]},
        {"capture": {"a": 1}},
        {"captures": {"a": "$..x"}},
        {"parallel_with": "a"},
        {"parallel_with": "b"},
        {"parallel_with": 1},
        {"repeat": 2, "parallel_with": "b"},
        {"request": {}},
        {"expect": {}},
        {"expect": {"body.a": "string:uuidv9"}},
        {"expect": {"bodies.a": 1}},
        {"assertions": []},
        {"assertions": {"body_comment": "only prose"}},
    ],
)
def test_bad_steps(keys: dict[str, object]) -> None:
    """A step key nobody knows, or a value it cannot have, is found without running the case."""
    assert problem({**POST, **keys})


@pytest.mark.parametrize(
    "assertions",
    [
        {"status": 200, "latency": 5},
        {"status": "2xx"},
        {"status": []},
        {"status": ["200"]},
        {"status": None},
        {"status": {"$on": 1}},
        {"status": {}},
        {"status_in": []},
        {"status_in": 200},
        {"status_one_of": ["200"]},
        {"headers": {}},
        {"headers": {"X": 1}},
        {"headers": {"X": {"a": 1}}},
        {"headers": {"X": {"$matches": "a"}}},
        {"headers": {"X": "{{a b}}"}},
        {"body": {}},
        {"body": "text"},
        {"body": {"$..a": 1}},
        {"body": {"$.a": "array:x"}},
        {"body": {"$or": []}},
        {"body": {"$or": [{}]}},
        {"body": {"$or": [{"$.a": {"$no": 1}}]}},
        {"body": {"$empty": 1}},
        {"body": {"$nor": []}},
        {"body": {"$.a[?(@.id=='{{a b}}')]": 1}},
        {"body_absent": []},
        {"body_absent": "$.a"},
        {"body_absent": ["$..a"]},
        {"body_contains": [""]},
        {"body_contains": ["{{a b}}"]},
        {"body_raw": "x"},
        {"timing_ms": {}},
        {"timing_ms": {"around": 5}},
        {"timing_ms": {"less_than": "5"}},
        {"exclusive_claim": CLAIM},
        {"equality": {}},
    ],
)
def test_bad_assertions(assertions: dict[str, object]) -> None:
    """An assertion nobody knows, or one that checks nothing, is found without running the case."""
    assert problem({**GET, "assertions": assertions})


@pytest.mark.parametrize(
    "assertions",
    [
        None,
        {},
        {"description": "d"},
        {"status": 200},
        {"equality": {}},
        {"equality": []},
        {"equality": {"$.steps.a.response.body": 1}},
        {"equality": {"$.steps.a.response.body": "text"}},
        {"equality": {"steps.a.response.body": JOBS}},
        {"equality": {"$.name": JOBS}},
        {"equality": {"$.steps.a.request": JOBS}},
        {"exclusive_claim": []},
        {"exclusive_claim": {**CLAIM, "at_most": 1}},
        {"exclusive_claim": {**CLAIM, "exactly_one_has_job": False}},
        {"exclusive_claim": {**CLAIM, "exactly_one_has_job": 1}},
        {"exclusive_claim": {**CLAIM, "job_id": "j1"}},
        {"exclusive_claim": {**CLAIM, "fetches": [JOBS]}},
        {"exclusive_claim": {**CLAIM, "fetches": [JOBS, []]}},
        {"exclusive_claim": {"job_id": CLAIM["job_id"], "fetches": CLAIM["fetches"]}},
    ],
)
def test_bad_comparisons(assertions: object) -> None:
    """An ASSERT step has to compare something, in a way that is known."""
    assert problem(GET, {"id": "c", "action": "ASSERT", "assertions": assertions})


@pytest.mark.parametrize(
    "step",
    [
        {"id": "w", "action": "WAIT"},
        {**WAIT, "duration_ms": 0},
        {**WAIT, "assertions": {"status": 200}},
        {"id": "c", "action": "ASSERT", "path": "/x", "assertions": {"exclusive_claim": CLAIM}},
        {"id": "p", "action": "push", "path": "/x", "expect": {"status": 201}},
        {"id": "p", "action": "push", "expect": {"status": 201}},
        {"id": "g", "action": "get", "request": {"id": 1}},
        {"id": "g", "action": "get", "request": {"id": "j", "full": True}},
    ],
)
def test_bad_special_steps(step: dict[str, object]) -> None:
    """Steps that are not plain requests have keys of their own."""
    assert problem(GET, step)


def test_default_content_type() -> None:
    """A body without a content type is sent as OJS JSON; a stated type is kept; no body, no type."""
    assert one_step(body={}).headers == {"Content-Type": "application/openjobspec+json"}
    assert one_step(raw_body="{").headers == {"Content-Type": "application/openjobspec+json"}
    assert one_step(body={}, headers={"content-type": "text/plain"}).headers == {"content-type": "text/plain"}
    assert one_step().headers == {}


def test_operations_become_requests() -> None:
    """The abstract operations of the extension suites follow the HTTP binding."""
    case = parse_case(
        case_text(
            {"action": "push", "request": {"type": "t"}, "expect": {"status": 201}, "store": {"job_id": "id"}},
            {"action": "fetch", "request": {"queues": ["q"]}, "expect": {"status": 200}},
            {"action": "ack", "request": {"id": "$ref.job_id", "worker_id": "w"}, "expect": {"status": 200}},
            {"action": "get", "request": {"id": "$ref.job_id"}, "expect": {"status": 200}},
            {"action": "get", "request": {"id": "j1"}, "expect": {"status": 200}},
        ),
        "t.json",
    )
    assert case.problem is None
    steps = [step for group in case.groups for step in group if isinstance(step, Request)]
    assert [(step.method, step.path, step.json_body) for step in steps] == [
        ("POST", "/ojs/v1/jobs", {"type": "t"}),
        ("POST", "/ojs/v1/workers/fetch", {"queues": ["q"]}),
        ("POST", "/ojs/v1/workers/ack", {"job_id": "$ref.job_id", "worker_id": "w"}),
        ("GET", "/ojs/v1/jobs/{{job_id}}", None),
        ("GET", "/ojs/v1/jobs/j1", None),
    ]
    assert [name for name, _ in steps[0].captures] == ["job_id"]
    assert [step.id for step in steps] == [f"step {number}" for number in range(1, 6)]


def test_parallel_steps_are_grouped() -> None:
    """Steps that name each other, or are named, run together; their neighbours do not."""
    steps = [{**POST, "id": name} for name in "abcde"]
    steps[1]["parallel_with"] = "c"
    steps[3]["parallel_with"] = "c"
    case = parse_case(case_text(*steps), "t.json")
    assert case.problem is None
    assert [[step.id for step in group] for group in case.groups] == [["a"], ["b", "c", "d"], ["e"]]


def test_parallel_steps_must_be_neighbours() -> None:
    """A partner that runs at another time, or is no request, cannot be parallel."""
    far = [{**POST, "id": "a", "parallel_with": "c"}, {**POST, "id": "b"}, {**POST, "id": "c"}]
    assert problem(*far)
    assert problem({**POST, "parallel_with": "w"}, WAIT)
    assert problem(WAIT, {**POST, "parallel_with": "w"})


def test_the_wait_of_a_group_is_its_longest() -> None:
    """Delays that pass at the same time are not added up."""
    together = [
        {**POST, "id": "a", "parallel_with": "b", "delay_ms": 5},
        {**POST, "id": "b", "parallel_with": "a", "delay_ms": 7},
    ]
    assert parse_case(case_text(*together, WAIT), "t.json").wait_ms == 17


def test_load_and_select(tmp_path: Path) -> None:
    """Files are found at any depth; ids may repeat; a file without a level belongs to every selection."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.json").write_text(case_text(GET, level=1))
    (tmp_path / "b.json").write_text(case_text(GET))
    (tmp_path / "c.json").write_text(case_text(GET, test_id="T-2", level="ext"))
    (tmp_path / "d.json").write_text("{")
    (tmp_path / "README.md").write_text("not a case")
    cases = load_cases(tmp_path)
    assert [(case.id, case.file) for case in cases] == [
        ("T-1", "b.json"), ("T-2", "c.json"), ("d", "d.json"), ("T-1", "deep/er/a.json"),
    ]  # fmt: skip
    assert len(select_cases(cases, [], [])) == 4
    assert [case.file for case in select_cases(cases, ["0"], [])] == ["b.json", "d.json"]
    assert [case.file for case in select_cases(cases, ["1", "ext"], [])] == ["c.json", "d.json", "deep/er/a.json"]
    assert [case.file for case in select_cases(cases, [], ["T-1"])] == ["b.json", "deep/er/a.json"]
    assert [case.file for case in select_cases(cases, ["0"], ["T-1"])] == ["b.json"]
    assert [case.file for case in select_cases(cases, [], ["c.json"])] == ["c.json"]


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that is not there is an error, not an empty suite."""
    with pytest.raises(NotADirectoryError):
        load_cases(tmp_path / "nowhere")
