"""Keeps the stream short: what is still current at its beginning is copied to its end, then the beginning is removed.

A copy is an ordinary conditional write, decided on the latest state, so nothing is lost if another server changes or
copies the same records, or if this one dies between copying and removing: the next round finds nothing current there.
"""

from __future__ import annotations

import asyncio
import logging

from ojs_backend_nats.draft import Draft
from ojs_backend_nats.entry import Assembler, Entry, decode_head, read_entry
from ojs_backend_nats.follower import Follower
from ojs_backend_nats.index import Index, Location
from ojs_backend_nats.stream import Stream
from ojs_backend_nats.writer import Writer
from ojs_core.errors import BackendUnavailableError

STEP_BYTES = 1 << 20
"""Bytes of the stream that are looked through before they are removed."""
ABREAST = 32
"""Messages read at a time."""

_log = logging.getLogger("ojs.nats")


class Compactor:
    """Compacts while the stream holds more than `slack` bytes beyond twice what is current."""

    def __init__(self, stream: Stream, follower: Follower, writer: Writer, slack: int) -> None:
        self._stream = stream
        self._follower = follower
        self._writer = writer
        self._slack = slack
        self._running: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether this server is compacting."""
        return self._running is not None

    def consider(self) -> None:
        """Begin, if it is time and nobody here is at it; called after each write."""
        if self._running is None and self._due():
            self._running = asyncio.create_task(self._run())

    def _due(self) -> bool:
        return self._follower.log_bytes > 2 * self._follower.index.live_bytes + self._slack

    async def close(self) -> None:
        """Stop. What was copied and not removed is no harm."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        try:
            await self._follower.info()  # tells the true size
            while self._due() and await self.step():
                await self._follower.info()
        except BackendUnavailableError as error:
            _log.warning("Compacting the stream stopped; it will be tried again: %s", error.message)
        finally:
            self._running = None

    async def step(self) -> bool:
        """Look through the oldest part of the stream, and remove it; return whether there was any."""
        first, entries = await self._oldest()
        if not entries:
            return False
        end = entries[-1][0] + 1
        await self._writer.change(lambda draft: _copy(draft, entries))
        await self._stream.purge(before=end)
        _log.debug("Removed the stream's messages %d to %d.", first, end - 1)
        return True

    async def _oldest(self) -> tuple[int, list[tuple[int, Entry]]]:
        """Return the first sequence, and the entries from there on, each with the sequence of its last message.

        Always leaves the newest message: a server that comes back knows by it where it was.
        """
        info = await self._follower.info()
        sequence, last = info.state.first, min(info.state.last, self._follower.index.position)
        entries: list[tuple[int, Entry]] = []
        assembler = Assembler()
        size = 0
        # An entry of many parts may be longer than a step: without the end of it there is nothing to remove.
        while (size < STEP_BYTES or not entries) and sequence < last:
            group = range(sequence, min(sequence + ABREAST, last))
            for message in await asyncio.gather(*map(self._stream.read, group)):
                if message is None:
                    return info.state.first, []  # another server is at it
                size += len(message.payload)
                text = assembler.add(message) if message.by else None
                if text is not None:
                    entries.append((message.sequence, read_entry(text)))
            sequence = group.stop
        return info.state.first, entries


def _copy(draft: Draft, entries: list[tuple[int, Entry]]) -> None:
    """Put what is current in the entries into the draft, as it is."""
    for sequence, entry in entries:
        _copy_jobs(draft, sequence, entry)
        _copy_tables(draft, sequence, entry)
        for chunk in (*([entry.chunk] if entry.chunk else []), *entry.moved_chunks):
            if draft.index.events.is_at(chunk.first, sequence):
                draft.moved_chunks.append(chunk)
    if draft.moved_chunks:
        # Of the first of them, some events may be pruned; what says so is removed, too.
        draft.prune(draft.index.events.begin)


def _copy_jobs(draft: Draft, sequence: int, entry: Entry) -> None:
    rows = draft.index.rows
    placed = [
        *enumerate(entry.jobs),
        *((-1 - place, text) for place, text in enumerate(entry.moved_jobs)),
    ]
    for place, text in placed:
        row = rows.get(decode_head(text).id)
        if row is not None and row.location == Location(sequence, place):
            draft.moved_jobs[row.id] = bytes(text)


def _copy_tables(draft: Draft, sequence: int, entry: Entry) -> None:
    index: Index = draft.index
    for queue in entry.queues:
        if index.queues.is_at(queue.name, sequence) and queue.name not in draft.queues:
            draft.put(draft.queues, queue.name, queue)
    for worker in entry.workers:
        if index.workers.is_at(worker.id, sequence) and worker.id not in draft.workers:
            draft.put(draft.workers, worker.id, worker)
    for cron in entry.crons:
        if index.crons.is_at(cron.name, sequence) and cron.name not in draft.crons:
            draft.put(draft.crons, cron.name, cron)
    for workflow in entry.workflows:
        if index.workflows.is_at(workflow.id, sequence) and workflow.id not in draft.workflows:
            draft.put(draft.workflows, workflow.id, workflow)
    for minute in entry.minutes:
        key = (minute.queue, minute.minute)
        if index.is_minute_at(*key, sequence) and key not in draft.minutes:
            draft.put(draft.minutes, key, minute)
