"""Listings: which jobs a query means, read off the index."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from itertools import islice
from typing import NamedTuple

from ojs_backend_nats.index import Index, Row
from ojs_backend_nats.ordered import Ordered
from ojs_core.backend import JobQuery
from ojs_core.job import JobState
from ojs_core.paging import decode_cursor, encode_cursor

Key = tuple[int, str]


class Page(NamedTuple):
    """Rows of a page, how many match in all, and where the next page begins."""

    rows: list[Row]
    total: int
    next_cursor: str | None


def find_page(index: Index, query: JobQuery) -> Page:
    """Find the rows of a page, newest first. Raises `InvalidRequestError` for a foreign cursor.

    Counters answer for `total` where states, a queue and a type are asked for; other filters are counted row by row.
    """
    last = None if query.cursor is None else decode_cursor(query.cursor)
    skip = query.offset if last is None else 0
    keys = _keys(index, query, last)
    rows = (index.rows[job_id] for _, job_id in keys)
    total = _total(index, query)
    # There is nothing to look for beyond the last of them, however many rows of others follow.
    end = min(skip + query.limit + 1, max(skip, total))
    page = list(islice((row for row in rows if _matches(row, query)), skip, end))
    more = len(page) > query.limit
    del page[query.limit :]
    next_cursor = encode_cursor(_key(page[-1], query)) if more and page else None
    return Page(page, total, next_cursor)


def _key(row: Row, query: JobQuery) -> Key:
    return (row.discarded_at or 0 if query.dead else row.created_at, row.id)


def _keys(index: Index, query: JobQuery, last: Key | None) -> Iterator[Key]:
    lists: list[Ordered[Key]]
    if query.dead:
        lists = [index.dead]
    else:
        lists = [index.by_state[state] for state in (JobState if query.states is None else query.states)]
    each = [reversed(keys) if last is None else keys.below(last) for keys in lists if len(keys)]
    return each[0] if len(each) == 1 else merge(*each, reverse=True)


def _matches(row: Row, query: JobQuery) -> bool:
    return (
        (query.states is None or row.state in query.states)
        and (query.queue is None or row.queue == query.queue)
        and (query.job_type is None or row.type == query.job_type)
        and (query.dead is None or row.dead == query.dead)
        and (query.error_type is None or row.error_type == query.error_type)
        and (query.since is None or (row.discarded_at or 0) >= query.since)
        and (query.until is None or (row.discarded_at or 0) < query.until)
        and (query.worker_id is None or row.worker_id == query.worker_id)
    )


def _total(index: Index, query: JobQuery) -> int:
    states = JobState if query.states is None else query.states
    others = (query.dead, query.error_type, query.since, query.until, query.worker_id)
    if all(value is None for value in others):
        return index.count(query.queue, query.job_type, states)
    lists = [index.dead] if query.dead else [index.by_state[state] for state in states]
    rows = index.rows
    return sum(_matches(rows[job_id], query) for keys in lists for _, job_id in keys)
