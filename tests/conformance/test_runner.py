"""One case against one server: what is sent, what is noticed, and what becomes of it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ojs_core.testing.conformance import CaseResult, Client, Outcome, TransportError, parse_case, run_case
from ojs_core.testing.conformance.errors import CaseError

BODY = {"job": {"id": "j1", "n": 2, "error": None, "tags": ["x"]}, "jobs": [{"id": "a"}, {"id": "b"}]}


@dataclass
class Asked:
    """One request as the stub saw it."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.raw)


@dataclass
class Answer:
    """What the stub shall say: `body` is sent as JSON unless it is bytes already."""

    status: int
    body: object
    headers: dict[str, str] = field(default_factory=dict)


class Stub:
    """Answers by method and path; anything not scripted is a 404 without a body."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        """Listen where `server` does."""
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self.asked: list[Asked] = []
        self.pauses: list[float] = []
        self._answers: dict[tuple[str, str], Callable[[Asked], Answer]] = {}
        self.on("POST", "/ojs/v1/admin/reset", {"reset": True})

    def on(self, method: str, path: str, body: object = None, status: int = 200, **headers: str) -> None:
        """Script one fixed answer."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.on_call(method, path, lambda _: Answer(status, body, names))

    def on_call(self, method: str, path: str, answer: Callable[[Asked], Answer]) -> None:
        """Script answers that depend on the request."""
        self._answers[method, path] = answer

    def answer(self, asked: Asked) -> Answer:
        """Answer one request."""
        if asked.path != "/ojs/v1/admin/reset":
            self.asked.append(asked)
        scripted = self._answers.get((asked.method, asked.path))
        return scripted(asked) if scripted else Answer(404, b"")

    def run(self, *steps: dict[str, object], **case: object) -> CaseResult:
        """Run a case with these steps; pauses are noted, not made."""
        raw = {"test_id": "T-1", "level": 0, "steps": list(steps), **case}
        return run_case(parse_case(json.dumps(raw), "t.json"), Client(self.url), pause=self.pauses.append)

    def ask(self, path: str, **keys: object) -> CaseResult:
        """Run a case with one GET step."""
        return self.run({"id": "a", "action": "GET", "path": path, **keys})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Stub

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self.stub.answer(Asked(self.command, self.path, dict(self.headers.items()), raw))
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve  # noqa: N815 - the names http.server looks for

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def stub() -> Iterator[Stub]:
    """Return a running stub server."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.stub = Stub(server)  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler.stub  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


SAME_BODIES = {"equality": {"$.steps.a.response.body": "{{steps.b.response.body}}"}}


def post(step_id: str, path: str = "/fetch", **keys: object) -> dict[str, object]:
    """Return a POST step."""
    return {"id": step_id, "action": "POST", "path": path, **keys}


@pytest.mark.parametrize(
    ("good", "bad", "path"),
    [
        ({"status": 201}, {"status": 200}, "status"),
        ({"status": "number:range(200,299)"}, {"status": "number:range(400,422)"}, "status"),
        ({"status": "one_of:200,201"}, {"status": "one_of:400,422"}, "status"),
        ({"status": {"$in": [200, 201]}}, {"status": {"$in": [200, 409]}}, "status"),
        ({"status": [200, 201]}, {"status": [200, 204]}, "status"),
        ({"status_in": [201]}, {"status_in": [200, 204]}, "status"),
        ({"status_one_of": [201]}, {"status_one_of": [200, 204]}, "status"),
        ({"status": "{{steps.first.response.status}}"}, {"status": "{{steps.other.response.status}}"}, "status"),
        ({"headers": {"x-kind": "a/b"}}, {"headers": {"X-Kind": "a"}}, "header X-Kind"),
        ({"headers": {"X-Kind": {"$match": "^a/"}}}, {"headers": {"X-Kind": {"$match": "^b"}}}, "header X-Kind"),
        ({"headers": {"X-Kind": {"$exists": True}}}, {"headers": {"X-None": {"$exists": True}}}, "header X-None"),
        ({"headers": {"X-None": {"$exists": False}}}, {"headers": {"X-Kind": {"$exists": False}}}, "header X-Kind"),
        ({"headers": {"X-Kind": "a/b"}}, {"headers": {"X-None": "a/b"}}, "header X-None"),
        ({"body": {"$.job.id": "j1"}}, {"body": {"$.job.id": "j2"}}, "$.job.id"),
        ({"body": {"job.n": 2}}, {"body": {"job.n": 3}}, "$.job.n"),
        ({"body": {"$.job.tags": ["x"]}}, {"body": {"$.job.tags": ["y"]}}, "$.job.tags[0]"),
        ({"body": {"$.job.nothing": "absent"}}, {"body": {"$.job.n": "absent"}}, "$.job.n"),
        ({"body": {"$.job.error": "absent"}}, {"body": {"$.jbo.error": "absent"}}, "$.jbo.error"),
        (
            {"body": {"$.jobs[?(@.id=='b')]": "exists"}},
            {"body": {"$.jobs[?(@.id=='c')]": "exists"}},
            "$.jobs[?(@.id=='c')]",
        ),
        ({"body": {"$.jobs[*].id": "contains:a"}}, {"body": {"$.jobs[*].id": "contains:c"}}, "$.jobs[*].id"),
        (
            {"body": {"$or": [{"$.job.n": 9}, {"$.job.n": 2}]}},
            {"body": {"$or": [{"$.job.n": 9, "$.job.id": "j1"}]}},
            "$or",
        ),
        ({"body": {"$empty": False}}, {"body": {"$empty": True}}, "$"),
        ({"body_absent": ["$.job.nothing"]}, {"body_absent": ["$.job.nothing", "$.job.id"]}, "$.job.id"),
        ({"body_contains": ['"j1"', "jobs"]}, {"body_contains": ["jobs", "j2"]}, "body"),
        ({"timing_ms": {"less_than": 5000}}, {"timing_ms": {"less_than": 0}}, "timing_ms"),
        ({"timing_ms": {"greater_than": 0}}, {"timing_ms": {"greater_than": 9000}}, "timing_ms"),
        ({"timing_ms": {"approximate": 50}}, {"timing_ms": {"approximate": 90000}}, "timing_ms"),
    ],
)
def test_every_kind_of_assertion_can_fail(
    stub: Stub, good: dict[str, object], bad: dict[str, object], path: str
) -> None:
    """Each assertion passes on the answer it describes, and its violation is reported at its place."""
    stub.on("GET", "/x", BODY, 201, X_Kind="a/b")
    stub.on("GET", "/other", {}, 200)
    first = {"id": "first", "action": "GET", "path": "/x"}
    other = {"id": "other", "action": "GET", "path": "/other"}
    assert stub.run(first, other, {**first, "id": "a", "assertions": good}).outcome is Outcome.PASSED
    result = stub.run(first, other, {**first, "id": "a", "assertions": bad})
    assert result.outcome is Outcome.FAILED
    assert [(failure.step, failure.path) for failure in result.failures] == [("a", path)]
    assert all(failure.expected and failure.got for failure in result.failures)


def test_expect_and_capture(stub: Stub) -> None:
    """The short form checks, and hands values on under a name."""
    stub.on("POST", "/jobs", {"id": "j1"}, 201)
    stub.on("GET", "/jobs/j1", {"state": {"n": 5}, "id": "j1"})
    make = post("make", "/jobs", expect={"status": 201}, capture={"job_id": "$.id"})
    look = {"id": "look", "action": "GET", "path": "/jobs/${job_id}"}
    good = {"status": 200, "body.state.n": 5, "body": {"id": "${job_id}"}}
    assert stub.run(make, {**look, "expect": good}).outcome is Outcome.PASSED
    result = stub.run(make, {**look, "expect": {"status": 200, "body.state.n": 6, "body": {"id": "j2"}}})
    assert [(failure.path, failure.expected, failure.got) for failure in result.failures] == [
        ("$.state.n", "6", "5"),
        ("$.id", '"j2"', '"j1"'),
    ]


def test_operations_are_about_the_job(stub: Stub) -> None:
    """What push and get expect is said of the job in their answer."""
    stub.on("POST", "/ojs/v1/jobs", {"job": {"id": "j1", "state": "available"}}, 201)
    stub.on("GET", "/ojs/v1/jobs/j1", {"job": {"id": "j1", "meta": {"a.b": 1, "c": 2}}})
    push = {"action": "push", "request": {"type": "t"}, "expect": {"status": 201, "body": {"state": "available"}}}
    get = {"action": "get", "request": {"id": "$ref.job_id"}, "expect": {"status": 200, "body": {"meta": {"a.b": 1}}}}
    assert stub.run({**push, "store": {"job_id": "id"}}, get).outcome is Outcome.PASSED
    wrong = {**push, "expect": {"status": 201, "body": {"state": "active"}}}
    assert [failure.path for failure in stub.run(wrong).failures] == ["$.job.state"]


def test_both_forms_in_one_step(stub: Stub) -> None:
    """A step with `assertions` and `expect` is held to both."""
    stub.on("GET", "/x", BODY)
    result = stub.ask("/x", assertions={"status": 201}, expect={"status": 202})
    assert [failure.expected for failure in result.failures] == ["201", "202"]


def test_sends_what_the_case_says(stub: Stub) -> None:
    """Bodies keep their types, references are filled in, raw bodies go out untouched."""
    stub.on("POST", "/first", {"list": [1, {"k": None}], "id": "a/b c"})
    stub.on("POST", "/x", {})
    body = {"n": 1.0, "ref": "{{steps.a.response.body.list}}", "text": "id={{steps.a.response.body.id}}", "é": True}
    result = stub.run(
        post("a", "/first", assertions={"status": 200}),
        post("b", "/x", body=body, headers={"X-Id": "{{steps.a.response.status}}"}),
        post("c", "/x", raw_body="{ not json {{x}}", headers={"Content-Type": "text/plain"}),
        {"id": "d", "action": "DELETE", "path": "/y/{{steps.a.response.body.id}}"},
    )
    assert result.outcome is Outcome.PASSED
    _, sent, raw, deleted = stub.asked
    assert sent.raw.decode() == '{"n": 1.0, "ref": [1, {"k": null}], "text": "id=a/b c", "é": true}'
    assert sent.headers["X-Id"] == "200"
    assert sent.headers["Content-Type"] == "application/openjobspec+json"
    assert raw.raw == b"{ not json {{x}}"
    assert raw.headers["Content-Type"] == "text/plain"
    assert (deleted.method, deleted.path, deleted.raw) == ("DELETE", "/y/a%2Fb%20c", b"")


def test_base_url_may_have_a_path(stub: Stub) -> None:
    """A prefix in the base URL goes before every path."""
    stub.on("POST", "/prefix/ojs/v1/admin/reset", {})
    stub.on("GET", "/prefix/x", {})
    text = json.dumps(
        {"test_id": "T", "level": 0, "steps": [{"action": "GET", "path": "/x", "expect": {"status": 200}}]}
    )
    assert run_case(parse_case(text, "t.json"), Client(f"{stub.url}/prefix/")).outcome is Outcome.PASSED


def test_repeat(stub: Stub) -> None:
    """A repeated step is sent that often and checked every time; the last answer is the one to refer to."""
    stub.on_call("POST", "/x", lambda _: Answer(200, {"n": len(stub.asked)}))
    check = {"id": "b", "action": "GET", "path": "/{{steps.a.response.body.n}}", "assertions": {"status": 404}}
    assert (
        stub.run(post("a", "/x", repeat=3, assertions={"body": {"$.n": "number:range(1,3)"}}), check).outcome
        == "passed"
    )
    assert [asked.path for asked in stub.asked] == ["/x", "/x", "/x", "/3"]
    stub.asked.clear()
    result = stub.run(post("a", "/x", repeat=3, assertions={"body": {"$.n": "number:range(2,3)"}}))
    assert [failure.got for failure in result.failures] == ["1"]


def test_delays_and_waits(stub: Stub) -> None:
    """Delays come before their step, waits in between, in milliseconds."""
    stub.on("GET", "/x", {})
    get = {"action": "GET", "path": "/x", "assertions": {"status": 200}}
    result = stub.run(
        {**get, "id": "a", "delay_ms": 1500},
        {"id": "w", "action": "WAIT", "duration_ms": 2000, "delay_ms": 5},
        {**get, "id": "b", "repeat": 2, "delay_ms": 250},
        {"id": "c", "action": "ASSERT", "delay_ms": 40, "assertions": SAME_BODIES},
    )
    assert result.outcome is Outcome.PASSED
    assert stub.pauses == [1.5, 2.005, 0.25, 0.04]


def test_parallel_steps_really_overlap(stub: Stub) -> None:
    """Each of two parallel requests is answered only after the other has arrived."""
    both_arrived = threading.Barrier(2, timeout=30)
    stub.on_call("POST", "/fetch", lambda _: Answer(200, {"index": both_arrived.wait()}))
    steps = [post("a", parallel_with="b", assertions={"status": 200}), post("b", parallel_with="a", delay_ms=30)]
    assert stub.run(*steps).outcome is Outcome.PASSED
    assert stub.pauses == [0.03]


def test_parallel_steps_are_checked(stub: Stub) -> None:
    """The checks of every parallel step count, and their answers can be referred to."""
    stub.on("POST", "/a", {"n": 1})
    stub.on("POST", "/b", {"n": 2})
    result = stub.run(
        post("a", "/a", parallel_with="b", assertions={"body": {"$.n": 9}}),
        post("b", "/b", parallel_with="a", assertions={"body": {"$.n": 8}}),
        {"id": "c", "action": "ASSERT", "assertions": SAME_BODIES},
    )
    assert [(failure.step, failure.path) for failure in result.failures] == [
        ("a", "$.n"), ("b", "$.n"), ("c", "equality at $.n"),
    ]  # fmt: skip


def test_a_parallel_step_that_cannot_be_sent(stub: Stub) -> None:
    """The partner of a step that never leaves does not wait for it."""
    steps = [post("a", parallel_with="b", assertions={"status": 200}), post("b", "/{{nothing}}", parallel_with="a")]
    result = stub.run(*steps)
    assert result.outcome is Outcome.ERROR
    assert [failure.path for failure in result.failures] == ["reference"]
    assert "nothing" in result.failures[0].got


@pytest.mark.parametrize(
    ("first", "second", "wrong"),
    [
        ([{"id": "j1"}], [], []),
        ([], [{"id": "j1"}], []),
        ([{"id": "j1"}], [{"id": "j1"}], ["once", "empty"]),
        ([], [], ["once", "empty"]),
        ([{"id": "j1"}, {"id": "j1"}], [], ["once"]),
        ([{"id": "j1"}], [{"id": "j2"}], ["empty"]),
        ([{"id": "j2"}], [], ["once"]),
        ([{"id": "j1"}], None, ["array"]),
        ([{"id": "j1"}], {"id": "j1"}, ["array"]),
        ([["j1"], "j1"], [], ["once"]),
    ],
)
def test_exclusive_claim(stub: Stub, first: object, second: object, wrong: list[str]) -> None:
    """Exactly one of two concurrent fetches has the job, once, and the other is empty."""
    answers = iter([first, second])
    lock = threading.Lock()

    def fetch(_: Asked) -> Answer:
        with lock:
            return Answer(200, {"jobs": next(answers)})

    stub.on("POST", "/jobs", {"job": {"id": "j1"}}, 201)
    stub.on_call("POST", "/fetch", fetch)
    claim = {
        "job_id": "{{steps.make.response.body.job.id}}",
        "fetches": ["{{steps.a.response.body.jobs}}", "{{steps.b.response.body.jobs}}"],
        "exactly_one_has_job": True,
        "exactly_one_empty": True,
    }
    result = stub.run(
        post("make", "/jobs", body={}, assertions={"status": 201}),
        post("a", parallel_with="b", assertions={"status": 200}),
        post("b", parallel_with="a", assertions={"status": 200}),
        {"id": "c", "action": "ASSERT", "assertions": {"exclusive_claim": claim}},
    )
    assert result.outcome is (Outcome.FAILED if wrong else Outcome.PASSED)
    assert [failure.path for failure in result.failures] == ["exclusive_claim"] * len(wrong)
    assert all(word in failure.expected for word, failure in zip(wrong, result.failures, strict=True))


def test_exclusive_claim_without_the_empty_flag(stub: Stub) -> None:
    """Each flag asks for its own half only."""
    answers = iter([[{"id": "j1"}], [{"id": "j2"}]])
    stub.on_call("POST", "/fetch", lambda _: Answer(200, {"jobs": next(answers)}))
    fetches = [f"{{{{steps.{step}.response.body.jobs}}}}" for step in "ab"]
    claim = {"job_id": "{{steps.a.response.body.jobs[0].id}}", "fetches": fetches}
    steps = [post("a"), post("b"), {"id": "c", "action": "ASSERT", "assertions": {"exclusive_claim": claim}}]
    claim["exactly_one_has_job"] = True  # type: ignore[assignment]
    assert stub.run(*steps).outcome is Outcome.PASSED
    answers = iter([[{"id": "j1"}], [{"id": "j2"}]])
    del claim["exactly_one_has_job"]
    claim["exactly_one_empty"] = True  # type: ignore[assignment]
    assert [failure.expected for failure in stub.run(*steps).failures] == ["exactly one empty fetch"]


@pytest.mark.parametrize(
    ("second", "at"),
    [
        ({"n": 1, "job": {"a": [1]}}, None),
        ({"n": 1, "job": {"a": [2]}}, "$.job.a[0]"),
        ({"n": True, "job": {"a": [1]}}, "$.n"),
    ],
)
def test_equality(stub: Stub, second: object, at: str | None) -> None:
    """Two answers are compared as a whole, and the first difference is named."""
    stub.on("GET", "/a", {"n": 1, "job": {"a": [1]}})
    stub.on("GET", "/b", second)
    gets: list[dict[str, object]] = [{"id": name, "action": "GET", "path": f"/{name}"} for name in "ab"]
    result = stub.run(*gets, {"id": "c", "action": "ASSERT", "assertions": SAME_BODIES})
    assert [failure.path for failure in result.failures] == ([] if at is None else [f"equality at {at}"])


def test_a_body_that_is_not_json(stub: Stub) -> None:
    """Body checks fail on a body without JSON, absence included; checks of the raw body still work."""
    stub.on("GET", "/x", b"<html>")
    stub.on("GET", "/empty", b"", 204)
    checks = {"body": {"$.a": "absent", "$.b": 1}, "body_contains": ["html"], "body_absent": ["$.c"]}
    assert [failure.path for failure in stub.ask("/x", assertions=checks).failures] == ["$.a", "$.b", "$.c"]
    assert [failure.path for failure in stub.ask("/empty", assertions={"body": {"$.a": "absent"}}).failures] == ["$.a"]
    empty = {"status": 204, "body": {"$or": [{"$.jobs": {"$size": 0}}, {"$empty": True}]}}
    assert stub.ask("/empty", assertions=empty).outcome is Outcome.PASSED
    assert stub.ask("/x", assertions={"body": {"$empty": True}}).outcome is Outcome.FAILED


def test_repeated_headers_are_not_one_header(stub: Stub) -> None:
    """A header sent twice is not equal to its value sent once."""
    stub.on("GET", "/x", {}, 200, **{"Content-Type": "a/b", "content-type": "a/b"})
    assert stub.ask("/x", assertions={"headers": {"Content-Type": "a/b"}}).failures[0].got == '"a/b, a/b"'


def test_goes_on_after_a_failed_check(stub: Stub) -> None:
    """Later steps still run, so that one report shows everything."""
    stub.on("GET", "/x", {})
    get = {"action": "GET", "path": "/x", "assertions": {"status": 201}}
    assert [failure.step for failure in stub.run({**get, "id": "a"}, {**get, "id": "b"}).failures] == ["a", "b"]


def test_unresolved_reference_is_an_error(stub: Stub) -> None:
    """A reference that leads nowhere ends the case as an error: nothing unfilled is ever sent."""
    stub.on("GET", "/x", {})
    result = stub.run(
        {"id": "a", "action": "GET", "path": "/x", "assertions": {"status": 200}},
        {"id": "b", "action": "GET", "path": "/{{steps.a.response.body.id}}"},
        {"id": "c", "action": "GET", "path": "/x"},
    )
    assert result.outcome is Outcome.ERROR
    assert [(failure.step, failure.path) for failure in result.failures] == [("b", "reference")]
    assert [asked.path for asked in stub.asked] == ["/x"]


def test_unresolved_reference_after_a_failure_is_its_consequence(stub: Stub) -> None:
    """When a check failed before, the case has failed."""
    stub.on("GET", "/x", {})
    check = {"status": 201, "body": {"$.b": "{{steps.b.response.body.id}}"}}
    result = stub.run({"id": "a", "action": "GET", "path": "/x", "assertions": check})
    assert result.outcome is Outcome.FAILED
    assert [failure.path for failure in result.failures] == ["status", "reference"]


def test_failed_capture_is_an_error(stub: Stub) -> None:
    """A value that cannot be captured is missed at once, not when it is used."""
    stub.on("GET", "/x", {})
    result = stub.ask("/x", assertions={"status": 200}, captures={"job_id": "$.job.id"})
    assert result.outcome is Outcome.ERROR
    assert "job_id" in result.failures[0].got


def test_teardown_runs_in_any_case_and_counts(stub: Stub) -> None:
    """Teardown follows a broken case too, and its own violations are failures."""
    stub.on("DELETE", "/x", {})
    teardown = {"steps": [{"id": "z", "action": "DELETE", "path": "/x", "assertions": {"status": 204}}]}
    lost = {"id": "a", "action": "GET", "path": "/{{nothing}}"}
    result = stub.run(lost, teardown=teardown)
    assert result.outcome is Outcome.ERROR
    assert [failure.step for failure in result.failures] == ["a", "z"]
    stub.on("GET", "/x", {})
    assert [failure.step for failure in stub.ask("/x", expect={"status": 200}).failures] == []
    get = {"id": "a", "action": "GET", "path": "/x", "expect": {"status": 200}}
    assert [failure.step for failure in stub.run(get, teardown=teardown).failures] == ["z"]


def test_a_case_that_is_not_understood_is_an_error(stub: Stub) -> None:
    """It is reported with the reason, and nothing is sent."""
    result = stub.ask("/x", assertions={"status": 200, "color": "red"})
    assert result.outcome is Outcome.ERROR
    assert "color" in result.failures[0].got
    assert stub.asked == []


def test_a_request_that_cannot_be_written_is_an_error(stub: Stub) -> None:
    """A path with a space, or text UTF-8 cannot hold, is the case's fault."""
    assert stub.ask("/a b", assertions={"status": 200}).failures[0].path == "case"
    result = stub.run(post("a", body={"x": "\ud800"}, assertions={"status": 200}))
    assert (result.outcome, result.failures[0].path) == (Outcome.ERROR, "case")


