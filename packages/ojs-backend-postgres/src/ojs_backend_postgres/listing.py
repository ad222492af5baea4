"""The listings of jobs and events: filters become conditions on rows that an index has in order already."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from ojs_backend_postgres.connections import Connections
from ojs_backend_postgres.queries import Queries
from ojs_backend_postgres.rows import Row, job_of, of_text, to_text
from ojs_core.backend import EventPage, EventQuery, JobPage, JobQuery
from ojs_core.events import Event, EventDraft, job_event
from ojs_core.ids import event_id
from ojs_core.job import Job, JobState
from ojs_core.paging import decode_cursor, decode_event_id, encode_cursor

_FILTERS = {
    "queue": "queue = {}",
    "states": "state = ANY ({}::text[])",
    "job_type": "type = {}",
    # The type is the first key of an error.
    "error_type": "substr(error, 1, length({0}::bytea)) = {0}::bytea",
    "since": "coalesce(discarded_at, 0) >= {}",
    "until": "coalesce(discarded_at, 0) < {}",
    "worker_id": "worker_id = {}",
}
_COUNTED = {"queue", "states"}
"""Filters by which jobs are counted already."""
_ID = 'id COLLATE "POSIX"'
"""The id as the indexes have it that are for order. See migrations/0001_tables.sql."""

_decode_facts = msgspec.json.Decoder(dict[str, Any]).decode


class _Statement:
    """A statement in the making: its conditions and its parameters."""

    def __init__(self) -> None:
        self.parameters: list[object] = []
        self.conditions: list[str] = []

    def bind(self, value: object) -> str:
        """Return the placeholder of a value."""
        self.parameters.append(value)
        return f"${len(self.parameters)}"

    def where(self, condition: str, value: object) -> None:
        """Add a condition, with the placeholder of its value in the braces."""
        self.conditions.append(condition.format(self.bind(value)))

    @property
    def all(self) -> str:
        """Return the conditions, joined."""
        return " AND ".join(["TRUE", *self.conditions])


def _parameter(name: str, value: Any) -> object:  # noqa: ANN401 - any filter
    match name:
        case "states":
            return sorted(value)
        case "error_type":
            return b'{"type":' + msgspec.json.encode(value) + b","
        case "queue" | "job_type" | "worker_id":
            return to_text(value)
        case _:
            return value


async def list_jobs(connections: Connections, query: JobQuery, schema: str) -> JobPage:
    """Return one page. Raises `InvalidRequestError` for a cursor that is not one of ours."""
    cursor = None if query.cursor is None else decode_cursor(query.cursor)
    filters = {name: value for name in _FILTERS if (value := getattr(query, name)) is not None}
    statement = _Statement()
    for name, value in filters.items():
        statement.where(_FILTERS[name], _parameter(name, value))
    if query.dead is not None:
        # Not a parameter: the partial index is only for those who certainly ask for it.
        statement.conditions.append("dead" if query.dead else "NOT dead")
    if filters.keys() <= _COUNTED and query.dead is None:
        count = (
            f"SELECT coalesce(sum(jobs), 0)::bigint FROM (SELECT * FROM {schema}.counted WHERE {statement.all} "  # noqa: S608
            f"UNION ALL SELECT * FROM {schema}.tally WHERE {statement.all}) c"
        )
    else:
        count = f"SELECT count(*) FROM {schema}.job WHERE {statement.all}"  # noqa: S608
    total: int = await connections.fetch_value(count, *statement.parameters)
    at = "coalesce(discarded_at, 0)" if query.dead else "created_at"
    offset = query.offset
    if cursor is not None:
        offset = 0
        after = f"({statement.bind(cursor[0])}, {statement.bind(to_text(cursor[1]))})"
        statement.conditions.append(f"({at}, {_ID}) < {after}")
    # One more than asked for tells whether there is a next page.
    last = statement.bind(offset + query.limit + 1)
    order = f"ORDER BY {at} DESC, {_ID} DESC LIMIT {last}"
    if query.dead or query.worker_id is not None:
        sources = ["TRUE"]
    else:
        # Each state's rows are in order in the index; the states are merged.
        sources = [f"state = '{state}'" for state in sorted(query.states or JobState)]
    rows = " UNION ALL ".join(
        f"(SELECT * FROM {schema}.job WHERE {source} AND {statement.all} {order})"  # noqa: S608
        for source in sources
    )
    page = f"SELECT * FROM ({rows}) j {order} OFFSET {statement.bind(offset)}"  # noqa: S608
    jobs = [job_of(row) for row in await connections.fetch(page, *statement.parameters)]
    next_cursor = None
    if len(jobs) > query.limit:
        del jobs[query.limit :]
        if jobs:
            newest = jobs[-1]
            key = (newest.discarded_at or 0 if query.dead else newest.created_at, newest.id)
            next_cursor = encode_cursor(key)
    return JobPage(jobs=tuple(jobs), total=total, next_cursor=next_cursor)


async def list_events(connections: Connections, query: EventQuery, queries: Queries, schema: str) -> EventPage:
    """Return one page, oldest first. Raises `InvalidRequestError` for an `after` that is not the id of an event."""
    statement = _Statement()
    statement.where("n > {}", -1 if query.after is None else decode_event_id(query.after))
    # A statement of its own: what it finds complete, the next one sees whole.
    statement.where("n <= {}", await connections.fetch_value(queries.log_complete))
    if query.types:
        names = statement.bind([to_text(name) for name in query.types if not name.endswith(".*")])
        families = statement.bind([to_text(name.removesuffix("*")) for name in query.types if name.endswith(".*")])
        statement.conditions.append(
            f"(type = ANY ({names}::text[]) OR EXISTS (SELECT FROM unnest({families}::text[]) f"
            " WHERE starts_with(type, f)))"
        )
    if query.queues:
        statement.where("queue = ANY ({}::text[])", [to_text(name) for name in query.queues])
    if query.job_types:
        statement.where("job_type = ANY ({}::text[])", [to_text(name) for name in query.job_types])
    # One more than asked for tells whether more match.
    limit = statement.bind(query.limit + 1)
    page = f"SELECT * FROM {schema}.event WHERE {statement.all} ORDER BY n LIMIT {limit}"  # noqa: S608
    rows = await connections.fetch(page, *statement.parameters)
    return EventPage(tuple([_event(row) for row in rows[: query.limit]]), has_more=len(rows) > query.limit)


def _event(row: Row) -> Event:
    at: int = row["at"]
    if row["state"] is None:
        event = Event(
            type=row["type"],
            at=at,
            subject=of_text(row["subject"]),
            queue=None if row["queue"] is None else of_text(row["queue"]),
            job_type=None if row["job_type"] is None else of_text(row["job_type"]),
            data=Raw(row["data"]),
        )
    else:
        facts = row["data"]
        event = job_event(EventDraft(row["type"], {} if facts is None else _decode_facts(facts)), _subject(row), at)
    return msgspec.structs.replace(event, id=event_id(at, row["n"]))


def _subject(row: Row) -> Job:
    """Return as much of the job as its events tell of it."""
    trace, worker_id = row["trace"], row["worker_id"]
    return Job(
        id=row["subject"],
        type=row["job_type"],
        queue=row["queue"],
        args=Raw(b"[]"),
        meta=Raw(b"{}") if trace is None else Raw(b'{"trace_id":' + trace + b"}"),
        state=JobState(row["state"]),
        created_at=0,
        priority=row["priority"],
        attempt=row["attempt"],
        worker_id=None if worker_id is None else of_text(worker_id),
        started_at=row["started_at"],
        lease_expires_at=row["lease_expires_at"],
        workflow_id=row["workflow_id"],
    )
