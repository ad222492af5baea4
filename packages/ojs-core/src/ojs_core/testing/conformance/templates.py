"""References from one step to the answers of earlier ones, and to values they captured.

Three spellings occur in the cases: `{{steps.ID.response.body.PATH}}` (also `.status` and `.headers.NAME`), `{{NAME}}`
or `${NAME}` for a captured value, and `$ref.NAME` as a whole string. A string that is nothing but one reference becomes
the value itself, whatever its type; a reference inside a longer string becomes text. A reference that leads nowhere
raises `UnresolvedError`: the unfilled text is never sent and never compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ojs_core.testing.conformance.client import Response
from ojs_core.testing.conformance.errors import CaseError, UnresolvedError
from ojs_core.testing.conformance.paths import Found, Lookup, Missing, Path, parse_path

_REFERENCE = re.compile(r"\{\{(?P<braces>[^{}]*)\}\}|\$\{(?P<dollar>[^{}]*)\}")
_WHOLE_REF = re.compile(r"\$ref\.(?P<name>\w+)")
_STEP = re.compile(r"steps\.(?P<step>[^.\s]+)\.response\.(?P<part>body|status|headers)(?P<rest>.*)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(slots=True)
class Scope:
    """What the references of one run of one case can see: answers by step id, captured values by name."""

    responses: dict[str, Response] = field(default_factory=dict)
    variables: dict[str, object] = field(default_factory=dict)

    def fill(self, value: object) -> object:
        """Return a copy of a JSON value with every reference in its strings, at any depth, replaced."""
        if isinstance(value, str):
            return self.fill_text(value)
        if isinstance(value, list):
            return [self.fill(element) for element in value]
        if isinstance(value, dict):
            return {key: self.fill(element) for key, element in value.items()}
        return value

    def fill_text(self, text: str) -> object:
        """Return the value of a string: of any type if the string is one reference, else a string."""
        parts = _split(text)
        if len(parts) == 1 and isinstance(parts[0], _Reference):
            return parts[0].resolve(self)
        return self.render(text)

    def render(self, text: str, quote: Callable[[str], str] = str) -> str:
        """Return a string with its references replaced by text, each passed through `quote`."""
        return "".join(part if isinstance(part, str) else quote(_as_text(part.resolve(self))) for part in _split(text))


def check_references(value: object) -> None:
    """Raise `CaseError` if a string in a JSON value, at any depth, holds a reference that cannot be read."""
    if isinstance(value, str):
        _split(value)
    elif isinstance(value, list):
        for element in value:
            check_references(element)
    elif isinstance(value, dict):
        for key, element in value.items():
            if _looks_like_reference(key):
                raise CaseError(f"references in keys are not known: {key!r}")
            check_references(element)


def check_step_reference(text: str) -> None:
    """Raise `CaseError` unless a text without braces refers to the answer of a step."""
    if not _parse_reference(text).part:
        raise CaseError(f"not a reference to the answer of a step: {text!r}")


def has_references(text: str) -> bool:
    """Return whether a string holds at least one reference. Raises `CaseError` as `check_references` does."""
    return any(not isinstance(part, str) for part in _split(text))


def resolve_reference(text: str, scope: Scope) -> object:
    """Return what a reference, given without its braces, leads to. Raises `CaseError` or `UnresolvedError`."""
    return _parse_reference(text).resolve(scope)


@dataclass(frozen=True, slots=True)
class _Reference:
    text: str
    name: str  # a captured name, or the id of a step if `part` is set
    part: str = ""
    header: str = ""
    path: Path = field(default_factory=lambda: parse_path("$"))

    def resolve(self, scope: Scope) -> object:
        if not self.part:
            if self.name not in scope.variables:
                raise UnresolvedError(f"{self.text}: nothing was captured as {self.name!r}")
            return scope.variables[self.name]
        response = scope.responses.get(self.name)
        if response is None:
            raise UnresolvedError(f"{self.text}: no earlier step {self.name!r} has an answer")
        if self.part == "status":
            return response.status
        found = response.header(self.header) if self.part == "headers" else self._in_body(response)
        if isinstance(found, Missing):
            raise UnresolvedError(f"{self.text}: {found.reason}")
        return found.value

    def _in_body(self, response: Response) -> Lookup:
        root = response.json()
        return self.path.lookup(root.value) if isinstance(root, Found) else root


def _parse_reference(text: str) -> _Reference:
    inner = text.strip()
    if match := _STEP.fullmatch(inner):
        step, part, rest = match["step"], match["part"], match["rest"]
        if part == "body":
            return _Reference(inner, step, part, path=parse_path(f"${rest}"))
        if part == "status" and not rest:
            return _Reference(inner, step, part)
        if part == "headers" and re.fullmatch(r"\.[\w-]+", rest):
            return _Reference(inner, step, part, header=rest[1:])
    elif _NAME.fullmatch(inner):
        return _Reference(inner, inner)
    raise CaseError(f"cannot read the reference {text!r}")


def _split(text: str) -> list[str | _Reference]:
    if match := _WHOLE_REF.fullmatch(text):
        return [_Reference(text, match["name"])]
    parts: list[str | _Reference] = []
    end = 0
    for match in _REFERENCE.finditer(text):
        parts.append(text[end : match.start()])
        inner = match["braces"] if match["braces"] is not None else match["dollar"]
        parts.append(_parse_reference(inner))
        end = match.end()
    parts.append(text[end:])
    for part in parts:
        if isinstance(part, str) and _looks_like_reference(part):
            raise CaseError(f"cannot read the reference in {text!r}")
    return [part for part in parts if part != ""]


def _looks_like_reference(text: str) -> bool:
    return "{{" in text or "${" in text or "$ref." in text


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
