"""JSON values are read, compared and shown without Python's leniency."""

from __future__ import annotations

import pytest

from ojs_core.testing.conformance.values import (
    SHOWN_CHARS_MAX,
    first_difference,
    json_type,
    parse_json,
    parse_json_without_duplicates,
    same,
    show,
)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1, 1.0),
        (2**70, 2**70),
        ([1, {"a": None}], [1.0, {"a": None}]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (None, None),
    ],
)
def test_same(left: object, right: object) -> None:
    """Numbers compare by value, objects without order."""
    assert same(left, right)
    assert first_difference(left, right) is None


@pytest.mark.parametrize(
    ("left", "right", "at"),
    [
        (True, 1, "$"),
        (1, True, "$"),
        (False, 0, "$"),
        (0, None, "$"),
        ("1", 1, "$"),
        (2**53, 2**53 + 1, "$"),
        ([], {}, "$"),
        ([1], [1, 2], "$"),
        ({"a": [1, 2]}, {"a": [1, 3]}, "$.a[1]"),
        ({"a": None}, {}, "$.a"),
        ({}, {"a": None}, "$.a"),
        ({"a": {"b": True}}, {"a": {"b": 1}}, "$.a.b"),
    ],
)
def test_different(left: object, right: object, at: str) -> None:
    """Booleans are not numbers, a missing key is not null, and the first difference is named."""
    assert not same(left, right)
    assert first_difference(left, right) == at


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "-Infinity", "{", "{'a': 1}", ""])
def test_refuses_what_is_not_json(text: str) -> None:
    """Python's extensions of JSON are not accepted."""
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text)


def test_refuses_duplicate_keys_on_request() -> None:
    """A second equal key would hide the first."""
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="'a' appears twice"):
        parse_json_without_duplicates('[{"b": 0, "a": 1, "a": 2}]')


def test_types() -> None:
    """Every value has its JSON type."""
    values: list[object] = ["", 1, 1.5, True, None, [], {}]
    assert [json_type(value) for value in values] == [
        "string", "number", "number", "boolean", "null", "array", "object",
    ]  # fmt: skip


def test_show() -> None:
    """Values are shown as JSON, shortened, and always fit into UTF-8."""
    assert show({"a": [True, None, "é"]}) == '{"a": [true, null, "é"]}'
    assert show("\ud800") == '"\\ud800"'
    shown = show("x" * SHOWN_CHARS_MAX)
    assert shown.endswith(f"({SHOWN_CHARS_MAX + 2} characters)")
