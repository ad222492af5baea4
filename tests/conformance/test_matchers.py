"""Each matcher accepts what it names and reports everything else."""

from __future__ import annotations

import pytest

from ojs_core.testing.conformance import Response
from ojs_core.testing.conformance.errors import CaseError, UnresolvedError
from ojs_core.testing.conformance.operators import compile_matcher
from ojs_core.testing.conformance.paths import Found, Lookup, Missing
from ojs_core.testing.conformance.templates import Scope

ABSENT = Missing("no key", place_exists=True)
NO_PLACE = Missing("no object")
UUID4 = "0b0ff8a4-5f0c-4bd1-8f5e-2f7c8b9d0e1f"
UUID7 = "019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f"
SCOPE = Scope({"s": Response(200, (), b'{"id": "any", "list": [1], "word": "x"}', 1.0)}, {"n": 5})


def found(value: object) -> Lookup:
    """Return a lookup as it is, anything else as the value found."""
    return value if isinstance(value, Found | Missing) else Found(value)


@pytest.mark.parametrize(
    ("matcher", "good", "bad"),
    [
        # Literals.
        ("available", ["available"], ["Available", "", None, 1, ABSENT]),
        (1, [1, 1.0], [True, "1", 2, None, ABSENT]),
        (1.5, [1.5], [1, 2]),
        (0, [0, 0.0], [False, None, "", ABSENT]),
        (True, [True], [1, "true", False, ABSENT]),
        (False, [False], [0, None, ABSENT]),
        (None, [None], [0, False, "", ABSENT]),
        ("https://example.com", ["https://example.com"], ["https://example.org"]),
        ({"$eq": "absent"}, ["absent"], [None, ABSENT]),
        ({"$eq": {"a": 1}}, [{"a": 1}], [{"a": 1, "b": 2}, {"a": True}]),
        # Words.
        ("any", [0, "", [], False], [None, ABSENT]),
        ("exists", [0, "", [], False], [None, ABSENT]),
        ("absent", [None, ABSENT], [0, "", [], False, NO_PLACE]),
        ("string:nonempty", ["x"], ["", 1, None, ["x"], ABSENT]),
        ("string:non_empty", ["x"], ["", 1, None, ABSENT]),
        ("string:uuid", [UUID4, UUID7], [UUID7.upper(), f"{UUID7} ", "x", 1, ABSENT]),
        ("string:uuidv7", [UUID7], [UUID4, UUID7.upper(), f"{UUID7}\n", "", 7, ABSENT]),
        (
            "string:datetime",
            ["2026-01-01T00:00:00Z", "2026-02-28T23:59:59.123456789+02:00"],
            ["2026-02-30T00:00:00Z", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00", "2026-01-01", 1767225600, ABSENT],
        ),
        ("string:contains:max", ["the max is"], ["Max", "", ["max"], ABSENT]),
        ("string:pattern(^a.c$)", ["abc"], ["abcd", 1, ABSENT]),
        ("number:positive", [1, 0.1], [0, -1, True, "1", ABSENT]),
        ("number:non_negative", [0, 2], [-0.1, False, None, ABSENT]),
        ("number:range(400,422)", [400, 422.0, 410], [399, 423, "400", True, ABSENT]),
        ("number:range(-1.5, 1.5)", [-1.5, 0], [-1.6, 2]),
        ("one_of:400,422", [400, "422"], [401, None, "400,422", ABSENT]),
        ("~1000", [500, 1000, 1500.0], [499, 1501, "1000", None, True, ABSENT]),
        ("array:nonempty", [[0]], [[], {}, "x", ABSENT]),
        ("array:empty", [[]], [[0], {}, "", None, ABSENT]),
        ("array:length:2", [[1, 2]], [[1], [1, 2, 3], "ab", ABSENT]),
        ("array:length(0)", [[]], [[1], None, ABSENT]),
        ("array:min:2", [[1, 2], [1, 2, 3]], [[1], "abc", ABSENT]),
        ("array:min_length:1", [[1]], [[], {"a": 1}, ABSENT]),
        ("contains:b", [["a", "b"]], [["a", "bb"], "abc", [], ABSENT]),
        ("contains:42", [[42], ["42"]], [[4, 2]]),
        ("not_contains:b", [["a"], []], [["a", "b"], "abc", None, ABSENT]),
        # Arrays and objects.
        ([], [[]], [[1], None, {}, "", ABSENT]),
        ([1, "string:nonempty"], [[1, "x"]], [[1, ""], [1], ["x", 1], [1, "x", 2], ABSENT]),
        ([{"a": 1}], [[{"a": 1}]], [[{"a": 1, "b": 2}], [{}], [{"a": True}]]),
        ({"a": {"b": 1}}, [{"a": {"b": 1, "c": 2}, "d": 3}], [{"a": {"b": 2}}, {"a": 1}, {}, [], ABSENT]),
        ({"a": "absent"}, [{}, {"a": None, "b": 1}], [{"a": 1}, None, ABSENT]),
        # Operators.
        ({"$exists": True}, [0, ""], [None, ABSENT]),
        ({"$exists": False}, [None, ABSENT], [0, "", NO_PLACE]),
        ({"$exists": True, "$type": "string"}, [""], [1, None, ABSENT]),
        ({"$type": "number"}, [1, 1.5], [True, "1", ABSENT]),
        ({"$type": "boolean"}, [True], [1, ABSENT]),
        ({"$type": "null"}, [None], [0, ABSENT]),
        ({"$type": "array"}, [[]], [{}, ABSENT]),
        ({"$type": "object"}, [{}], [[], ABSENT]),
        ({"$in": ["ok", "array:empty", 3]}, ["ok", [], 3], ["no", [1], 4, None, ABSENT]),
        ({"$or": [{"$exists": False}, "string:nonempty"]}, [None, "x", ABSENT], ["", 1]),
        ({"$match": "^a+$"}, ["aa"], ["b", "", 1, None, ABSENT]),
        ({"$match": "b"}, ["abc"], ["ac"]),
        ({"$size": 0}, [[]], [[1], "", None, ABSENT]),
        ({"$size": {"$gte": 1, "$lt": 3}}, [[1], [1, 2]], [[], [1, 2, 3], ABSENT]),
        ({"$gt": 1, "$lte": 3}, [2, 3], [1, 4, True, "2", ABSENT]),
        ({"$gte": 1}, [1], [0.5]),
        ({"$lt": 1}, [0], [1]),
        ({"$empty": True}, [None, "", [], {}, ABSENT], [0, False, [1], NO_PLACE]),
        ({"$empty": False}, [0, False, [1]], [None, "", [], {}, ABSENT]),
        ({"range": {"min": 1000, "max": 3000}}, [1000, 3000], [999, 3001, "2000", ABSENT]),
        ({"range": {"min": 1}}, [1, 99], [0]),
        ({"range": 5}, [{"range": 5}], [5]),
        # References: their values are data, whatever they look like.
        ("{{steps.s.response.body.id}}", ["any"], [1, "x", None, ABSENT]),
        ("{{steps.s.response.body.list}}", [[1]], [[], [True], "[1]"]),
        ("contains:{{steps.s.response.body.word}}", [["x"]], [["y"], "x"]),
        ("array:length:{{n}}", [[0] * 5], [[0]]),
        ({"$eq": ["{{n}}"]}, [[5]], [["5"], [True]]),
    ],
)  # fmt: skip
def test_matcher(matcher: object, good: list[object], bad: list[object]) -> None:
    """The good values match, the bad ones do not and say what was wanted."""
    compiled = compile_matcher(matcher)
    for value in good:
        assert compiled.mismatch(found(value), SCOPE) is None, value
    for value in bad:
        mismatch = compiled.mismatch(found(value), SCOPE)
        assert mismatch is not None, value
        assert mismatch.expected
        assert mismatch.got


def test_says_where() -> None:
    """A mismatch inside arrays and objects names the place."""
    matcher = compile_matcher({"a": [1, {"b": 2}]})
    mismatch = matcher.mismatch(Found({"a": [1, {"b": 3}]}), SCOPE)
    assert mismatch is not None
    assert (mismatch.at, mismatch.expected, mismatch.got) == (".a[1].b", "2", "3")
    surplus = matcher.mismatch(Found({"a": [1, {"b": 2, "c": 4}]}), SCOPE)
    assert surplus is not None
    assert (surplus.at, surplus.expected, surplus.got) == (".a[1].c", "no further key", "4")


@pytest.mark.parametrize(
    "matcher",
    [
        "string:uuidv4",
        "string:",
        "string:contains:",
        "number:int",
        "number:range(1)",
        "number:range(5,1)",
        "array:length:x",
        "array:max:3",
        "array:min:-1",
        "contains:",
        "not_contains:",
        "one_of:",
        "~",
        "~abc",
        "string:pattern(()",
        "{{a b}}",
        "boolean:true",
        "contains:{{a b}}",
        {"$exists": "yes"},
        {"$exists": False, "$type": "string"},
        {"$type": "integer"},
        {"$regex": "a"},
        {"$in": []},
        {"$in": "a"},
        {"$or": []},
        {"$or": {}},
        {"$match": 1},
        {"$match": "("},
        {"$match": "{{n}}"},
        {"$size": -1},
        {"$size": {}},
        {"$size": {"$max": 1}},
        {"$size": {"$gte": "1"}},
        {"$size": True},
        {"$gte": "1"},
        {"$gte": True},
        {"$empty": 1},
        {"range": {}},
        {"range": {"min": "1"}},
        {"range": {"from": 1}},
        {"range": {"min": 2, "max": 1}},
        {"$exists": True, "name": "x"},
        {"$eq": "{{a b}}"},
        ["string:uuidv4"],
        {"a": {"b": "array:max:3"}},
        {"$in": ["string:uuidv4"]},
    ],
)
def test_unknown_matchers_are_errors(matcher: object) -> None:
    """What looks like a matcher and is none is refused when the case is loaded."""
    with pytest.raises(CaseError):
        compile_matcher(matcher)


def test_unknown_after_filling() -> None:
    """A word that turns out to be none once it is filled in is an error too."""
    with pytest.raises(CaseError, match="array:length:x"):
        compile_matcher("array:length:{{steps.s.response.body.word}}").mismatch(Found([]), SCOPE)


def test_unresolved_expectation() -> None:
    """An expected value that refers to nothing is an error, not a mismatch."""
    with pytest.raises(UnresolvedError):
        compile_matcher("{{nothing}}").mismatch(Found("{{nothing}}"), SCOPE)
