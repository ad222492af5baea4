"""Paths find what they name, and nothing else."""

from __future__ import annotations

import pytest

from ojs_core.testing.conformance.errors import CaseError
from ojs_core.testing.conformance.paths import Found, Missing, parse_path

BODY = {
    "job": {"id": "j1", "error": None, "args": [1, [2, 3], {"k": "v"}]},
    "jobs": [{"id": "a", "n": 1, "meta": {"x": "p"}}, {"id": "b", "n": 2, "meta": {"x": "q"}}, {"id": "b", "n": 3}],
    "meta": {"ojs.codec.key": "flat", "ojs": {"codec": {"other": "nested"}}, "a b": 1},
    "empty": [],
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$", BODY),
        ("$.job.id", "j1"),
        ("job.id", "j1"),
        ("$.job.error", None),
        ("$.job.args[1][1]", 3),
        ("$.job.args[2].k", "v"),
        ("$['job']['id']", "j1"),
        ('$.meta["a b"]', 1),
        ("$.jobs[*].id", ["a", "b", "b"]),
        ("$.empty[*].id", []),
        ("$.jobs[?(@.id=='b')].n", 2),
        ("$.jobs[?(@.n==3)].id", "b"),
        ("$.jobs[?(@.id == b)].n", 2),
        ('$.jobs[?(@.meta.x=="q")].id', "b"),
        ("$.meta.ojs.codec.key", "flat"),
        ("$.meta.ojs.codec.other", "nested"),
    ],
)
def test_finds(path: str, value: object) -> None:
    """Every form of step leads to the value."""
    assert parse_path(path).lookup(BODY) == Found(value)


@pytest.mark.parametrize(
    ("path", "place_exists"),
    [
        ("$.nothing", True),
        ("$.job.nothing", True),
        ("$.nothing.id", False),
        ("$.job.id.deeper", False),
        ("$.job.error.code", False),
        ("$.job.args[3]", True),
        ("$.job.args[3].k", False),
        ("$.job[0]", False),
        ("$.job[*]", False),
        ("$.job[?(@.id=='j1')]", False),
        ("$.jobs[?(@.id=='c')]", True),
        ("$.jobs[?(@.id=='c')].n", False),
        ("$.jobs[?(@.n=='1')]", True),
        ("$.jobs[*].meta.x", False),
        ("$['meta']['ojs.codec']['key']", False),
    ],
)
def test_misses(path: str, *, place_exists: bool) -> None:
    """A miss says whether the place that could have held the value was there."""
    lookup = parse_path(path).lookup(BODY)
    assert isinstance(lookup, Missing)
    assert lookup.place_exists is place_exists
    assert lookup.reason


@pytest.mark.parametrize(
    "path",
    [
        "$..id", "$.jobs[-1]", "$.jobs[1:2]", "$.jobs.length()", "$.jobs[?(@.n>1)]", "$.jobs[?(@.id)]", "$.a.", "$x",
        "$.jobs[", "$.{{name}}", "$.*", "", "$.jobs[?(@.id=='a' && @.n==1)]",
    ],
)  # fmt: skip
def test_refuses_what_it_does_not_know(path: str) -> None:
    """An unknown form is an error, not a path that finds nothing."""
    with pytest.raises(CaseError):
        parse_path(path)


def test_fills_quoted_filter_values() -> None:
    """The value of a filter may be a reference."""
    path = parse_path("$.jobs[?(@.id=='{{wanted}}')].n")
    assert path.quoted_values() == ["{{wanted}}"]
    assert path.lookup(BODY, lambda text: {"{{wanted}}": "a"}[text]) == Found(1)
