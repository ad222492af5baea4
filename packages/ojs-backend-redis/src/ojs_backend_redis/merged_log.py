"""The event logs of several shards, read as one.

Each shard numbers its events by the microsecond of its own clock. Together with the number of the shard that makes the
number of an event, and numbers are the order of the log. An event may be listed only when no shard can add one with a
smaller number any more: so the clocks are read first, and what is younger than the slowest of them waits. With clocks
that differ by some milliseconds events are listed so much later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from ojs_backend_redis.eventlog import READ_MAX, Entry, entry_id, entry_number, event_of, is_filtered, time_of
from ojs_backend_redis.shard import Shard
from ojs_core.backend import EventPage, EventQuery
from ojs_core.events import Event
from ojs_core.paging import decode_event_id, event_matches

COUNT_BITS = 15
"""32 events of a shard in a microsecond."""
COUNT_PER_US = 32
SHARD_BITS = 6


class _Place(NamedTuple):
    """Where an event stands: the id of its entry, as one number, and the shard."""

    entry: int
    shard: int

    @property
    def number(self) -> int:
        return self.entry << SHARD_BITS | self.shard


async def list_events(shards: Sequence[Shard], query: EventQuery) -> EventPage:
    """Return one page, oldest first. Raises `InvalidRequestError` for an `after` that is not the id of an event."""
    clocks = await asyncio.gather(*(shard.clock_us() for shard in shards))
    end = min(us // 1000 << COUNT_BITS | us % 1000 * COUNT_PER_US for us in clocks)
    after = -1 if query.after is None else decode_event_id(query.after)
    found: list[Event] = []
    async for place, entry in _merged(shards, after, READ_MAX if is_filtered(query) else query.limit + 1):
        if place.entry >= end:
            break
        event = event_of(place.number, entry)
        if event_matches(event, query):
            found.append(event)
            if len(found) > query.limit:
                return EventPage(tuple(found[: query.limit]), has_more=True)
    return EventPage(tuple(found))


async def prune_events(shards: Sequence[Shard], before: int, keep: int, limit: int) -> int:
    """Remove at most `limit` of the oldest events: those before an instant and those beyond the newest `keep`."""
    excess = sum(await asyncio.gather(*(shard.count_events() for shard in shards))) - keep
    gone = 0
    last: dict[int, int] = {}
    async for place, entry in _merged(shards, -1, READ_MAX):
        if gone == limit or (gone >= excess and time_of(entry) >= before):
            break
        gone += 1
        last[place.shard] = place.entry
    removed = await asyncio.gather(
        *(shards[n].trim_events(entry_id(entry + 1, COUNT_BITS)) for n, entry in last.items())
    )
    return sum(removed)


async def _merged(shards: Sequence[Shard], after: int, size: int) -> AsyncIterator[tuple[_Place, Entry]]:
    """Yield the entries of all shards behind an event, oldest first; `size` are read at once."""
    waiting: list[deque[tuple[_Place, Entry]]] = [deque() for _ in shards]
    # Entries of a shard before that of the event have to be smaller, of those after it they may have the same id.
    nexts = [(after >> SHARD_BITS) + (n <= (after & (1 << SHARD_BITS) - 1)) for n in range(len(shards))]
    more = [True] * len(shards)

    async def read(n: int) -> None:
        entries = await shards[n].read_entries(entry_id(max(nexts[n], 0), COUNT_BITS), size)
        more[n] = len(entries) == size
        waiting[n].extend((_Place(entry_number(entry, COUNT_BITS), n), entry) for entry in entries)
        if waiting[n]:
            nexts[n] = waiting[n][-1][0].entry + 1

    while True:
        await asyncio.gather(*(read(n) for n in range(len(shards)) if more[n] and not waiting[n]))
        fronts = [entries[0] for entries in waiting if entries]
        if not fronts:
            return
        first = min(fronts, key=lambda front: front[0])
        waiting[first[0].shard].popleft()
        yield first
