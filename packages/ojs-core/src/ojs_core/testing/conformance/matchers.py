"""What can judge the value at one place of an answer.

Matchers are made from what a case writes by `words` and `operators`, when the case is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ojs_core.testing.conformance.paths import Found, Lookup, Missing
from ojs_core.testing.conformance.templates import Scope
from ojs_core.testing.conformance.values import same, show

EMPTY_VALUES: tuple[object, ...] = (None, "", [], {})


@dataclass(frozen=True, slots=True)
class Mismatch:
    """What was wanted and what was there. `at` leads from the place that was checked to the place that differs."""

    expected: str
    got: str
    at: str = ""


class Matcher(Protocol):
    """Anything that can judge what a path led to."""

    def mismatch(self, found: Lookup, scope: Scope) -> Mismatch | None:
        """Return None if it matches. Raises `UnresolvedError` if the expected value refers to nothing."""


@dataclass(frozen=True, slots=True)
class Satisfies:
    """A value must be there, and `holds` must be true of it."""

    expected: str
    holds: Callable[[object], bool]

    def mismatch(self, found: Lookup, scope: Scope) -> Mismatch | None:  # noqa: ARG002 - the protocol's signature
        """Judge one value."""
        if isinstance(found, Missing):
            return Mismatch(self.expected, f"nothing: {found.reason}")
        return None if self.holds(found.value) else Mismatch(self.expected, show(found.value))


@dataclass(frozen=True, slots=True)
class Absent:
    """`null` is there, or nothing is, although the object or array that would hold it is."""

    def mismatch(self, found: Lookup, scope: Scope) -> Mismatch | None:  # noqa: ARG002 - the protocol's signature
        """Judge one value."""
        if isinstance(found, Found):
            return None if found.value is None else Mismatch("absent", show(found.value))
        return (
            None if found.place_exists else Mismatch("absent from a place that is there", f"no place: {found.reason}")
        )


@dataclass(frozen=True, slots=True)
class Empty:
    """`null`, an empty string, array or object, or nothing where something could be."""

    def mismatch(self, found: Lookup, scope: Scope) -> Mismatch | None:  # noqa: ARG002 - the protocol's signature
        """Judge one value."""
        if isinstance(found, Found):
            return None if found.value in EMPTY_VALUES else Mismatch("something empty", show(found.value))
        return None if found.place_exists else Mismatch("something empty", f"no place: {found.reason}")


@dataclass(frozen=True, slots=True)
class Equal:
    """A value must be the same JSON value as `wanted` after its references are filled in."""

    wanted: object

    def mismatch(self, found: Lookup, scope: Scope) -> Mismatch | None:
        """Judge one value."""
        wanted = scope.fill(self.wanted)
        if isinstance(found, Missing):
            return Mismatch(show(wanted), f"nothing: {found.reason}")
        return None if same(wanted, found.value) else Mismatch(show(wanted), show(found.value))


@dataclass(frozen=True, slots=True)
class Items:
    """An array with exactly these elements, in this order."""

    matchers: tuple[Matcher, ...]

    def mismatch(self, found: Lookup, scope: Scope) -> Mismatch | None:
        """Judge one value."""
        expected = f"an array of {len(self.matchers)}"
        if isinstance(found, Missing):
            return Mismatch(expected, f"nothing: {found.reason}")
        if not isinstance(found.value, list) or len(found.value) != len(self.matchers):
            return Mismatch(expected, show(found.value))
        for index, (matcher, element) in enumerate(zip(self.matchers, found.value, strict=True)):
            if wrong := matcher.mismatch(Found(element), scope):
                return Mismatch(wrong.expected, wrong.got, f"[{index}]{wrong.at}")
        return None


@dataclass(frozen=True, slots=True)
class Fields:
    """An object with at least these keys, or with exactly these if `exact`."""

    matchers: dict[str, Matcher]
    exact: bool

    def mismatch(self, found: Lookup, scope: Scope) -> Mismatch | None:
        """Judge one value."""
        if isinstance(found, Missing):
            return Mismatch("an object", f"nothing: {found.reason}")
        value = found.value
        if not isinstance(value, dict):
            return Mismatch("an object", show(value))
        for key, matcher in self.matchers.items():
            field = Found(value[key]) if key in value else Missing(f"no key {key!r} in the object", place_exists=True)
            if wrong := matcher.mismatch(field, scope):
                return Mismatch(wrong.expected, wrong.got, f".{key}{wrong.at}")
        surplus = [key for key in value if key not in self.matchers]
        if self.exact and surplus:
            return Mismatch("no further key", show(value[surplus[0]]), f".{surplus[0]}")
        return None


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of several matchers must match."""

    options: tuple[Matcher, ...]
    expected: str

    def mismatch(self, found: Lookup, scope: Scope) -> Mismatch | None:
        """Judge one value."""
        if any(option.mismatch(found, scope) is None for option in self.options):
            return None
        return Mismatch(self.expected, f"nothing: {found.reason}" if isinstance(found, Missing) else show(found.value))


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every one of several matchers must match."""

    parts: tuple[Matcher, ...]

    def mismatch(self, found: Lookup, scope: Scope) -> Mismatch | None:
        """Judge one value."""
        return next((wrong for part in self.parts if (wrong := part.mismatch(found, scope))), None)
