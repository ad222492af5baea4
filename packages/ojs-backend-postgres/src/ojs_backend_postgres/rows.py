"""A job as a row, and back: `doc` is the record as inserted, the other columns are what may have changed since."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw

from ojs_core.events import EventDraft, job_event
from ojs_core.job import Job, JobError, JobState, decode_record, encode_record

NEVER = 2**63 - 1
"""`expires_at` of a job that does not expire."""

Row: TypeAlias = Mapping[str, Any]
"""What asyncpg returns; anything by name will do."""

_encode = msgspec.json.Encoder().encode
_decode_error = msgspec.json.Decoder(JobError).decode
_STATES = {state.value: state for state in JobState}

SETTABLE = (
    "queue priority attempt requeues expires_at enqueued_at started_at completed_at cancelled_at discarded_at "
    "timeout_ms visibility_timeout_ms worker_id lease_ms lease_expires_at timeout_at retry_delay_ms next_retry_at dead "
    "advanced workflow_id workflow_step error result"
).split()
"""What a swap may set in a column; bit n of `sets` stands for entry n. Anything else is put over the record."""

_PLAIN = (
    "queue priority seq version fence attempt requeues wake_at enqueued_at started_at completed_at cancelled_at "
    "discarded_at timeout_ms visibility_timeout_ms worker_id lease_ms lease_expires_at timeout_at retry_delay_ms "
    "next_retry_at dead advanced workflow_id workflow_step"
).split()
_ESCAPE = "\ue000"


def to_text(text: str) -> str:
    """Return what stands for any text in a column: PostgreSQL has no NUL."""
    if "\0" in text or _ESCAPE in text:
        return text.replace(_ESCAPE, _ESCAPE + "e").replace("\0", _ESCAPE + "0")
    return text


def of_text(text: str) -> str:
    """Return the text that a column stands for; the inverse of `to_text`."""
    if _ESCAPE in text:
        return text.replace(_ESCAPE + "0", "\0").replace(_ESCAPE + "e", _ESCAPE)
    return text


def job_of(row: Row) -> Job:
    """Return the job in a row of `job`."""
    fields = {name: row[name] for name in _PLAIN}
    if fields["worker_id"] is not None:
        fields["worker_id"] = of_text(fields["worker_id"])
    expires_at, error, errors, result = row["expires_at"], row["error"], row["errors"], row["result"]
    return msgspec.structs.replace(
        decode_record(row["doc"]),
        state=_STATES[row["state"]],
        expires_at=None if expires_at == NEVER else expires_at,
        error=None if error is None else _decode_error(error),
        errors=() if errors is None else tuple([_decode_error(one) for one in errors]),
        result=None if result is None else Raw(result),
        **fields,
    )


def trace_of(job: Job) -> bytes | None:
    """Return the trace id that the events of a job will carry, as JSON, if its `meta` names one."""
    if b'"trace' not in bytes(job.meta):
        return None
    data = msgspec.json.decode(job_event(EventDraft(""), job, 0).data)
    return _encode(data["trace_id"]) if "trace_id" in data else None


def drafts_of(drafts: Sequence[EventDraft]) -> list[tuple[str, bytes | None]]:
    """Return drafts as rows of `draft`."""
    return [(draft.type, _encode(draft.data) if draft.data else None) for draft in drafts]


def columns_of(job: Job) -> tuple[Any, ...]:
    """Return the part of a row of `new_job` that the job itself fills, from `id` to `doc`."""
    return (
        job.id,
        job.queue,
        job.type,
        job.state,
        job.priority,
        job.seq,
        job.fence,
        job.attempt,
        job.requeues,
        job.wake_at,
        NEVER if job.expires_at is None else job.expires_at,
        job.created_at,
        job.enqueued_at,
        job.started_at,
        job.completed_at,
        job.cancelled_at,
        job.discarded_at,
        job.timeout_ms,
        job.visibility_timeout_ms,
        None if job.worker_id is None else to_text(job.worker_id),
        job.lease_ms,
        job.lease_expires_at,
        job.timeout_at,
        job.retry_delay_ms,
        job.next_retry_at,
        job.dead,
        job.advanced,
        job.workflow_id,
        job.workflow_step,
        job.fingerprint,
        trace_of(job),
        None if job.error is None else _encode(job.error),
        [_encode(error) for error in job.errors] or None,
        None if job.result is None else bytes(job.result),
        encode_record(job),
    )


_FORMS: Mapping[str, Callable[[Any], Any]] = {
    "expires_at": lambda value: NEVER if value is None else value,
    "worker_id": lambda value: None if value is None else to_text(value),
    "error": lambda value: None if value is None else _encode(value),
    "result": lambda value: None if value is None else bytes(value),
}
_PLACES = {name: place for place, name in enumerate(SETTABLE)}


def settings_of(changes: Mapping[str, Any]) -> tuple[bytes | None, int, list[Any]]:
    """Return the fields a swap sets: those without a column as JSON, which columns, and the columns' values."""
    values: list[Any] = [None] * len(SETTABLE)
    sets = 0
    rest: dict[str, Any] = {}
    for name, value in changes.items():
        place = _PLACES.get(name)
        if place is None:
            rest[name] = value
            continue
        sets |= 1 << place
        form = _FORMS.get(name)
        values[place] = value if form is None else form(value)
    return (_encode(rest) if rest else None), sets, values
