"""References become values, or errors; never themselves."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from ojs_core.testing.conformance import Response
from ojs_core.testing.conformance.errors import CaseError, UnresolvedError
from ojs_core.testing.conformance.templates import Scope, check_references, check_step_reference, has_references

RESPONSE = Response(
    201, (("X-Id", "h1"),), b'{"job": {"id": "j 1", "n": 3, "ok": true}, "jobs": [{"id": "a"}, {"id": "b"}]}', 1.0
)


@pytest.fixture
def scope() -> Scope:
    """Return a scope with one answer and one captured value."""
    return Scope({"step-1": RESPONSE, "plain": Response(200, (), b"text", 1.0)}, {"job_id": "j2", "count": 7})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no reference", "no reference"),
        ("", ""),
        ("{{steps.step-1.response.body.job.id}}", "j 1"),
        ("{{ steps.step-1.response.body.job.id }}", "j 1"),
        ("{{steps.step-1.response.body.job.n}}", 3),
        ("{{steps.step-1.response.body.jobs}}", [{"id": "a"}, {"id": "b"}]),
        ("{{steps.step-1.response.body.jobs[1].id}}", "b"),
        ("{{steps.step-1.response.body.jobs[?(@.id=='b')].id}}", "b"),
        ("{{steps.step-1.response.status}}", 201),
        ("{{steps.step-1.response.headers.x-id}}", "h1"),
        ("{{job_id}}", "j2"),
        ("${job_id}", "j2"),
        ("$ref.count", 7),
        ("n={{count}}, ok={{steps.step-1.response.body.job.ok}}", "n=7, ok=true"),
        ("{{count}}{{job_id}}", "7j2"),
    ],
)
def test_fills(scope: Scope, text: str, value: object) -> None:
    """A string that is one reference keeps the type of its value; others become text."""
    check_references(text)
    assert scope.fill_text(text) == value
    assert scope.fill({"deep": [text, 1]}) == {"deep": [value, 1]}


def test_whole_body(scope: Scope) -> None:
    """The whole body can be referred to."""
    assert scope.fill_text("{{steps.step-1.response.body}}") == {
        "job": {"id": "j 1", "n": 3, "ok": True},
        "jobs": [{"id": "a"}, {"id": "b"}],
    }


def test_quotes_only_the_references(scope: Scope) -> None:
    """What goes into a URL is quoted, the rest of the text is left alone."""
    text = "/jobs/{{steps.step-1.response.body.job.id}}?a=b"
    assert scope.render(text, lambda part: quote(part, safe="")) == "/jobs/j%201?a=b"


@pytest.mark.parametrize(
    "text",
    [
        "{{steps.other.response.body.job.id}}",
        "{{steps.step-1.response.body.job.nothing}}",
        "{{steps.step-1.response.body.jobs[2].id}}",
        "{{steps.plain.response.body.id}}",
        "{{steps.step-1.response.headers.missing}}",
        "{{unknown}}",
        "${unknown}",
        "$ref.unknown",
        "text {{unknown}}",
    ],
)
def test_unresolved(scope: Scope, text: str) -> None:
    """A reference that leads nowhere is an error that names it."""
    check_references(text)
    assert has_references(text)
    with pytest.raises(UnresolvedError, match=r"unknown|steps\."):
        scope.fill({"a": text})


@pytest.mark.parametrize(
    "value",
    [
        "{{}}",
        "{{a b}}",
        "{{steps.a.request.body}}",
        "{{steps.a.response.status.code}}",
        "{{steps.a.response.headers}}",
        "{{steps.a.response.body..id}}",
        "{{unclosed",
        "${unclosed",
        "job $ref.name",
        ["{{a b}}"],
        {"key": {"deep": "{{a b}}"}},
        {"{{name}}": 1},
    ],
)
def test_malformed(value: object) -> None:
    """A reference that cannot be read is an error of the case, found without running it."""
    with pytest.raises(CaseError):
        check_references(value)


def test_step_reference_required() -> None:
    """Comparisons are between answers, not captured names."""
    check_step_reference("steps.a.response.body")
    with pytest.raises(CaseError):
        check_step_reference("name")
