"""Enqueue inside an application's own transaction, from Python: everything the HTTP API takes, and its errors.

    from ojs_backend_postgres.enqueue import enqueue, enqueue_async

    with psycopg.connect(url) as connection:                 # or a SQLAlchemy Session or Connection
        connection.execute("INSERT INTO orders ...")
        job_id = enqueue(connection, {"type": "order.confirm", "args": [42]})
    # The job is there when the transaction commits, and never was if it rolls back.

    async with connection.transaction():                     # asyncpg, psycopg AsyncConnection, SQLAlchemy AsyncSession
        job_id = await enqueue_async(connection, {"type": "order.confirm", "args": [42]})

No driver is imported here; which one a connection belongs to is told by its class. From other languages: the function
`ojs.enqueue` in the database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ojs_backend_postgres.committing import new_job_row
from ojs_core.backend import NewJob
from ojs_core.clock import SystemClock
from ojs_core.envelope import JobRequest, new_job, parse_job_request
from ojs_core.errors import DuplicateJobError, UnsupportedError

_HAND_IN = "SELECT kind, id, state FROM {schema}.hand_in({job}::{schema}.new_job, {lock}::bigint)"


def enqueue(connection: Any, job: Mapping[str, Any] | bytes, *, schema: str = "ojs") -> str:  # noqa: ANN401 - any driver's
    """Hand in a job with the transaction of `connection` (psycopg, or SQLAlchemy's Session or Connection).

    Args:
        connection: with a transaction that the caller ends.
        job: the request as the HTTP API takes it; as bytes (JSON), numbers and key order stay as they are.
        schema: `OJS_POSTGRES_SCHEMA` of the servers.

    Returns the id of the job, or of the existing one that a unique policy with `ignore` found. Raises what the HTTP API
    answers with (`ojs_core.errors`), and `UnsupportedError` for a unique policy that replaces.
    """
    handed = _Handed(job, schema)
    if _is_sqlalchemy(connection):
        return handed.answer(list(connection.execute(*handed.for_sqlalchemy())))
    return handed.answer(connection.execute(*handed.for_psycopg()).fetchall())


async def enqueue_async(connection: Any, job: Mapping[str, Any] | bytes, *, schema: str = "ojs") -> str:  # noqa: ANN401 - as above
    """Do as `enqueue`, with a connection of asyncpg, psycopg's AsyncConnection, or SQLAlchemy's async session."""
    handed = _Handed(job, schema)
    if _is_sqlalchemy(connection):
        return handed.answer(list(await connection.execute(*handed.for_sqlalchemy())))
    if hasattr(connection, "cursor") and hasattr(connection, "fetch"):
        return handed.answer(await connection.fetch(*handed.for_asyncpg()))
    cursor = await connection.execute(*handed.for_psycopg())
    return handed.answer(await cursor.fetchall())


def _is_sqlalchemy(connection: object) -> bool:
    return any(kind.__module__.partition(".")[0] == "sqlalchemy" for kind in type(connection).__mro__)


class _Handed:
    """A request on its way, as the call each driver makes."""

    def __init__(self, job: Mapping[str, Any] | bytes, schema: str) -> None:
        text = job if isinstance(job, bytes) else msgspec.json.encode(job)
        now = SystemClock().now()
        self._schema = schema
        self._request: JobRequest = parse_job_request(text, now, what="The job")
        unique = self._request.unique
        if unique is not None and unique.on_conflict.startswith("replace"):
            raise UnsupportedError(
                "A job that replaces others cannot be enqueued inside a transaction.", field="unique.on_conflict"
            )
        self._new: NewJob = new_job(self._request, now)
        place = 1 if self._new.job.state == "available" else None
        row, self._lock = new_job_row(0, 0, place, self._new, schema)
        self._literal = _composite(row)

    def for_asyncpg(self) -> tuple[Any, ...]:
        return _HAND_IN.format(schema=self._schema, job="$1::text", lock="$2"), self._literal, self._lock

    def for_psycopg(self) -> tuple[Any, ...]:
        return _HAND_IN.format(schema=self._schema, job="%s::text", lock="%s"), (self._literal, self._lock)

    def for_sqlalchemy(self) -> tuple[Any, ...]:
        import sqlalchemy  # noqa: PLC0415 - the application brings it

        text = _HAND_IN.format(schema=self._schema, job="cast(:job AS text)", lock="cast(:lock AS bigint)")
        return sqlalchemy.text(text), {"job": self._literal, "lock": self._lock}

    def answer(self, rows: Sequence[Sequence[Any]]) -> str:
        """Return the id, or raise what stands in the way."""
        if not rows:
            return self._new.job.id
        kind, job_id, state = rows[0]
        unique = self._request.unique
        if kind == "hold" and unique is not None and unique.on_conflict == "ignore":
            return str(job_id)
        raise DuplicateJobError(
            f"Job {job_id} is already there and {state}.", existing_job_id=job_id, existing_job_state=state
        )


def _composite(row: Sequence[Any]) -> str:
    """Return a row as PostgreSQL writes one in text, which every driver can pass."""
    return "(" + ",".join(map(_field, row)) + ")"


def _field(value: Any) -> str:  # noqa: ANN401 - any column
    match value:
        case None:
            return ""
        case bool():
            return "t" if value else "f"
        case int():
            return str(value)
        case bytes():
            text = "\\x" + value.hex()
        case tuple():
            text = _composite(value)
        case list():
            text = "{" + ",".join(_quoted(_bare(element)) for element in value) + "}"
        case _:
            text = str(value)
    return _quoted(text)


def _bare(value: Any) -> str:  # noqa: ANN401 - an element of an array
    return _composite(value) if isinstance(value, tuple) else "\\x" + value.hex()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
