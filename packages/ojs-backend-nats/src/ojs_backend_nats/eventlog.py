"""The index of the event log: which entries hold which events. The events themselves stay in the log.

Events are numbered; those of one entry without a gap. The newest are kept in memory, since nearly every reader follows
the end of the log.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ojs_backend_nats.entry import Chunk, decode_events
from ojs_core.events import Event

KEPT_BYTES = 4 << 20
"""Bytes of the newest events that are kept in memory."""


class Span(Struct, frozen=True):
    """Events of one entry: numbers `first` to `first + count - 1`, in the entry at `sequence`."""

    first: int
    count: int
    latest: int
    """The newest instant among them."""
    sequence: int
    size: int

    @property
    def end(self) -> int:
        """The number after the last."""
        return self.first + self.count


class EventLog:
    """Which events there are, oldest first."""

    def __init__(self) -> None:
        self.total = 0
        """How many events are in the log."""
        self.begin = 0
        """Events with lower numbers are pruned."""
        self._spans: list[Span] = []
        self._firsts: list[int] = []
        self._texts: dict[int, bytes] = {}
        """JSON of the newest spans, by `first`."""
        self._kept = 0

    def add(self, chunk: Chunk, sequence: int) -> int:
        """Put events at the end; return their size in bytes."""
        text = bytes(chunk.events)
        span = Span(chunk.first, chunk.count, chunk.latest, sequence, len(text))
        self._spans.append(span)
        self._firsts.append(span.first)
        self.total += span.count
        self._texts[span.first] = text
        self._kept += span.size
        while self._kept > KEPT_BYTES:
            first = next(iter(self._texts))
            self._kept -= len(self._texts.pop(first))
        return span.size

    def move(self, chunk: Chunk, sequence: int) -> int:
        """Note that events have been copied to another entry; return the size of those not known before, in bytes."""
        place = self._place(chunk.first)
        if place >= 0 and self._spans[place].first == chunk.first:
            self._spans[place] = msgspec.structs.replace(self._spans[place], sequence=sequence)
            return 0
        # Whoever begins to read here has not seen the entry that was copied from.
        span = Span(chunk.first, chunk.count, chunk.latest, sequence, len(bytes(chunk.events)))
        self._spans.insert(place + 1, span)
        self._firsts.insert(place + 1, span.first)
        self.total += span.count
        return span.size

    def is_at(self, first: int, sequence: int) -> bool:
        """Return whether the events from `first` on are in the log, and in that entry."""
        place = self._place(first)
        return place >= 0 and self._spans[place].first == first and self._spans[place].sequence == sequence

    def prune(self, begin: int) -> int:
        """Forget the events below a number; return the bytes set free."""
        freed = gone = 0
        while gone < len(self._spans) and self._spans[gone].end <= begin:
            span = self._spans[gone]
            gone += 1
            self.total -= span.end - max(span.first, self.begin)
            freed += span.size
            if span.first in self._texts:
                self._kept -= len(self._texts.pop(span.first))
        del self._spans[:gone], self._firsts[:gone]
        if self._spans and self._spans[0].first < begin:
            self.total -= begin - max(self._spans[0].first, self.begin)
        self.begin = max(self.begin, begin)
        return freed

    def spans(self, start: int, limit: int) -> list[Span]:
        """Return at most `limit` spans with events from number `start` on, in order."""
        place = max(0, self._place(start))
        found: list[Span] = []
        while place < len(self._spans) and len(found) < limit:
            if self._spans[place].end > start:
                found.append(self._spans[place])
            place += 1
        return found

    def text(self, span: Span) -> bytes | None:
        """Return the events of a span, as JSON, if they are in memory."""
        return self._texts.get(span.first)

    def _place(self, number: int) -> int:
        return bisect_right(self._firsts, number) - 1


class Pruning(Struct, frozen=True):
    """Which events to prune: those before number `begin`, `count` of them."""

    begin: int
    count: int


class NeedsEvents(Exception):  # noqa: N818 - no error: whoever catches it fetches the events and asks again
    """A decision needs events that are not in memory."""

    def __init__(self, span: Span) -> None:
        super().__init__(span)
        self.span = span


def plan_pruning(log: EventLog, before: int, keep: int, limit: int, loaded: Mapping[Any, bytes]) -> Pruning:
    """Find at most `limit` of the oldest events: those before an instant and those beyond the newest `keep`.

    Raises `NeedsEvents` where only the events themselves can tell and neither memory nor `loaded` has them.
    """
    excess = log.total - keep
    begin, count = log.begin, 0
    for span in log.spans(log.begin, limit):
        first = max(span.first, log.begin)
        rest = span.end - first
        most = min(rest, limit - count)
        take = most if span.latest < before else max(0, min(most, excess - count))
        if take < most:
            take += _count_old(log, span, first + take, before, loaded)
        take = min(take, most)
        count += take
        begin = first + take
        if take < rest:
            break
    return Pruning(begin, count)


def _count_old(log: EventLog, span: Span, first: int, before: int, loaded: Mapping[Any, bytes]) -> int:
    """Count the events of a span, from number `first` on, that come before the first one that is not old."""
    text = log.text(span) or loaded.get(span.first)
    if text is None:
        raise NeedsEvents(span)
    events: list[Event] = decode_events(text)[first - span.first :]
    return next((count for count, event in enumerate(events) if event.at >= before), len(events))
