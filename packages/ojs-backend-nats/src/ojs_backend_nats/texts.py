"""Reading back from the log what is not kept in memory: records of finished jobs, large ones, older events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from ojs_backend_nats.draft import NeedsTexts
from ojs_backend_nats.entry import Entry, read_entry
from ojs_backend_nats.eventlog import NeedsEvents, Span
from ojs_backend_nats.index import Location
from ojs_backend_nats.stream import Stream

ABREAST = 32
"""Entries read at a time."""


class Texts:
    """Records by location, events by span. What is not there any more was moved: the index knows where by then."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def needed(self, needs: NeedsTexts | NeedsEvents) -> dict[Location | int, bytes]:
        """Return what a decision asked for: records by location, or events by their first number."""
        if isinstance(needs, NeedsEvents):
            text = (await self.events([needs.span])).get(needs.span.first)
            return {} if text is None else {needs.span.first: text}
        return dict((await self.jobs(needs.locations)).items())

    async def jobs(self, locations: Iterable[Location]) -> dict[Location, bytes]:
        """Return the records at these locations, as far as they are still there."""
        found: dict[Location, bytes] = {}
        wanted: dict[int, list[Location]] = {}
        for location in locations:
            wanted.setdefault(location.sequence, []).append(location)
        for sequence, entry in await self._entries(wanted):
            for location in wanted[sequence]:
                place = location.place
                text = entry.jobs[place] if place >= 0 else entry.moved_jobs[-1 - place]
                found[location] = bytes(text)
        return found

    async def events(self, spans: Iterable[Span]) -> dict[int, bytes]:
        """Return the events of these spans, as JSON, by first number, as far as they are still there."""
        found: dict[int, bytes] = {}
        wanted = {span.sequence for span in spans}
        for _, entry in await self._entries(wanted):
            for chunk in (*entry.moved_chunks, *([entry.chunk] if entry.chunk else [])):
                found[chunk.first] = bytes(chunk.events)
        return found

    async def _entries(self, sequences: Iterable[int]) -> list[tuple[int, Entry]]:
        found: list[tuple[int, Entry]] = []
        rest = sorted(sequences)
        while rest:
            group, rest = rest[:ABREAST], rest[ABREAST:]
            texts = await asyncio.gather(*map(self._stream.read_entry, group))
            found += [
                (sequence, read_entry(text)) for sequence, text in zip(group, texts, strict=True) if text is not None
            ]
        return found
