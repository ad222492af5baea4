"""The event log: a stream whose entries hold what an event needs; the event itself is made when it is read.

The id of an entry, which Redis makes ascending, is the event's number: its millisecond, then its count within it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Raw, Struct

from ojs_core.backend import EventPage, EventQuery
from ojs_core.events import Event, EventDraft, job_event
from ojs_core.ids import event_id
from ojs_core.job import Job, JobState
from ojs_core.paging import decode_event_id, event_matches

COUNT_BITS = 20
"""A million events in one millisecond."""
READ_MAX = 1000
"""Entries read in one trip."""

Entry = tuple[bytes, list[bytes]]
"""Its id, and its field and what stands in it."""
ReadEntries = Callable[[str, int], Awaitable[list[Entry]]]
"""(after this id, exclusive; at most) -> entries of the stream."""


class _At(Struct, array_like=True):
    at: int


class _JobRow(Struct, array_like=True):
    at: int
    type: str
    job_id: str
    queue: str
    job_type: str
    state: JobState
    attempt: int
    priority: int
    worker_id: str | None
    started_at: int | None
    lease_expires_at: int | None
    workflow_id: str | None
    trace_id: str | None
    facts: dict[str, Any]


class _Row(Struct, array_like=True):
    at: int
    type: str
    subject: str
    queue: str | None
    job_type: str | None
    data: Raw


_decode_job_row = msgspec.json.Decoder(_JobRow).decode
_decode_at = msgspec.json.Decoder(_At).decode
_decode_row = msgspec.json.Decoder(_Row).decode
_NO_ARGS, _NO_META = Raw(b"[]"), Raw(b"{}")


async def list_events(read: ReadEntries, query: EventQuery) -> EventPage:
    """Return one page, oldest first. Raises `InvalidRequestError` for an `after` that is not the id of an event."""
    after = "-" if query.after is None else "(" + entry_id(decode_event_id(query.after), COUNT_BITS)
    filtered = is_filtered(query)
    # One more than asked for tells whether more match.
    wanted = query.limit + 1
    found: list[Event] = []
    while True:
        size = READ_MAX if filtered else min(READ_MAX, wanted - len(found))
        entries = await read(after, size)
        for entry in entries:
            event = event_of(entry_number(entry, COUNT_BITS), entry)
            if event_matches(event, query):
                found.append(event)
                if len(found) == wanted:
                    return EventPage(tuple(found[: query.limit]), has_more=True)
        if len(entries) < size:
            return EventPage(tuple(found))
        after = "(" + entries[-1][0].decode()


def is_filtered(query: EventQuery) -> bool:
    """Tell whether entries may have to be read that are not listed."""
    return bool(query.types or query.queues or query.job_types)


def entry_id(number: int, count_bits: int) -> str:
    """Return the id of an entry whose number has so many bits for the count."""
    return f"{number >> count_bits}-{number & (1 << count_bits) - 1}"


def entry_number(entry: Entry, count_bits: int) -> int:
    """Return the id of an entry as a number with so many bits for the count."""
    at_ms, _, count = entry[0].partition(b"-")
    return int(at_ms) << count_bits | int(count)


def time_of(entry: Entry) -> int:
    """Return when an event happened, ms."""
    _, (_, body) = entry
    return _decode_at(body).at


def event_of(number: int, entry: Entry) -> Event:
    """Return the event that an entry stands for; `number` is its place in the log."""
    _, (kind, body) = entry
    if kind == b"job":
        row = _decode_job_row(body)
        event = _join(row)
        return msgspec.structs.replace(event, id=event_id(row.at, number))
    other = _decode_row(body)
    return Event(
        id=event_id(other.at, number),
        type=other.type,
        at=other.at,
        subject=other.subject,
        queue=other.queue,
        job_type=other.job_type,
        data=other.data,
    )


def _join(row: _JobRow) -> Event:
    """Join what the decision knew with the job, as core does it."""
    trace = {} if row.trace_id is None else {"trace_id": row.trace_id}
    job = Job(
        id=row.job_id,
        type=row.job_type,
        queue=row.queue,
        args=_NO_ARGS,
        meta=Raw(msgspec.json.encode(trace)) if trace else _NO_META,
        state=row.state,
        created_at=row.at,
        attempt=row.attempt,
        priority=row.priority,
        worker_id=row.worker_id,
        started_at=row.started_at,
        lease_expires_at=row.lease_expires_at,
        workflow_id=row.workflow_id,
    )
    return job_event(EventDraft(row.type, row.facts), job, row.at)
