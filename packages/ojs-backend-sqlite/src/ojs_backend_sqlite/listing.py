"""The listings of jobs and events: filters become conditions on rows that an index has in order already."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec
from msgspec import Raw, Struct

from ojs_backend_sqlite import layouts
from ojs_backend_sqlite.table import encode_keys, read_array
from ojs_core.backend import EventPage, EventQuery, JobPage, JobQuery
from ojs_core.events import Event
from ojs_core.ids import event_id
from ojs_core.job import JobState
from ojs_core.paging import decode_cursor, decode_event_id, encode_cursor

_FILTERS = {
    "queue": "queue = :queue",
    "states": "state IN (SELECT value FROM json_each(:states))",
    "job_type": "type = :job_type",
    "dead": "dead = :dead",
    "error_type": "CAST(record AS TEXT) ->> '$.error.type' = :error_type",
    "since": "discarded_at >= :since",
    "until": "discarded_at < :until",
    "worker_id": "worker_id = :worker_id",
}
_COUNTED = ("queue", "states")
"""Filters by which jobs are counted already."""

# `data` is put in as the text it is: no function of SQLite reads and rewrites it.
_SELECT_EVENTS = """
    SELECT CAST(
        '[' || seq || ',' || at || ',' || json_quote(type) || ',' || json_quote(subject) || ',' || json_quote(queue)
        || ',' || json_quote(job_type) || ',' || data || ']' AS BLOB
    ) AS record
    FROM events
"""


class _EventRow(Struct, array_like=True):
    seq: int
    at: int
    type: str
    subject: str
    queue: str | None
    job_type: str | None
    data: Raw


_decode_events = msgspec.json.Decoder(list[_EventRow]).decode


def list_jobs(connection: apsw.Connection, query: JobQuery) -> JobPage:
    """Return one page. Raises `InvalidRequestError` for a cursor that is not one of ours."""
    bindings: dict[str, Any] = {name: value for name in _FILTERS if (value := getattr(query, name)) is not None}
    conditions = " AND ".join(["TRUE", *(_FILTERS[name] for name in bindings)])
    if query.states is not None:
        bindings["states"] = encode_keys(sorted(query.states))
    total: int = connection.execute(_count(query, conditions, counted=bindings.keys() <= set(_COUNTED)), bindings).get
    at = "discarded_at" if query.dead else "created_at"
    bindings["offset"] = query.offset
    if query.cursor is not None:
        conditions += f" AND ({at}, id) < (:last_at, :last_id)"
        bindings["last_at"], bindings["last_id"] = decode_cursor(query.cursor)
        bindings["offset"] = 0
    # One more than asked for tells whether there is a next page.
    bindings["limit"] = query.limit + 1
    rows = " UNION ALL ".join(
        f"SELECT {at}, id, record FROM jobs INDEXED BY {index} WHERE {condition} AND {conditions}"  # noqa: S608
        for index, condition in _sources(query)
    )
    page = f"{rows} ORDER BY {at} DESC, id DESC LIMIT :limit OFFSET :offset"
    jobs = layouts.JOBS.read(connection, page, bindings)
    cursor = None
    if len(jobs) > query.limit:
        jobs.pop()
        last = jobs[-1]
        cursor = encode_cursor((last.discarded_at or 0 if query.dead else last.created_at, last.id))
    return JobPage(jobs=tuple(jobs), total=total, next_cursor=cursor)


def _sources(query: JobQuery) -> list[tuple[str, str]]:
    """Return the indexes to read, each with its own condition: few rows, or rows in the order of the page."""
    if query.worker_id is not None:
        return [("held", "worker_id IS NOT NULL")]
    if query.dead:
        return [("dead", "dead = 1")]
    # Each state's rows are in order; SQLite merges the states.
    states = query.states or frozenset(JobState)
    return [("newest", f"state = '{state}'") for state in sorted(states)]


def _count(query: JobQuery, conditions: str, *, counted: bool) -> str:
    if counted:
        return f"SELECT coalesce(sum(jobs), 0) FROM counts WHERE {conditions}"  # noqa: S608
    counts = (
        f"SELECT count(*) AS jobs FROM jobs INDEXED BY {index} WHERE {condition} AND {conditions}"  # noqa: S608
        for index, condition in _sources(query)
    )
    return f"SELECT sum(jobs) FROM ({' UNION ALL '.join(counts)})"  # noqa: S608


def list_events(connection: apsw.Connection, query: EventQuery) -> EventPage:
    """Return one page, oldest first. Raises `InvalidRequestError` for an `after` that is not the id of an event."""
    bindings: dict[str, Any] = {
        "after": -1 if query.after is None else decode_event_id(query.after),
        # One more than asked for tells whether more match.
        "limit": query.limit + 1,
    }
    conditions = ["seq > :after"]
    if query.types:
        conditions.append(
            "(type IN (SELECT value FROM json_each(:types))"
            " OR substr(type, 1, instr(type, '.')) IN (SELECT value FROM json_each(:families)))"
        )
        bindings["types"] = encode_keys([name for name in query.types if not name.endswith(".*")])
        bindings["families"] = encode_keys([name.removesuffix("*") for name in query.types if name.endswith(".*")])
    if query.queues:
        conditions.append("queue IN (SELECT value FROM json_each(:queues))")
        bindings["queues"] = encode_keys(query.queues)
    if query.job_types:
        conditions.append("job_type IN (SELECT value FROM json_each(:job_types))")
        bindings["job_types"] = encode_keys(query.job_types)
    page = f"{_SELECT_EVENTS} WHERE {' AND '.join(conditions)} ORDER BY seq LIMIT :limit"
    rows = _decode_events(read_array(connection, page, bindings))
    return EventPage(tuple([_event(row) for row in rows[: query.limit]]), has_more=len(rows) > query.limit)


def _event(row: _EventRow) -> Event:
    return Event(
        id=event_id(row.at, row.seq),
        type=row.type,
        at=row.at,
        subject=row.subject,
        queue=row.queue,
        job_type=row.job_type,
        data=row.data,
    )
