"""The part of JSONPath that the cases use: `$`, `.name`, `['name']`, `[n]`, `[*]` and `[?(@.name=='value')]`.

Two rules go beyond plain JSONPath:

* Cases write the flat key `ojs.codec.key_id` of an object as `.ojs.codec.key_id`. Where the nested reading of dotted
  names finds nothing, neighbouring names are joined with dots and tried as one key.
* `[?(...)]` is the first matching element, not a list of them, and `[*]` needs every element to have the rest of the
  path.

Anything else in a path is a `CaseError`, never a path that quietly finds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ojs_core.testing.conformance.errors import CaseError
from ojs_core.testing.conformance.values import json_type, parse_json, same


@dataclass(frozen=True, slots=True)
class Found:
    """The value a path leads to. It may be None, JSON's `null`."""

    value: object


@dataclass(frozen=True, slots=True)
class Missing:
    """Nothing is where the path leads.

    `place_exists` tells a clean absence (the object or array that could hold the last step is there, and does not) from
    a path that broke earlier, for instance because the whole answer is of another shape.
    """

    reason: str
    place_exists: bool = False


Lookup = Found | Missing


@dataclass(frozen=True, slots=True)
class _Name:
    name: str
    joinable: bool  # written with a dot, so it may be a piece of a key that has dots in it


@dataclass(frozen=True, slots=True)
class _Index:
    index: int


@dataclass(frozen=True, slots=True)
class _Every:
    pass


@dataclass(frozen=True, slots=True)
class _First:
    field: Path
    wanted: str
    quoted: bool


_Segment = _Name | _Index | _Every | _First
_Fill = Callable[[str], object]

_PIECE = re.compile(
    r"""
      \.(?P<name>[\w-]+)
    | \[(?P<index>\d+)\]
    | (?P<every>\[\*\])
    | \[(?P<quote>['"])(?P<key>[^'"]+)(?P=quote)\]
    | \[\?\(@\.(?P<field>[\w.-]+)\s*==\s*(?:(?P<mark>['"])(?P<wanted>[^'"]*)(?P=mark)|(?P<bare>[\w.+-]+))\s*\)\]
    """,
    re.VERBOSE,
)


def _unchanged(text: str) -> object:
    return text


@dataclass(frozen=True, slots=True)
class Path:
    """A parsed path. `text` is how the case wrote it."""

    text: str
    segments: tuple[_Segment, ...]

    def lookup(self, root: object, fill: _Fill = _unchanged) -> Lookup:
        """Follow the path from `root`. `fill` replaces references in the quoted values of filters."""
        return _walk(self.segments, root, fill)

    def quoted_values(self) -> list[str]:
        """Return the quoted values of filters: the only places of a path that may hold references."""
        return [segment.wanted for segment in self.segments if isinstance(segment, _First) and segment.quoted]


def parse_path(text: str) -> Path:
    """Parse a path; the leading `$` may be left out. Raises `CaseError` for anything outside the subset."""
    rest = text[1:] if text.startswith("$") else text if text.startswith("[") else f".{text}"
    segments: list[_Segment] = []
    position = 0
    while position < len(rest):
        match = _PIECE.match(rest, position)
        if match is None:
            raise CaseError(f"path {text!r}: cannot read {rest[position:]!r}")
        segments.append(_segment(match))
        position = match.end()
    return Path(text, tuple(segments))


def _segment(match: re.Match[str]) -> _Segment:
    if match["name"] is not None:
        return _Name(match["name"], joinable=True)
    if match["index"] is not None:
        return _Index(int(match["index"]))
    if match["every"] is not None:
        return _Every()
    if match["key"] is not None:
        return _Name(match["key"], joinable=False)
    quoted = match["wanted"] is not None
    return _First(parse_path(match["field"]), match["wanted"] if quoted else match["bare"], quoted)


def _walk(segments: tuple[_Segment, ...], value: object, fill: _Fill) -> Lookup:
    if not segments:
        return Found(value)
    head, rest = segments[0], segments[1:]
    match head:
        case _Name():
            return _walk_name(head, segments, value, fill)
        case _Index(index):
            return _walk_index(index, rest, value, fill)
        case _Every():
            return _walk_every(rest, value, fill)
        case _:
            return _walk_first(head, rest, value, fill)


def _walk_name(head: _Name, segments: tuple[_Segment, ...], value: object, fill: _Fill) -> Lookup:
    if not isinstance(value, dict):
        return Missing(f"{head.name!r} needs an object, there is {_describe(value)}")
    missing = Missing(f"no key {head.name!r} in the object", place_exists=len(segments) == 1)
    for used, key in enumerate(_readings(head, segments), start=1):
        if key in value:
            found = _walk(segments[used:], value[key], fill)
            if isinstance(found, Found):
                return found
            # The plain reading is the one worth reporting: it is how the path is written.
            missing = found if used == 1 else missing
    return missing


def _readings(head: _Name, segments: tuple[_Segment, ...]) -> Iterator[str]:
    """Yield the keys that the first name, the first two names joined with a dot, and so on, could mean."""
    key = head.name
    yield key
    for segment in segments[1:]:
        if not (head.joinable and isinstance(segment, _Name) and segment.joinable):
            return
        key = f"{key}.{segment.name}"
        yield key


def _walk_index(index: int, rest: tuple[_Segment, ...], value: object, fill: _Fill) -> Lookup:
    if not isinstance(value, list):
        return Missing(f"[{index}] needs an array, there is {_describe(value)}")
    if index >= len(value):
        return Missing(f"[{index}] is outside an array of {len(value)}", place_exists=not rest)
    return _walk(rest, value[index], fill)


def _walk_every(rest: tuple[_Segment, ...], value: object, fill: _Fill) -> Lookup:
    if not isinstance(value, list):
        return Missing(f"[*] needs an array, there is {_describe(value)}")
    found: list[object] = []
    for index, element in enumerate(value):
        lookup = _walk(rest, element, fill)
        if isinstance(lookup, Missing):
            return Missing(f"element {index}: {lookup.reason}")
        found.append(lookup.value)
    return Found(found)


def _walk_first(head: _First, rest: tuple[_Segment, ...], value: object, fill: _Fill) -> Lookup:
    if not isinstance(value, list):
        return Missing(f"a filter needs an array, there is {_describe(value)}")
    wanted = fill(head.wanted) if head.quoted else _bare(head.wanted)
    for element in value:
        field = head.field.lookup(element)
        if isinstance(field, Found) and same(field.value, wanted):
            return _walk(rest, element, fill)
    return Missing(f"none of {len(value)} elements has {head.field.text} == {wanted!r}", place_exists=not rest)


def _bare(text: str) -> object:
    """Read an unquoted filter value: a number, `true`, `false` or `null`, else the text itself."""
    try:
        return parse_json(text)
    except ValueError:
        return text


def _describe(value: object) -> str:
    return "null" if value is None else f"a JSON {json_type(value)}"
