"""Matchers written as JSON values.

A value is compared for equality, with three exceptions:

* a string may be one of the reserved words of `words`;
* an object of operators, such as `{"$exists": true, "$type": "string"}` or `{"range": {"min": 1}}`, is one condition
  each;
* an object without operators must match key by key. It may have further keys, but not inside an array literal: there it
  is a piece of data that has to come back as it went in.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from ojs_core.testing.conformance.errors import CaseError, bad_value
from ojs_core.testing.conformance.matchers import (
    EMPTY_VALUES,
    Absent,
    AllOf,
    AnyOf,
    Empty,
    Equal,
    Fields,
    Items,
    Matcher,
    Satisfies,
)
from ojs_core.testing.conformance.templates import check_references
from ojs_core.testing.conformance.values import is_count, is_number, json_type, show
from ojs_core.testing.conformance.words import array_test, compile_word, pattern_test, range_test

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_TYPES = ("string", "number", "boolean", "null", "array", "object")


def compile_matcher(raw: object, *, exact: bool = False) -> Matcher:
    """Compile an expected value as a case writes it. Objects in it may have further keys unless `exact`.

    Raises `CaseError` for an unknown word or operator, and for one that could never fail.
    """
    if isinstance(raw, str):
        return compile_word(raw)
    if isinstance(raw, list):
        return Items(tuple(compile_matcher(element, exact=True) for element in raw))
    if not isinstance(raw, dict):
        return Equal(raw)
    if any(key.startswith("$") for key in raw) or _is_range(raw):
        return compile_operators(raw)
    return Fields({key: compile_matcher(value, exact=exact) for key, value in raw.items()}, exact)


def compile_operators(raw: dict[str, object]) -> Matcher:
    """Compile an object of operators, all of which must hold. Raises `CaseError`."""
    unknown = [key for key in raw if key not in _OPERATORS]
    if unknown or not raw:
        raise CaseError(
            f"unknown operator {unknown[0]!r} in {show(raw)}" if unknown else "an empty object of operators"
        )
    if raw.get("$exists") is False and len(raw) > 1:
        raise CaseError(f"$exists: false rules out every other operator: {show(raw)}")
    return AllOf(tuple(_OPERATORS[key](value) for key, value in raw.items()))


def _is_range(raw: dict[str, object]) -> bool:
    """Return whether an object is `{"range": {...}}`, the one operator without a dollar sign."""
    return len(raw) == 1 and isinstance(raw.get("range"), dict)


def _exists(value: object) -> Matcher:
    if value is True:
        return compile_word("exists")
    if value is False:
        return Absent()
    raise bad_value(value, "$exists")


def _type(value: object) -> Matcher:
    if value not in _TYPES:
        raise bad_value(value, "$type")
    return Satisfies(f"a JSON {value}", lambda found: json_type(found) == value)


def _equal(value: object) -> Matcher:
    check_references(value)
    return Equal(value)


def _in(value: object) -> Matcher:
    if not isinstance(value, list) or not value:
        raise bad_value(value, "$in")
    return AnyOf(tuple(compile_matcher(option) for option in value), f"one of {show(value)}")


def _or(value: object) -> Matcher:
    if not isinstance(value, list) or not value:
        raise bad_value(value, "$or")
    return AnyOf(tuple(compile_matcher(option) for option in value), f"any of {show(value)}")


def _match(value: object) -> Matcher:
    if not isinstance(value, str):
        raise bad_value(value, "$match")
    return pattern_test(f"a string matching {value}", value)


def _size(value: object) -> Matcher:
    if is_count(value):
        return array_test(f"an array of {value}", lambda size: size == value)
    if not isinstance(value, dict) or not value:
        raise bad_value(value, "$size")
    if any(key not in _COMPARISONS or not is_count(bound) for key, bound in value.items()):
        raise bad_value(value, "$size")
    bounds = [(_COMPARISONS[key], bound) for key, bound in value.items()]
    return array_test(
        f"an array of size {show(value)}", lambda size: all(holds(size, bound) for holds, bound in bounds)
    )


def _compare(name: str) -> Callable[[object], Matcher]:
    def compile_bound(value: object) -> Matcher:
        if not is_number(value):
            raise bad_value(value, name)
        holds, bound = _COMPARISONS[name], value
        return Satisfies(f"a number {name} {show(value)}", lambda found: is_number(found) and holds(found, bound))

    return compile_bound


def _empty(value: object) -> Matcher:
    if not isinstance(value, bool):
        raise bad_value(value, "$empty")
    return Empty() if value else Satisfies("something that is not empty", lambda found: found not in EMPTY_VALUES)


def _range(value: object) -> Matcher:
    if not isinstance(value, dict) or not value or not value.keys() <= {"min", "max"}:
        raise bad_value(value, "range")
    if not all(is_number(bound) for bound in value.values()):
        raise bad_value(value, "range")
    low, high = value.get("min"), value.get("max")
    return range_test(f"a number in {show(value)}", low, high)


_OPERATORS: dict[str, Callable[[object], Matcher]] = {
    "$exists": _exists,
    "$type": _type,
    "$eq": _equal,
    "$in": _in,
    "$or": _or,
    "$match": _match,
    "$size": _size,
    "$empty": _empty,
    "range": _range,
    **{name: _compare(name) for name in _COMPARISONS},
}
