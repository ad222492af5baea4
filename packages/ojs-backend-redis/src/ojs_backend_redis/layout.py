"""How a job is divided: hot fields, which scripts read and change, and the cold rest, which they hand through as text.

The order of the hot fields is that of `common.lua`. Texts go to the scripts as JSON without its quotes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec

from ojs_core.backend import Hold, NewJob
from ojs_core.events import EventDraft, job_event
from ojs_core.job import Job, JobError

TEXTS = ("queue", "type", "worker_id", "fingerprint", "workflow_id")
HOT = (
    "state",
    "queue",
    "type",
    "created_at",
    "priority",
    "version",
    "fence",
    "seq",
    "attempt",
    "wake_at",
    "expires_at",
    "enqueued_at",
    "started_at",
    "worker_id",
    "lease_ms",
    "lease_expires_at",
    "timeout_at",
    "next_retry_at",
    "completed_at",
    "cancelled_at",
    "discarded_at",
    "dead",
    "fingerprint",
    "workflow_id",
    "timeout_ms",
    "visibility_timeout_ms",
    "workflow_step",
    "requeues",
    "retry_delay_ms",
    "advanced",
)
POSITIONS = {name: position for position, name in enumerate(HOT, 1)}
"""Field -> its position in Lua. Behind the last one stands the trace id."""

CLEARED = ("error", "result")
"""Other fields that a swap may clear. They always stand beside the cold part, so that nothing shines through."""
_COLD_FIELDS = [
    field
    for field in msgspec.structs.fields(Job)
    if field.name not in POSITIONS and field.name not in (*CLEARED, "errors")
]
_Cold = msgspec.defstruct(
    "_Cold",
    [(field.name, field.type) if field.required else (field.name, field.type, field.default) for field in _COLD_FIELDS],
    omit_defaults=True,
)
_cold = attrgetter(*(field.name for field in _COLD_FIELDS))
_encode = msgspec.json.Encoder().encode
_hot = attrgetter(*HOT)
_STATE, _QUEUE, _TYPE, _VERSION = 0, 1, 2, POSITIONS["version"] - 1
_OTHER_TEXTS = tuple(POSITIONS[name] - 1 for name in TEXTS[2:])
_TRACED = b'"trace'


@lru_cache(maxsize=4096)
def encode_text(text: str) -> str:
    """Return a text as the scripts and keys have it: JSON without the quotes. Two texts never meet."""
    return msgspec.json.encode(text)[1:-1].decode()


def decode_text(text: bytes) -> str:
    """Return the text behind one that a script or key has."""
    decoded: str = msgspec.json.decode(b'"' + text + b'"', type=str)
    return decoded


def encode_error(error: JobError) -> str:
    """Return a failure as JSON."""
    return msgspec.json.encode(error).decode()


def pack_insert(new: NewJob) -> tuple[Any, ...]:
    """Return an insert as `committing.lua` takes it."""
    return _pack_job(new, 1, new.job.created_at)


def pack_arrival(job: Job, events: Sequence[EventDraft], at: int) -> tuple[Any, ...]:
    """Return a job that a swap takes to another shard as `committing.lua` takes it there: the record after the swap."""
    return _pack_job(NewJob(job=job, events=tuple(events)), job.version, at)


def _pack_job(new: NewJob, version: int, at: int) -> tuple[Any, ...]:
    job = new.job
    errors = job.errors
    cold = _encode(_Cold(*_cold(job)))
    hot: list[Any] = [False if value is None else value for value in _hot(job)]
    hot[_STATE] = job.state.value
    hot[_QUEUE] = encode_text(job.queue)
    hot[_TYPE] = encode_text(job.type)
    hot[_VERSION] = version
    for position in _OTHER_TEXTS:
        if hot[position]:
            hot[position] = encode_text(hot[position])
    hot.append(_trace(job))
    return (
        job.id,
        cold[:-1].decode(),
        hot,
        pack_hold(new.hold) if new.hold is not None and job.fingerprint is not None else False,
        new.max_per_second or False,
        [pack_job_event(draft, job, hot, at) for draft in new.events],
        [encode_error(error) for error in errors] or False,
        _named(job),
        at,
    )


def _named(job: Job) -> list[str]:
    """Return (name, JSON) of the fields that stand beside the cold part, pair after pair; a new job has none."""
    named: list[str] = []
    for name in CLEARED:
        value = getattr(job, name)
        if value is not None:
            named += (name, msgspec.json.encode(value).decode())
    return named


def pack_hold(hold: Hold) -> tuple[list[str], int | bool]:
    """Return a hold as `commit.lua` takes it."""
    return [state.value for state in hold.states], False if hold.since is None else hold.since


def _trace(job: Job) -> str | bool:
    """Return what the events of a job name as its trace, which core finds in its meta; most jobs have none."""
    if _TRACED not in bytes(job.meta):
        return False
    facts = msgspec.json.decode(job_event(EventDraft(""), job, 0).data)
    return encode_text(facts["trace_id"]) if "trace_id" in facts else False


def pack_job_event(draft: EventDraft, job: Job, hot: list[Any], at: int) -> str:
    """Return an event about a job as the log keeps it (`log_job` in `common.lua` does the same)."""
    trace = hot[-1]
    return msgspec.json.encode(
        (
            at,
            draft.type,
            job.id,
            job.queue,
            job.type,
            job.state,
            job.attempt,
            job.priority,
            job.worker_id,
            job.started_at,
            job.lease_expires_at,
            job.workflow_id,
            msgspec.Raw(f'"{trace}"'.encode()) if trace else None,
            draft.data,
        )
    ).decode()
