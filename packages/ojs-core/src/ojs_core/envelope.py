"""The job request: from the JSON text a client sent to a validated record, ready to insert (C-ENV, C-OPS-01).

Client data is checked as values but kept as text. Standard attributes may stand in `options` or beside it; `options`
wins. What is unknown is kept and echoed; what the server manages itself is dropped. The same function reads a single
enqueue, an element of a batch, a cron template and a workflow element.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from ojs_core.backend import Hold, NewJob
from ojs_core.duration import parse_duration
from ojs_core.errors import (
    EnvelopeTooLargeError,
    InvalidPayloadError,
    InvalidRequestError,
    MetadataTooLargeError,
    OJSError,
    UnsupportedError,
)
from ojs_core.events import EventDraft
from ojs_core.ids import is_uuid7, uuid7
from ojs_core.job import TERMINAL, Job, JobState
from ojs_core.lifecycle import earliest
from ojs_core.received import describe_received
from ojs_core.retry import DEFAULT_RETRY_POLICY, RetryPolicy, parse_retry_policy
from ojs_core.timestamps import format_ms, parse_instant
from ojs_core.unique import UniquePolicy, fingerprint, parse_unique_policy

ENVELOPE_MAX_BYTES = 1_048_576
META_MAX_BYTES = 65_536
DEPTH_MAX = 64
TYPE_MAX = 255
QUEUE_MAX = 128
TIMEOUT_MAX_MS = 10 * 365 * 24 * 3600 * 1000
"""Upper bound of every length of time a client may ask for: ten years."""

JOB_TYPE = re.compile(r"[a-z][a-z0-9_\-]*(\.[a-z][a-z0-9_\-]*)*")
QUEUE_NAME = re.compile(r"[a-z0-9][a-z0-9\-.]*")
SPECVERSION = re.compile(r"1(\.0(\.[0-9]+)?(-[0-9A-Za-z.\-]+)?)?")

NAMED_PRIORITIES = {"HIGH": 10, "NORMAL": 0, "LOW": -10}

SYSTEM_MANAGED = frozenset(
    "state attempt max_attempts created_at enqueued_at started_at completed_at cancelled_at discarded_at activated_at "
    "error errors result worker_id retry_delay_ms next_attempt_at next_retry_at parent_results workflow_id "
    "workflow_step lease_id lease_expires_at".split()
)
"""A client's values for these are ignored, never stored and never echoed (C-ENV-22)."""

STANDARD = frozenset(
    "specversion id type args meta schema options queue priority timeout timeout_ms scheduled_at delay_until "
    "expires_at retry retry_policy unique tags visibility_timeout visibility_timeout_ms pending rate_limit".split()
)
"""Attributes with a meaning; everything else at the top level is unknown and echoed."""

_NOT_ECHOED = SYSTEM_MANAGED | STANDARD

_decode_raw_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_texts = msgspec.json.Decoder(list[Raw]).decode
_decode_value = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
EMPTY_OBJECT = Raw(b"{}")


class JobRequest(Struct, frozen=True, kw_only=True):
    """A validated request, its times resolved against the moment of receipt."""

    type: str
    args: Raw
    meta: Raw = EMPTY_OBJECT
    id: str | None = None
    queue: str = "default"
    priority: int = 0
    retry: RetryPolicy = DEFAULT_RETRY_POLICY
    unique: UniquePolicy | None = None
    scheduled_at: int | None = None
    expires_at: int | None = None
    pending: bool = False
    timeout_ms: int | None = None
    visibility_timeout_ms: int | None = None
    max_per_second: int | None = None
    tags: tuple[str, ...] | None = None
    schema: str | None = None
    as_sent: Raw | None = None
    extra: Raw | None = None


