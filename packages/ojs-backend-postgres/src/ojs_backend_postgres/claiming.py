"""`claim`: requests become the arguments of one call, and its rows their answers; see `migrations/0006_claim.sql`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ojs_backend_postgres.rows import Row, job_of, to_text
from ojs_core.backend import Claimed, ClaimRequest
from ojs_core.job import Job

EXPIRED_MAX = 100
"""Expired jobs that a claim reports, at most."""


COUNT_MAX = 5000
"""Jobs that one call hands out, unless a single request wants more: a call must end in time."""


def split(requests: Sequence[ClaimRequest]) -> Iterator[Sequence[ClaimRequest]]:
    """Yield the requests in groups that may share a call."""
    begin = count = 0
    for place, request in enumerate(requests):
        if place > begin and count + request.count > COUNT_MAX:
            yield requests[begin:place]
            begin, count = place, 0
        count += request.count
    if begin < len(requests):
        yield requests[begin:]


def arguments_of(requests: Sequence[ClaimRequest]) -> tuple[Any, ...]:
    """Return what to call the function `claim` with. Requests for the same queues are served together."""
    lines: dict[tuple[str, ...], int] = {}
    rows = [
        (
            r,
            lines.setdefault(tuple(dict.fromkeys(request.queues)), len(lines)),
            request.count,
            request.now,
            None if request.worker_id is None else to_text(request.worker_id),
            request.lease_ms,
            request.default_lease_ms,
            request.default_timeout_ms,
        )
        for r, request in enumerate(requests)
    ]
    queues = [(line, to_text(name)) for names, line in lines.items() for name in names]
    return rows, [line for line, _ in queues], [name for _, name in queues]


def answers_of(requests: Sequence[ClaimRequest], rows: Iterable[Row]) -> list[Claimed]:
    """Return the answer of each request, from the rows of the call."""
    claimed: list[list[Job]] = [[] for _ in requests]
    expired: list[list[Job]] = [[] for _ in requests]
    for row in rows:
        (expired if row["expired"] else claimed)[row["r"]].append(job_of(row))
    return [Claimed(tuple(jobs), tuple(old[:EXPIRED_MAX])) for jobs, old in zip(claimed, expired, strict=True)]