def test_reset_before_each_case(stub: Stub) -> None:
    """A case starts only when the server agrees to be wiped."""
    resets: list[Asked] = []

    def reset(asked: Asked) -> Answer:
        resets.append(asked)
        return Answer(200, {"reset": True})

    stub.on("GET", "/x", {})
    stub.on_call("POST", "/ojs/v1/admin/reset", reset)
    assert stub.ask("/x", assertions={"status": 200}).outcome is Outcome.PASSED
    assert len(resets) == 1
    stub.on("POST", "/ojs/v1/admin/reset", {}, 404)
    result = stub.ask("/x", assertions={"status": 200})
    assert result.outcome is Outcome.ERROR
    assert "test mode" in result.failures[0].got
    assert len(stub.asked) == 1


def test_no_answer_is_an_error() -> None:
    """A server that is not there, or hangs up, does not count as one that answers wrongly."""
    text = json.dumps(
        {"test_id": "T", "level": 0, "steps": [{"action": "GET", "path": "/", "expect": {"status": 200}}]}
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.05)
        result = run_case(parse_case(text, "t.json"), client)
    assert result.outcome is Outcome.ERROR
    assert result.failures[0].path == "request"
    with pytest.raises(TransportError):
        client.send("GET", "/")


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://host", "http://", "http://host/?a=b", "http://host:port"])
def test_bad_base_urls(url: str) -> None:
    """An address that cannot be a server is refused at once."""
    with pytest.raises(ValueError, match=r".+"):
        Client(url)


def test_a_bad_header_is_the_callers_fault(stub: Stub) -> None:
    """Nothing is sent that is not HTTP."""
    with pytest.raises(CaseError):
        Client(stub.url).send("GET", "/", headers={"X": "a\nb"})


def test_https_is_spoken(stub: Stub) -> None:
    """An https URL starts with a TLS handshake, which a plain server does not answer."""
    with pytest.raises(TransportError):
        Client(stub.url.replace("http:", "https:"), timeout_s=0.2).send("GET", "/")