def decode_object(text: bytes | Raw, what: str = "The body") -> tuple[dict[str, Any], dict[str, Raw]]:
    """Decode a JSON object twice over: as values to check, and as the text of each member to keep.

    Raises `InvalidPayloadError` for anything but a UTF-8 JSON object nested at most `DEPTH_MAX` deep (C-JSON-06, -12).
    """
    data = bytes(text) if isinstance(text, Raw) else text
    try:
        value = _decode_value(data)
        if not isinstance(value, dict):
            raise InvalidPayloadError(f"{what} must be a JSON object, not {json_kind(value)}.")
        check_depth(data, value, what)
        return value, _decode_raw_object(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidPayloadError(f"{what} is not valid JSON: {error}.") from None
    except RecursionError:
        raise InvalidPayloadError(f"{what} is nested too deeply: at most {DEPTH_MAX} levels.") from None


def check_depth(text: bytes, value: object, what: str) -> None:
    """Refuse what is nested deeper than `DEPTH_MAX`. Counting brackets first spares ordinary bodies the walk."""
    if text.count(b"[") + text.count(b"{") <= DEPTH_MAX:
        return
    level: list[object] = [value]
    for _ in range(DEPTH_MAX):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)  # type: ignore[attr-defined]
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise InvalidPayloadError(f"{what} is nested too deeply: at most {DEPTH_MAX} levels.")


