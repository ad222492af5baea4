"""The listing of jobs: indexes in its order, merged; where a filter has no index, the jobs are looked through.

The jobs of one queue in one state have an index of their own, whose size is their count. Other filters read records,
a bounded number in each trip, so that Redis is never held up.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from heapq import merge
from itertools import islice
from typing import Any

from ojs_backend_redis import scripts
from ojs_backend_redis.client import Client
from ojs_backend_redis.lane import Command
from ojs_backend_redis.layout import encode_text
from ojs_backend_redis.packing import decode_found
from ojs_core.backend import JobPage, JobQuery
from ojs_core.job import Job, JobState
from ojs_core.paging import decode_cursor, encode_cursor, job_matches

READ_MAX = 200
"""Records read in one trip."""

_Key = tuple[int, str]
"""What jobs are listed by: an instant, ms, and the id."""


class Lister:
    """Lists the jobs of one store."""

    def __init__(self, client: Client, root: str) -> None:
        self._client = client
        self._root = root

    async def page(self, query: JobQuery) -> JobPage:
        """Return one page. Raises `InvalidRequestError` for a cursor that is not one of ours."""
        last = None if query.cursor is None else decode_cursor(query.cursor)
        indexes = await self._indexes(query)
        if _is_indexed(query):
            return await self._indexed_page(query, indexes, last)
        return await self._look_through(query, indexes, last)

    async def _indexes(self, query: JobQuery) -> list[str]:
        """Return the indexes that hold the jobs, without the store's prefix."""
        if query.dead:
            return ["dead"]
        if query.worker_id is not None:
            return [f"held:{encode_text(query.worker_id)}"]
        if query.queue is None:
            [names] = await self._client.ask(("HKEYS", f"{self._root}queues"))
            queues = [name.decode() for name in names]
        else:
            queues = [encode_text(query.queue)]
        states = JobState if query.states is None else query.states
        return [f"in:{state}:{queue}" for queue in queues for state in states]

    async def _indexed_page(self, query: JobQuery, indexes: Sequence[str], last: _Key | None) -> JobPage:
        if not indexes:
            return JobPage(jobs=(), total=0)
        least, most = _bounds(query)
        sizes = await self._counts(indexes, least, most)
        total = sum(sizes)
        filled = [index for index, size in zip(indexes, sizes, strict=True) if size]
        firsts = [0] * len(filled) if most == "+inf" else await self._counts(filled, most.removeprefix("("), "+inf")
        ends = [first + size for first, size in zip(firsts, filter(None, sizes), strict=True)]
        offset = query.offset
        if last is not None:
            firsts, offset = await self._seek(filled, last), 0
        if len(filled) == 1:
            # The one index is in order: what an offset passes over need not be read.
            firsts, offset = [firsts[0] + offset], 0
        wanted = offset + query.limit + 1
        keys = await self._merge(filled, firsts, ends, wanted)
        page = keys[offset:wanted]
        rows = page[: query.limit]
        jobs = await self._read([job_id for _, job_id in rows])
        cursor = encode_cursor(rows[-1]) if len(page) > query.limit else None
        # Between the two trips a job may have moved on, or gone.
        found = tuple(job for job in jobs if job is not None and job_matches(job, query))
        return JobPage(jobs=found, total=total, next_cursor=cursor)

    async def _counts(self, indexes: Sequence[str], least: str, most: str) -> list[int]:
        """Return how many members of each index lie between two instants."""
        if not indexes:
            return []
        return await self._client.ask(*(("ZCOUNT", self._root + index, least, most) for index in indexes))

    async def _seek(self, indexes: Sequence[str], last: _Key) -> list[int]:
        """Return how many members of each index come before a page that goes on behind `last`."""
        if not indexes:
            return []
        found: list[int] = await self._client.read(scripts.SEEK, last[0], last[1], *indexes)
        return found

    async def _merge(
        self, indexes: Sequence[str], firsts: Sequence[int], ends: Sequence[int], wanted: int
    ) -> list[_Key]:
        """Return the newest members of several indexes together, at most `wanted`, each index from `first` to `end`."""
        commands: list[Command] = [
            ("ZREVRANGE", self._root + index, first, min(first + wanted, end) - 1, "WITHSCORES")
            for index, first, end in zip(indexes, firsts, ends, strict=True)
            if first < end
        ]
        replies = await self._client.ask(*commands) if commands else []
        return list(islice(merge(*map(_keys, replies), reverse=True), wanted))

    async def _look_through(self, query: JobQuery, indexes: Sequence[str], last: _Key | None) -> JobPage:
        """Read the jobs of the indexes, in order, and count those that match."""
        total, passed = 0, 0
        found: list[_Key] = []
        jobs: list[Job] = []
        offset = query.offset if last is None else 0
        async for key, job in self._walk(indexes):
            if not job_matches(job, query):
                continue
            total += 1
            if last is not None and key >= last:
                continue
            passed += 1
            if offset < passed <= offset + query.limit:
                found.append(key)
                jobs.append(job)
        more = passed > offset + query.limit
        return JobPage(jobs=tuple(jobs), total=total, next_cursor=encode_cursor(found[-1]) if more else None)

    async def _walk(self, indexes: Sequence[str]) -> AsyncIterator[tuple[_Key, Job]]:
        """Yield all jobs of the indexes, newest first; one that moves meanwhile may be missed."""
        firsts = [0] * len(indexes)
        ends = [sys.maxsize] * len(indexes)
        while True:
            keys = await self._merge(indexes, firsts, ends, READ_MAX)
            if not keys:
                return
            for key, job in zip(keys, await self._read([job_id for _, job_id in keys]), strict=True):
                if job is not None:
                    yield key, job
            firsts = await self._seek(indexes, keys[-1])

    async def _read(self, job_ids: Sequence[str]) -> list[Job | None]:
        found: list[Job | None] = []
        for first in range(0, len(job_ids), READ_MAX):
            found += decode_found(await self._client.read(scripts.READ, *job_ids[first : first + READ_MAX]))
        return found


def _is_indexed(query: JobQuery) -> bool:
    """Return whether the indexes hold exactly the jobs that match."""
    if query.job_type is not None or query.error_type is not None:
        return False
    if query.dead:
        return query.states is None and query.queue is None and query.worker_id is None
    if query.worker_id is not None:
        return query.states is None and query.queue is None and query.dead is None and not _is_bounded(query)
    return query.dead is None and not _is_bounded(query)


def _is_bounded(query: JobQuery) -> bool:
    return query.since is not None or query.until is not None


def _bounds(query: JobQuery) -> tuple[str, str]:
    """Return the instants of an index that match, as Redis takes them."""
    if not query.dead:
        return "-inf", "+inf"
    least = "-inf" if query.since is None else str(query.since)
    return least, "+inf" if query.until is None else f"({query.until}"


def _keys(reply: list[Any]) -> list[_Key]:
    pairs = iter(reply)
    return [(int(score), member.decode()) for member, score in zip(pairs, pairs, strict=True)]
