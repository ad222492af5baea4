"""Steps of a case: requests, waits and comparisons, parsed from their JSON.

Three dialects occur in the official suites and are told apart by their keys, not by their folder: a request with
`assertions`; a request with `expect` and `capture`; and an abstract operation (`push`, `get`, `fetch`, `ack`) with
`request`, `expect` and `store`, which is translated here to the HTTP binding of that operation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ojs_core.testing.conformance.checks import Check, compile_checks, compile_path
from ojs_core.testing.conformance.client import MEDIA_TYPE
from ojs_core.testing.conformance.cross import CrossCheck, compile_cross_checks
from ojs_core.testing.conformance.errors import CaseError, bad_value
from ojs_core.testing.conformance.paths import Path
from ojs_core.testing.conformance.templates import Scope, check_references
from ojs_core.testing.conformance.values import is_count

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PROSE = frozenset({"id", "action", "intent", "description"})
_REQUEST_KEYS = _PROSE | {
    "path", "headers", "body", "raw_body", "delay_ms", "assertions", "expect", "capture", "captures", "store", "repeat",
    "parallel_with",
}  # fmt: skip
_OPERATION_KEYS = _PROSE | {"request", "delay_ms", "assertions", "expect", "capture", "captures", "store"}
_WAIT_KEYS = _PROSE | {"delay_ms", "duration_ms"}
_ASSERT_KEYS = _PROSE | {"delay_ms", "assertions"}


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for `delay_ms`."""

    id: str
    delay_ms: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Wait `delay_ms`, then compare answers that earlier steps got."""

    id: str
    delay_ms: int
    checks: tuple[CrossCheck, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """Wait `delay_ms`, then send one HTTP request `repeat` times, one after another, and check every answer.

    `path`, the values of `headers` and the strings in `json_body` may hold references; `raw_body` goes out as it is.
    """

    id: str
    delay_ms: int
    method: str
    path: str
    headers: Mapping[str, str]
    json_body: object | None
    raw_body: bytes | None
    checks: tuple[Check, ...]
    captures: tuple[tuple[str, Path], ...]
    repeat: int
    parallel_with: str | None

    def payload(self, scope: Scope) -> bytes | None:
        """Return the bytes to send. Raises `UnresolvedError`, or `CaseError` for text that UTF-8 cannot hold."""
        if self.raw_body is not None or self.json_body is None:
            return self.raw_body
        text = json.dumps(scope.fill(self.json_body), ensure_ascii=False)
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            raise CaseError(f"the body cannot be written as UTF-8: {error}") from error


Step = Request | Wait | Comparison


def parse_step(raw: object, number: int) -> Step:
    """Parse one step, the `number`th of its case from 1. Raises `CaseError` for anything not understood."""
    if not isinstance(raw, dict):
        raise CaseError(f"step {number} must be an object")
    step_id = raw.get("id", f"step {number}")
    action = raw.get("action")
    try:
        if not isinstance(action, str):
            raise bad_value(action, "action")
        if not isinstance(step_id, str) or not step_id:
            raise bad_value(step_id, "id")
        delay_ms = _count(raw, "delay_ms")
        if action == "WAIT":
            _check_keys(raw, _WAIT_KEYS)
            return Wait(step_id, _wait_ms(raw, delay_ms))
        if action == "ASSERT":
            _check_keys(raw, _ASSERT_KEYS)
            return Comparison(step_id, delay_ms, compile_cross_checks(raw.get("assertions")))
        if action in METHODS:
            _check_keys(raw, _REQUEST_KEYS)
            return _request(raw, step_id, delay_ms)
        if action in _OPERATIONS:
            _check_keys(raw, _OPERATION_KEYS)
            return _request(_OPERATIONS[action](raw), step_id, delay_ms, subject=_SUBJECTS.get(action, "$"))
        raise bad_value(action, "action")
    except CaseError as error:
        raise CaseError(f"{step_id}: {error}") from error


def _check_keys(raw: dict[str, object], known: frozenset[str]) -> None:
    for key in raw:
        if key not in known:
            raise CaseError(f"unknown key {key!r} in a step with the action {raw['action']}")


def _wait_ms(raw: dict[str, object], delay_ms: int) -> int:
    total = delay_ms + _count(raw, "duration_ms")
    if total == 0:
        raise CaseError("a WAIT step needs duration_ms or delay_ms")
    return total


def _request(raw: dict[str, object], step_id: str, delay_ms: int, *, subject: str = "$") -> Request:
    path = raw.get("path")
    if not isinstance(path, str) or not path.startswith("/"):
        raise bad_value(path, "path")
    body, raw_body = raw.get("body"), raw.get("raw_body")
    if "raw_body" in raw and (not isinstance(raw_body, str) or "body" in raw):
        raise bad_value(raw_body, "raw_body")
    if "body" in raw and body is None:
        raise bad_value(body, "body")
    headers = _headers(raw)
    check_references([path, body, list(headers.values())])
    if (body is not None or raw_body is not None) and "content-type" not in {name.lower() for name in headers}:
        headers["Content-Type"] = MEDIA_TYPE
    return Request(
        id=step_id,
        delay_ms=delay_ms,
        method=str(raw["action"]),
        path=path,
        headers=headers,
        json_body=body,
        raw_body=raw_body.encode() if isinstance(raw_body, str) else None,
        checks=tuple(
            check
            for key in ("assertions", "expect")
            if key in raw
            for check in compile_checks(raw[key], key, subject=subject)
        ),
        captures=_captures(raw, subject),
        repeat=_repeat(raw),
        parallel_with=_partner(raw),
    )


def _headers(raw: dict[str, object]) -> dict[str, str]:
    headers = raw.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise bad_value(headers, "headers")
    return dict(headers)


def _captures(raw: dict[str, object], subject: str) -> tuple[tuple[str, Path], ...]:
    captures: list[tuple[str, Path]] = []
    for key in ("capture", "captures", "store"):
        entries = raw.get(key, {})
        if not isinstance(entries, dict) or not all(isinstance(path, str) for path in entries.values()):
            raise bad_value(entries, key)
        for name, path in entries.items():
            captures.append((name, compile_path(path if path.startswith("$") else f"{subject}.{path}")))
    return tuple(captures)


def _repeat(raw: dict[str, object]) -> int:
    repeat = raw.get("repeat", 1)
    if not is_count(repeat) or repeat == 0 or (repeat > 1 and "parallel_with" in raw):
        raise bad_value(repeat, "repeat")
    return repeat


def _partner(raw: dict[str, object]) -> str | None:
    partner = raw.get("parallel_with")
    if partner is None or isinstance(partner, str):
        return partner
    raise bad_value(partner, "parallel_with")


def _count(raw: dict[str, object], key: str) -> int:
    value = raw.get(key, 0)
    if is_count(value):
        return value
    raise bad_value(value, key)


def _push(raw: dict[str, object]) -> dict[str, object]:
    return _translated(raw, "POST", "/ojs/v1/jobs", _operation_request(raw))


def _fetch(raw: dict[str, object]) -> dict[str, object]:
    return _translated(raw, "POST", "/ojs/v1/workers/fetch", _operation_request(raw))


def _ack(raw: dict[str, object]) -> dict[str, object]:
    request = _operation_request(raw)
    return _translated(
        raw, "POST", "/ojs/v1/workers/ack", {"job_id" if k == "id" else k: v for k, v in request.items()}
    )


def _get(raw: dict[str, object]) -> dict[str, object]:
    request = _operation_request(raw)
    job_id = request.get("id")
    if request.keys() != {"id"} or not isinstance(job_id, str):
        raise bad_value(request, "request")
    reference = job_id.removeprefix("$ref.")
    path = f"/ojs/v1/jobs/{job_id if reference == job_id else f'{{{{{reference}}}}}'}"
    return _translated(raw, "GET", path, None)


def _translated(raw: dict[str, object], method: str, path: str, body: object) -> dict[str, object]:
    rest = {key: value for key, value in raw.items() if key != "request"}
    return {**rest, "action": method, "path": path, **({} if body is None else {"body": body})}


def _operation_request(raw: dict[str, object]) -> dict[str, object]:
    request = raw.get("request")
    if not isinstance(request, dict):
        raise bad_value(request, "request")
    return request


_OPERATIONS = {"push": _push, "fetch": _fetch, "ack": _ack, "get": _get}
_SUBJECTS = {"push": "$.job", "get": "$.job"}  # the operations whose result is a job, which HTTP wraps in `job`