def json_kind(value: object) -> str:
    """Return the JSON name of a decoded value's kind, for messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case list() | tuple():
            return "an array"
        case _:
            return "an object"


def invalid(field: str, expected: str, received: object) -> InvalidRequestError:
    """Make the error for one bad field (C-ERR-06)."""
    shown = describe_received(received)
    return InvalidRequestError(
        f"'{field}' must be {expected}; received {shown}.", field=field, expected=expected, received=shown
    )


def check_job_type(value: object, field: str = "type") -> str:
    """Return a job type (C-ENV-05)."""
    if value is None:
        raise InvalidRequestError(f"'{field}' is required.", field=field, expected="a job type", received="nothing")
    if not isinstance(value, str) or len(value) > TYPE_MAX or not JOB_TYPE.fullmatch(value):
        expected = f"lower-case words of [a-z0-9_-] joined by dots, each beginning with a letter, {TYPE_MAX} at most"
        raise invalid(field, expected, value)
    return value


def check_queue(value: object, field: str = "queue") -> str:
    """Return a queue name (C-ENV-08)."""
    if not isinstance(value, str) or len(value) > QUEUE_MAX or not QUEUE_NAME.fullmatch(value):
        raise invalid(field, f"1 to {QUEUE_MAX} characters of [a-z0-9.-], the first a letter or digit", value)
    return value


def _check_specversion(value: object) -> None:
    if value is not None and not (isinstance(value, str) and SPECVERSION.fullmatch(value)):
        raise UnsupportedError("This server speaks specversion 1.0.", field="specversion", expected="1.0")


def _check_id(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and is_uuid7(value)):
        raise invalid("id", "a lower-case UUIDv7", value)
    return value


def check_args(value: object, field: str = "args") -> None:
    """Refuse arguments that are no array (C-ENV-06)."""
    if not isinstance(value, list):
        raise invalid(field, "an array", value)


def _check_priority(value: object, field: str) -> int:
    if isinstance(value, str) and value.upper() in NAMED_PRIORITIES:
        return NAMED_PRIORITIES[value.upper()]
    if type(value) is not int or not -100 <= value <= 100:  # noqa: PLR2004 - the range of C-ENV-09
        raise invalid(field, "an integer from -100 to 100", value)
    return value


def _check_ms(value: object, field: str, unit_ms: int = 1) -> int | None:
    if type(value) is not int or not 0 <= value * unit_ms <= TIMEOUT_MAX_MS:
        unit = "milliseconds" if unit_ms == 1 else "seconds"
        raise invalid(field, f"a whole number of {unit}, 0 to {TIMEOUT_MAX_MS // unit_ms}", value)
    return value * unit_ms or None


def _check_visibility(value: object, field: str) -> int | None:
    if isinstance(value, str):
        try:
            return _check_ms(parse_duration(value), field)
        except ValueError as error:
            raise invalid(field, f"an ISO 8601 duration ({error})", value) from None
    return _check_ms(value, field, 1000)


def _check_instant(value: object, field: str, now: int) -> int:
    if not isinstance(value, str):
        raise invalid(field, "an RFC 3339 time with a zone", value)
    try:
        return parse_instant(value, now)
    except ValueError as error:
        raise InvalidRequestError(
            f"'{field}': {error}", field=field, expected="RFC 3339", received=value[:100]
        ) from None


def _check_tags(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise invalid("tags", "an array of strings", value)
    return tuple(value)


def _check_schema(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise invalid("schema", "a URI", value)
    return value


def _check_bool(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise invalid(field, "a boolean", value)
    return value


def _check_rate_limit(value: object, field: str) -> int | None:
    if not isinstance(value, dict):
        raise invalid(field, "an object", value)
    per_second = value.get("max_per_second")
    if per_second is None:
        return None
    if type(per_second) is not int or not 1 <= per_second <= 1_000_000:  # noqa: PLR2004
        raise invalid(f"{field}.max_per_second", "a whole number, 1 to 1000000", per_second)
    return per_second


class _Field(NamedTuple):
    """How a standard attribute is read.

    `check` gets the value, its path for messages, and the moment of receipt. `rank`: of several attributes for one
    target, the one with the highest counts. `kept`: the text is echoed as sent.
    """

    target: str
    check: Callable[[Any, str, int], Any]
    rank: int = 0
    kept: bool = False


_FIELDS: Mapping[str, _Field] = {
    "queue": _Field("queue", lambda value, path, _: check_queue(value, path)),
    "priority": _Field("priority", lambda value, path, _: _check_priority(value, path)),
    "scheduled_at": _Field("scheduled_at", _check_instant, rank=1, kept=True),
    "delay_until": _Field("scheduled_at", _check_instant, kept=True),
    "expires_at": _Field("expires_at", _check_instant, kept=True),
    "timeout_ms": _Field("timeout_ms", lambda value, path, _: _check_ms(value, path), rank=1),
    "timeout": _Field("timeout_ms", lambda value, path, _: _check_ms(value, path, 1000)),
    "visibility_timeout_ms": _Field("visibility_timeout_ms", lambda value, path, _: _check_ms(value, path), rank=1),
    "visibility_timeout": _Field("visibility_timeout_ms", lambda value, path, _: _check_visibility(value, path)),
    "tags": _Field("tags", lambda value, _path, _: _check_tags(value)),
    "pending": _Field("pending", lambda value, path, _: _check_bool(value, path)),
    "rate_limit": _Field("max_per_second", lambda value, path, _: _check_rate_limit(value, path)),
    "schema": _Field("schema", lambda value, _path, _: _check_schema(value)),
    "retry": _Field("retry", lambda value, _path, _: parse_retry_policy(value), rank=1, kept=True),
    "retry_policy": _Field("retry", lambda value, _path, _: parse_retry_policy(value), kept=True),
    "unique": _Field("unique", lambda value, _path, _: parse_unique_policy(value), kept=True),
}
"""What may stand in `options` or beside it (C-ENV-23), in the order it is checked in, however sent (C-OPS-01)."""
_TARGETS = tuple(dict.fromkeys(field.target for field in _FIELDS.values()))


class _Found(NamedTuple):
    field: _Field
    prefix: str
    name: str
    value: Any


def _find_fields(envelope: dict[str, Any], options: dict[str, Any]) -> list[_Found]:
    """Return what is given for each target: `options` before the envelope, null as absent (C-ENV-23, C-ENV-25)."""
    found: dict[str, _Found] = {}
    for prefix, level in (("", envelope), ("options.", options)):
        for name, value in level.items():
            field = _FIELDS.get(name)
            if field is None or value is None:
                continue
            rival = found.get(field.target)
            if rival is None or rival.prefix != prefix or rival.field.rank < field.rank:
                found[field.target] = _Found(field, prefix, name, value)
    return [found[target] for target in _TARGETS if target in found]


def parse_job_request(text: bytes | Raw, now: int, *, what: str = "The body") -> JobRequest:
    """Validate one job request (C-ENV-01 to C-ENV-26).

    Args:
        text: the JSON text of the request.
        now: moment of receipt; relative times count from here.
        what: how messages call the text.

    Raises: `InvalidPayloadError`, `InvalidRequestError`, `InvalidRetryPolicyError`, `UnsupportedError`,
    `EnvelopeTooLargeError`, `MetadataTooLargeError`. Nothing was stored then.
    """
    check_size(text)
    envelope, raw = decode_object(text, what)
    return read_job_request(envelope, raw, now)


def parse_job_requests(values: Sequence[object], text: Raw, now: int) -> list[JobRequest]:
    """Validate the elements of a JSON array, given decoded and as text; an error names the element (C-BLK-03).

    Raises what `parse_job_request` raises.
    """
    requests = []
    for index, (value, element) in enumerate(zip(values, _decode_texts(text), strict=True)):
        try:
            if not isinstance(value, dict):
                raise InvalidRequestError(f"The job must be a JSON object, not {json_kind(value)}.")
            check_size(element)
            requests.append(read_job_request(value, _decode_raw_object(element), now))
        except OJSError as error:
            raise at_index(error, index) from None
    return requests


def check_size(text: bytes | Raw, what: str = "A job") -> None:
    """Raise `EnvelopeTooLargeError` for more than `ENVELOPE_MAX_BYTES`; `what` begins the sentence."""
    size = len(memoryview(text))
    if size > ENVELOPE_MAX_BYTES:
        raise EnvelopeTooLargeError(
            f"{what} may have {ENVELOPE_MAX_BYTES} bytes; this one has {size}.",
            actual_bytes=size,
            max_bytes=ENVELOPE_MAX_BYTES,
        )


def read_job_request(envelope: dict[str, Any], raw: dict[str, Raw], now: int) -> JobRequest:
    """Validate a request that `decode_object` has decoded; see `parse_job_request`."""
    options = envelope.get("options")
    if options is None:
        options = {}
    elif not isinstance(options, dict):
        raise invalid("options", "an object", options)
    _check_specversion(envelope.get("specversion"))
    job_id = _check_id(envelope.get("id"))
    job_type = check_job_type(envelope.get("type"))
    if "args" not in envelope:
        raise InvalidRequestError("'args' is required.", field="args", expected="an array", received="nothing")
    check_args(envelope["args"])
    read: dict[str, Any] = {}
    sent: dict[str, Raw] = {}
    raw_options: dict[str, Raw] | None = None
    for field, prefix, name, value in _find_fields(envelope, options):
        read[field.target] = field.check(value, prefix + name, now)
        if not field.kept:
            continue
        if isinstance(value, str) and value.startswith("+"):
            # A relative time is echoed as the instant it meant (C-ENV-15).
            sent[field.target] = Raw(_encode(format_ms(read[field.target])))
        elif prefix:
            raw_options = raw_options or _decode_raw_object(raw["options"])
            sent[field.target] = raw_options[name]
        else:
            sent[field.target] = raw[name]
    if read.get("pending") and read.get("scheduled_at", now) > now:
        raise InvalidRequestError(
            "'pending' and a future schedule exclude each other.", field="options.pending", expected="one of the two"
        )
    extra = None if raw.keys() <= _NOT_ECHOED else {name: raw[name] for name in raw if name not in _NOT_ECHOED}
    return JobRequest(
        id=job_id,
        type=job_type,
        args=raw["args"],
        meta=read_meta(envelope, raw),
        as_sent=Raw(_encode(sent)) if sent else None,
        extra=Raw(_encode(extra)) if extra else None,
        **read,
    )


def read_meta(envelope: dict[str, Any], raw: dict[str, Raw]) -> Raw:
    """Return `meta` as text, with `options.metadata` merged under it (C-ENV-07, C-ENV-19)."""
    value = envelope.get("meta")
    if value is not None and not isinstance(value, dict):
        raise invalid("meta", "an object", value)
    meta = EMPTY_OBJECT if value is None else raw["meta"]
    below = (envelope.get("options") or {}).get("metadata")
    if value is None and below is None:
        return EMPTY_OBJECT
    if below is not None:
        if not isinstance(below, dict):
            raise invalid("options.metadata", "an object", below)
        meta = merge_objects(_decode_raw_object(raw["options"])["metadata"], meta)
    size = len(bytes(meta))
    if size > META_MAX_BYTES:
        raise MetadataTooLargeError(
            f"'meta' may have {META_MAX_BYTES} bytes; this one has {size}.",
            actual_bytes=size,
            max_bytes=META_MAX_BYTES,
        )
    return meta


def merge_objects(base: Raw, over: Raw | Mapping[str, Any]) -> Raw:
    """Return the JSON object `base` with the members of `over` put over it; texts of members stay as they are."""
    members: dict[str, Any] = dict(_decode_raw_object(base))
    members.update(over if isinstance(over, Mapping) else _decode_raw_object(over))
    return Raw(_encode(members))


def new_job(request: JobRequest, now: int, *, job_id: str | None = None, **attributes: Any) -> NewJob:
    """Make the record of a request in its first state (T01 to T03), with its unique hold and its event.

    `job_id` is used where the client gave none; by default a new one. `attributes` are further fields of `Job`.
    """
    scheduled_at = request.scheduled_at
    enqueued_at = None
    wake_at = request.expires_at
    if request.pending:
        state = JobState.PENDING
        events: tuple[EventDraft, ...] = ()
    elif scheduled_at is not None and scheduled_at > now:
        state = JobState.SCHEDULED
        wake_at = earliest(scheduled_at, request.expires_at)
        events = (EventDraft("job.scheduled", {"scheduled_at": format_ms(scheduled_at)}),)
    else:
        state = JobState.AVAILABLE
        enqueued_at = now
        events = _ENQUEUED
    unique = request.unique
    mark = None
    if unique is not None:
        mark = fingerprint(
            unique, job_type=request.type, queue=request.queue, args=bytes(request.args), meta=bytes(request.meta)
        )
    job = Job(
        id=request.id or job_id or uuid7(now),
        type=request.type,
        queue=request.queue,
        args=request.args,
        meta=request.meta,
        state=state,
        created_at=now,
        priority=request.priority,
        retry=request.retry,
        wake_at=wake_at,
        enqueued_at=enqueued_at,
        scheduled_at=scheduled_at,
        expires_at=request.expires_at,
        timeout_ms=request.timeout_ms,
        visibility_timeout_ms=request.visibility_timeout_ms,
        fingerprint=mark,
        schema=request.schema,
        tags=request.tags,
        as_sent=request.as_sent,
        extra=request.extra,
        **attributes,
    )
    return NewJob(
        job=job,
        hold=None if unique is None else hold_of(unique, now),
        max_per_second=request.max_per_second,
        events=events,
        # Ids made here are each for one job, and a job made twice under the same id stays in its queue.
        one_queue=request.id is None and (unique is None or "queue" in unique.keys),
    )


_ENQUEUED = (EventDraft("job.enqueued"),)


def hold_of(policy: UniquePolicy, now: int) -> Hold:
    """Return which existing jobs a unique policy forbids now (C-UNQ-06). One that has ended cannot be replaced."""
    since = None if policy.period_ms is None else now - policy.period_ms
    states = frozenset(JobState(state) for state in policy.states)
    return Hold(states - TERMINAL if policy.on_conflict.startswith("replace") else states, since)


def at_index(error: OJSError, index: int) -> OJSError:
    """Return the error with the position of the batch element it is about (C-BLK-03)."""
    error.message = f"jobs[{index}]: {error.message}"
    error.args = (error.message,)
    error.details["index"] = index
    return error
