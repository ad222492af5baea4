"""Checks on one answer: the `assertions` and `expect` of a step.

`assertions` is the common form. `expect` is the short form of some extension suites: the same keys, body checks also as
`body.PATH` keys beside `status`, and body paths without `$`. Every key is known here or the case is in error; a check
that looks at nothing is in error too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ojs_core.testing.conformance.client import Response
from ojs_core.testing.conformance.errors import CaseError, bad_value
from ojs_core.testing.conformance.matchers import Absent, AnyOf, Equal, Matcher
from ojs_core.testing.conformance.operators import compile_matcher, compile_operators
from ojs_core.testing.conformance.paths import Found, Lookup, Missing, Path, parse_path
from ojs_core.testing.conformance.templates import Scope, check_references, has_references
from ojs_core.testing.conformance.values import is_count, show

TIMING_MARGIN_SHARE = 0.5
TIMING_MARGIN_MIN_MS = 100.0
_COMMENTS = frozenset({"description", "body_comment", "headers_comment"})  # prose for people, nothing to check


@dataclass(frozen=True, slots=True)
class Violation:
    """One way in which an answer is not what the case wants."""

    path: str
    expected: str
    got: str


class Check(Protocol):
    """One thing to look at in an answer."""

    def violations(self, response: Response, scope: Scope) -> Iterator[Violation]:
        """Yield what is wrong. Raises `UnresolvedError` if the expected value refers to nothing."""


@dataclass(frozen=True, slots=True)
class StatusCheck:
    """The status code."""

    matcher: Matcher

    def violations(self, response: Response, scope: Scope) -> Iterator[Violation]:
        """Yield what is wrong with the status, with the start of the body: it usually says why."""
        if wrong := self.matcher.mismatch(Found(response.status), scope):
            body = response.raw.decode("utf-8", "replace")[:300]
            yield Violation("status", wrong.expected, f"{wrong.got}, body {body}" if body else wrong.got)


@dataclass(frozen=True, slots=True)
class HeaderCheck:
    """One response header, found by name in any case, its value compared exactly."""

    name: str
    matcher: Matcher

    def violations(self, response: Response, scope: Scope) -> Iterator[Violation]:
        """Yield what is wrong with the header."""
        if wrong := self.matcher.mismatch(response.header(self.name), scope):
            yield Violation(f"header {self.name}", wrong.expected, wrong.got)


@dataclass(frozen=True, slots=True)
class BodyCheck:
    """The value at one path of a JSON body."""

    path: Path
    matcher: Matcher

    def violations(self, response: Response, scope: Scope) -> Iterator[Violation]:
        """Yield what is wrong at the path."""
        if wrong := self.matcher.mismatch(look_up(self.path, response, scope), scope):
            yield Violation(f"{self.path.text}{wrong.at}", wrong.expected, wrong.got)


@dataclass(frozen=True, slots=True)
class BodyAnyOf:
    """Several groups of body checks, at least one of which must hold as a whole."""

    groups: tuple[tuple[Check, ...], ...]
    shown: str

    def violations(self, response: Response, scope: Scope) -> Iterator[Violation]:
        """Yield one violation if every group fails."""
        if not any(all(not [*check.violations(response, scope)] for check in group) for group in self.groups):
            yield Violation("$or", f"any of {self.shown}", response.raw.decode("utf-8", "replace")[:300])


@dataclass(frozen=True, slots=True)
class BodyContains:
    """A piece of text somewhere in the body, read as UTF-8, in the same case."""

    part: str

    def violations(self, response: Response, scope: Scope) -> Iterator[Violation]:
        """Yield one violation if the text is not there."""
        part, text = scope.render(self.part), response.raw.decode("utf-8", "replace")
        if part not in text:
            yield Violation("body", f"a body containing {show(part)}", text[:300])


@dataclass(frozen=True, slots=True)
class TimingCheck:
    """The time from sending the request to having the whole answer."""

    expected: str
    holds: Callable[[float], bool]

    def violations(self, response: Response, scope: Scope) -> Iterator[Violation]:  # noqa: ARG002 - protocol
        """Yield one violation if the answer came at the wrong time."""
        if not self.holds(response.elapsed_ms):
            yield Violation("timing_ms", self.expected, f"{response.elapsed_ms:.0f} ms")


def look_up(path: Path, response: Response, scope: Scope) -> Lookup:
    """Follow a path in a response body. A body without JSON is missing at every path."""
    root = response.json()
    if isinstance(root, Missing):
        return Missing(root.reason, place_exists=root.place_exists and not path.segments)
    return path.lookup(root.value, scope.fill_text)


def compile_path(text: str) -> Path:
    """Parse a path and check the references in it. Raises `CaseError`."""
    path = parse_path(text)
    check_references(path.quoted_values())
    return path


def compile_checks(raw: object, where: str, *, subject: str = "$") -> tuple[Check, ...]:
    """Compile an `assertions` or `expect` object, `where` being its name. Raises `CaseError`.

    `subject` is put before paths that do not start with `$`: the part of the body such paths are about.
    """
    if not isinstance(raw, dict):
        raise CaseError(f"{where} must be an object, not {show(raw)}")
    checks: list[Check] = []
    for key, value in raw.items():
        if key in _COMMENTS:
            continue
        if where == "expect" and key.startswith("body."):
            checks += _body({key.removeprefix("body."): value}, key, subject)
        elif key == "body":
            checks += _body(value, key, subject)
        elif key in _KEYS:
            checks += _KEYS[key](value, key)
        else:
            raise CaseError(f"unknown key {key!r} in {where}")
    if not checks:
        raise CaseError(f"{where} checks nothing")
    return tuple(checks)


def _status(value: object, key: str) -> list[Check]:
    if isinstance(value, list):
        return _status_in(value, key)
    if isinstance(value, dict):
        return [StatusCheck(compile_operators(value))]
    matcher = compile_matcher(value)
    if is_count(value) or (isinstance(value, str) and (not isinstance(matcher, Equal) or has_references(value))):
        return [StatusCheck(matcher)]
    raise bad_value(value, key)


def _status_in(value: object, key: str) -> list[Check]:
    if not isinstance(value, list) or not value or not all(is_count(code) for code in value):
        raise bad_value(value, key)
    return [StatusCheck(AnyOf(tuple(Equal(code) for code in value), f"one of {show(value)}"))]


def _headers(value: object, key: str) -> list[Check]:
    if not isinstance(value, dict) or not value:
        raise bad_value(value, key)
    checks: list[Check] = []
    for name, wanted in value.items():
        if isinstance(wanted, str):
            check_references(wanted)
            checks.append(HeaderCheck(name, Equal(wanted)))
        elif isinstance(wanted, dict):
            checks.append(HeaderCheck(name, compile_operators(wanted)))
        else:
            raise bad_value(wanted, f"{key} {name}")
    return checks


def _body(value: object, key: str, subject: str) -> list[Check]:
    if not isinstance(value, dict) or not value:
        raise bad_value(value, key)
    checks: list[Check] = []
    for path, wanted in value.items():
        if path == "$or":
            checks.append(_body_any_of(wanted, subject))
        elif path == "$empty":
            checks.append(BodyCheck(parse_path("$"), compile_operators({path: wanted})))
        else:
            full = path if path.startswith("$") else f"{subject}.{path}"
            checks.append(BodyCheck(compile_path(full), compile_matcher(wanted)))
    return checks


def _body_any_of(value: object, subject: str) -> Check:
    if not isinstance(value, list) or not value:
        raise bad_value(value, "$or")
    return BodyAnyOf(tuple(tuple(_body(group, "$or", subject)) for group in value), show(value))


def _body_absent(value: object, key: str) -> list[Check]:
    return [BodyCheck(compile_path(path), Absent()) for path in _texts(value, key)]


def _body_contains(value: object, key: str) -> list[Check]:
    parts = _texts(value, key)
    check_references(parts)
    return [BodyContains(part) for part in parts]


def _timing(value: object, key: str) -> list[Check]:
    if not isinstance(value, dict) or not value or not all(is_count(bound) for bound in value.values()):
        raise bad_value(value, key)
    return [_timing_check(name, bound) for name, bound in value.items()]


def _timing_check(name: str, bound: int) -> Check:
    if name == "less_than":
        return TimingCheck(f"less than {bound} ms", lambda elapsed: elapsed < bound)
    if name == "greater_than":
        return TimingCheck(f"more than {bound} ms", lambda elapsed: elapsed > bound)
    if name == "approximate":
        margin = max(bound * TIMING_MARGIN_SHARE, TIMING_MARGIN_MIN_MS)
        return TimingCheck(f"{bound} ms, give or take {margin:.0f}", lambda elapsed: abs(elapsed - bound) <= margin)
    raise CaseError(f"unknown key {name!r} in timing_ms")


def _texts(value: object, key: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
        raise bad_value(value, key)
    return value


_KEYS: dict[str, Callable[[object, str], list[Check]]] = {
    "status": _status,
    "status_in": _status_in,
    "status_one_of": _status_in,
    "headers": _headers,
    "body_absent": _body_absent,
    "body_contains": _body_contains,
    "timing_ms": _timing,
}
