"""Matchers written as strings: reserved words such as `string:uuidv7`, and everything else, which is a literal.

A string that starts like a reserved word and is none is a `CaseError`, as is one that could never fail. A literal that
would be taken for a word can be written as `{"$eq": "..."}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from ojs_core.testing.conformance.errors import CaseError
from ojs_core.testing.conformance.matchers import Absent, Equal, Matcher, Mismatch, Satisfies
from ojs_core.testing.conformance.paths import Lookup
from ojs_core.testing.conformance.templates import Scope, check_references, has_references
from ojs_core.testing.conformance.values import is_number, show

APPROXIMATION = 0.5  # `~N` allows this share of N on either side
_RESERVED = (
    "string:",
    "number:",
    "integer:",
    "boolean:",
    "array:",
    "object:",
    "contains:",
    "not_contains:",
    "one_of:",
    "~",
)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_DATETIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_NUMBER = r"-?\d+(?:\.\d+)?"


@dataclass(frozen=True, slots=True)
class Late:
    """A word whose argument holds references, so that it can be compiled only when they are known."""

    word: str

    def mismatch(self, found: Lookup, scope: Scope) -> Mismatch | None:
        """Judge one value. Raises `CaseError` if the filled-in word is not a matcher after all."""
        return _compile_family(scope.render(self.word)).mismatch(found, scope)


def compile_word(text: str) -> Matcher:
    """Compile a string: one of the reserved words, or a literal. Raises `CaseError` for a word nobody knows."""
    if text in _WORDS:
        return _WORDS[text]
    if not text.startswith(_RESERVED):
        check_references(text)
        return Equal(text)
    return Late(text) if has_references(text) else _compile_family(text)


def _compile_family(text: str) -> Matcher:
    for pattern, make in _FAMILIES:
        if match := pattern.fullmatch(text):
            return make(text, *match.groups())
    raise CaseError(f"unknown matcher {text!r}")


def array_test(expected: str, size_fits: Callable[[int], bool]) -> Matcher:
    """Return a matcher for an array whose length passes a test."""
    return Satisfies(expected, lambda value: isinstance(value, list) and size_fits(len(value)))


def pattern_test(expected: str, pattern: str) -> Matcher:
    """Return a matcher for a string in which a regular expression is found, anywhere unless it is anchored."""
    if "{{" in pattern or "${" in pattern:
        raise CaseError(f"references inside a regular expression are not known: {pattern!r}")
    try:
        compiled = re.compile(pattern, re.ASCII)
    except re.error as error:
        raise CaseError(f"bad regular expression {pattern!r}: {error}") from error
    return Satisfies(expected, lambda value: isinstance(value, str) and compiled.search(value) is not None)


def range_test(expected: str, low: float | None, high: float | None) -> Matcher:
    """Return a matcher for a number within bounds, both inclusive. A range nothing fits in is a `CaseError`."""
    if low is not None and high is not None and low > high:
        raise CaseError(f"empty range: {expected}")

    def holds(value: object) -> bool:
        return is_number(value) and (low is None or value >= low) and (high is None or value <= high)

    return Satisfies(expected, holds)


def _is_datetime(value: object) -> bool:
    """Return whether a value is an RFC 3339 date-time that exists: 30 February has the form but is no date."""
    if not isinstance(value, str) or _DATETIME.fullmatch(value) is None:
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _text_of(element: object) -> str:
    return element if isinstance(element, str) else show(element)


def _one_of(word: str, argument: str) -> Matcher:
    options = [option.strip() for option in argument.split(",")]
    return Satisfies(word, lambda value: isinstance(value, str | int | float) and _text_of(value) in options)


def _containing(word: str, part: str) -> Matcher:
    return Satisfies(word, lambda value: isinstance(value, str) and part in value)


_NONEMPTY = Satisfies("a non-empty string", lambda value: isinstance(value, str) and value != "")
_PRESENT = Satisfies("any value but null", lambda value: value is not None)
_WORDS: dict[str, Matcher] = {
    "any": _PRESENT,
    "exists": _PRESENT,
    "absent": Absent(),
    "string:nonempty": _NONEMPTY,
    "string:non_empty": _NONEMPTY,
    "string:uuid": Satisfies("a UUID", lambda value: isinstance(value, str) and _UUID.fullmatch(value) is not None),
    "string:uuidv7": Satisfies(
        "a UUIDv7", lambda value: isinstance(value, str) and _UUID7.fullmatch(value) is not None
    ),
    "string:datetime": Satisfies("an RFC 3339 date-time", _is_datetime),
    "number:positive": Satisfies("a number above 0", lambda value: is_number(value) and value > 0),
    "number:non_negative": Satisfies("a number of 0 or more", lambda value: is_number(value) and value >= 0),
    "array:nonempty": array_test("a non-empty array", lambda size: size > 0),
    "array:empty": array_test("an empty array", lambda size: size == 0),
}

_FAMILIES: tuple[tuple[re.Pattern[str], Callable[..., Matcher]], ...] = (
    (re.compile(r"array:length(?::(\d+)|\((\d+)\))"), lambda word, a, b: _sized(word, a or b, at_least=False)),
    (re.compile(r"array:min(?:_length)?:(\d+)"), lambda word, size: _sized(word, size, at_least=True)),
    (re.compile(r"contains:(.+)", re.DOTALL), lambda word, item: _listed(word, item, wanted=True)),
    (re.compile(r"not_contains:(.+)", re.DOTALL), lambda word, item: _listed(word, item, wanted=False)),
    (re.compile(r"string:contains:(.+)", re.DOTALL), _containing),
    (re.compile(r"string:pattern\((.+)\)", re.DOTALL), pattern_test),
    (re.compile(rf"number:range\(({_NUMBER}),\s*({_NUMBER})\)"), lambda w, a, b: range_test(w, float(a), float(b))),
    (re.compile(rf"~({_NUMBER})"), lambda word, number: _approximately(word, float(number))),
    (re.compile(r"one_of:(.+)"), _one_of),
)


def _sized(word: str, size: str, *, at_least: bool) -> Matcher:
    wanted = int(size)
    return array_test(word, lambda length: length >= wanted if at_least else length == wanted)


def _listed(word: str, item: str, *, wanted: bool) -> Matcher:
    return Satisfies(word, lambda value: isinstance(value, list) and (item in map(_text_of, value)) is wanted)


def _approximately(word: str, number: float) -> Matcher:
    margin = abs(number) * APPROXIMATION
    return range_test(word, number - margin, number + margin)
