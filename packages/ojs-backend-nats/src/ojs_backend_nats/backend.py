"""The NATS backend: each operation as a decision on the log, or a look at the index."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from ojs_backend_nats import advice
from ojs_backend_nats.claiming import serve_claims
from ojs_backend_nats.committing import apply_commits
from ojs_backend_nats.compaction import Compactor
from ojs_backend_nats.config import MIB, NATSConfig
from ojs_backend_nats.draft import Draft
from ojs_backend_nats.entry import decode_events
from ojs_backend_nats.errors import closed
from ojs_backend_nats.eventlog import Span
from ojs_backend_nats.follower import Follower
from ojs_backend_nats.index import Index, Location, Row
from ojs_backend_nats.link import Link
from ojs_backend_nats.listing import find_page
from ojs_backend_nats.reporting import prune_events, remove_worker, set_directive, set_paused, take_beat
from ojs_backend_nats.stream import Stream
from ojs_backend_nats.texts import Texts
from ojs_backend_nats.writer import Writer
from ojs_core.backend import (
    Backend,
    Beaten,
    BeatRequest,
    Capabilities,
    Claimed,
    ClaimRequest,
    Commit,
    Committed,
    EventPage,
    EventQuery,
    JobPage,
    JobQuery,
    Refused,
    WakeCallback,
)
from ojs_core.errors import BackendUnavailableError
from ojs_core.events import Event
from ojs_core.job import Job, JobState, decode_record
from ojs_core.paging import decode_event_id, event_matches
from ojs_core.records import CronEntry, Queue, QueueStats, Worker, WorkerState, Workflow

Answer = TypeVar("Answer")

READS = 20
"""How often a read is repeated because what it found was moved before it could be fetched."""
STARTS = 3
"""How often a start is tried: a cluster that just comes up, or makes a stream or more copies of it, loses requests."""
SPANS = 64
"""Entries whose events are looked at in one go."""


class NATSBackend(Backend):
    """One stream, shared by any number of servers."""

    def __init__(self, config: NATSConfig) -> None:
        self._config = config
        self._callbacks: list[WakeCallback] = []
        self._parts: _Parts | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="nats", unique_mechanism="checked on the latest state; the write is conditional on nothing newer"
        )

    async def open(self) -> None:
        if self._parts is not None:
            return
        parts = _Parts(self._config, self._ring)
        try:
            await parts.link.open()
            for attempt in range(1, STARTS + 1):
                try:
                    await parts.start()
                    break
                except BackendUnavailableError:
                    if attempt == STARTS:
                        raise
        except BaseException:
            await parts.close()
            raise
        self._parts = parts

    async def close(self) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            await parts.close()

    async def ping(self) -> None:
        await self._look(lambda index: index.position)

    async def reset(self) -> None:
        await self._change(_forget)
        parts = self._open()
        await parts.stream.purge(before=parts.follower.index.position)

    async def warnings(self) -> list[str]:
        parts = self._open()
        return await advice.warnings(self._config, parts.link, parts.stream)

    # Jobs.

    async def commit(self, commits: Sequence[Commit]) -> list[Committed | Refused]:
        return await self._change(lambda draft: apply_commits(draft, commits)) if commits else []

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[Claimed]:
        return await self._change(lambda draft: serve_claims(draft, requests)) if requests else []

    async def get_jobs(self, job_ids: Sequence[str]) -> list[Job | None]:
        return await self._fetch(lambda index: [index.rows.get(job_id) for job_id in job_ids])

    async def due_jobs(self, now: int, limit: int) -> list[Job]:
        return _all(await self._fetch(lambda index: index.due(now, limit)))

    async def next_wake_at(self) -> int | None:
        return await self._look(lambda index: index.next_wake_at())

    async def list_jobs(self, query: JobQuery) -> JobPage:
        total = 0
        next_cursor: str | None = None

        def rows(index: Index) -> list[Row]:
            nonlocal total, next_cursor
            page = find_page(index, query)
            total, next_cursor = page.total, page.next_cursor
            return page.rows

        jobs = _all(await self._fetch(rows))
        return JobPage(jobs=tuple(jobs), total=total, next_cursor=next_cursor)

    # Queues.

    async def list_queues(self) -> list[Queue]:
        return await self._look(lambda index: [index.queues.records[name] for name in sorted(index.queues.records)])

    async def queue_stats(self, name: str, now: int) -> QueueStats | None:
        return await self._look(lambda index: _queue_stats(index, name, now))

    async def set_paused(self, name: str, now: int, *, paused: bool) -> Queue:
        return await self._change(lambda draft: set_paused(draft, name, now, paused=paused))

    # Workers.

    async def beat(self, request: BeatRequest) -> Beaten:
        return await self._change(lambda draft: take_beat(draft, request))

    async def list_workers(self, *, seen_before: int | None = None, limit: int = 1000) -> list[Worker]:
        def silent(index: Index) -> list[Worker]:
            workers = [
                worker
                for worker in index.workers.records.values()
                if seen_before is None or worker.last_seen_at < seen_before
            ]
            return sorted(workers, key=lambda worker: (worker.last_seen_at, worker.id))[:limit]

        return await self._look(silent)

    async def set_directive(self, worker_id: str, directive: WorkerState | None) -> Worker | None:
        return await self._change(lambda draft: set_directive(draft, worker_id, directive))

    async def remove_worker(self, worker_id: str, seen_before: int, event: Event) -> bool:
        return await self._change(lambda draft: remove_worker(draft, worker_id, seen_before, event))

    # Cron entries and workflows.

    async def get_cron(self, name: str) -> CronEntry | None:
        return await self._look(lambda index: index.crons.get(name))

    async def list_crons(self) -> list[CronEntry]:
        return await self._look(lambda index: [index.crons.records[name] for name in sorted(index.crons.records)])

    async def due_crons(self, now: int, limit: int) -> list[CronEntry]:
        return await self._look(lambda index: index.crons.due(now, limit))

    async def get_workflow(self, workflow_id: str) -> Workflow | None:
        return await self._look(lambda index: index.workflows.get(workflow_id))

    async def due_workflows(self, now: int, limit: int) -> list[Workflow]:
        return await self._look(lambda index: index.workflows.due(now, limit))

    # Events.

    async def list_events(self, query: EventQuery) -> EventPage:
        start = 0 if query.after is None else decode_event_id(query.after) + 1
        found: list[Event] = []
        while True:
            spans, begin, texts = await self._events(start)
            for span in spans:
                events = decode_events(texts[span.first])[max(0, start - span.first, begin - span.first) :]
                found += [event for event in events if event_matches(event, query)]
                if len(found) > query.limit:
                    return EventPage(tuple(found[: query.limit]), has_more=True)
            if len(spans) < SPANS:
                return EventPage(tuple(found))
            start = spans[-1].end

    async def prune_events(self, before: int, keep: int, limit: int) -> int:
        return await self._change(lambda draft: prune_events(draft, before, keep, limit))

    def listen(self, callback: WakeCallback) -> None:
        self._callbacks.append(callback)

    # What they are made of.

    def _ring(self, queues: set[str]) -> None:
        for callback in self._callbacks:
            callback(frozenset(queues))

    def _open(self) -> _Parts:
        if self._parts is None:
            raise closed()
        return self._parts

    def _change(self, decide: Callable[[Draft], Answer]) -> asyncio.Future[Answer]:
        return self._open().writer.change(decide)

    def _look(self, look: Callable[[Index], Answer]) -> asyncio.Future[Answer]:
        return self._open().writer.look(look)

    async def _fetch(self, find: Callable[[Index], Sequence[Row | None]]) -> list[Job | None]:
        """Return the jobs of the rows found, as they are at that moment."""
        texts = self._open().texts

        def places(index: Index) -> list[tuple[Location, bytes | None] | None]:
            return [None if row is None else (row.location, row.text) for row in find(index)]

        for _ in range(READS):
            found = await self._look(places)
            away = [place[0] for place in found if place is not None and place[1] is None]
            read = await texts.jobs(away) if away else {}
            if len(read) == len(away):
                return [None if place is None else decode_record(place[1] or read[place[0]]) for place in found]
        raise BackendUnavailableError("The records asked for keep moving.")

    async def _events(self, start: int) -> tuple[list[Span], int, dict[int, bytes]]:
        """Return the next spans with events from number `start` on, the first number kept, and the spans' texts."""

        def look(index: Index) -> tuple[list[Span], int, dict[int, bytes]]:
            spans = index.events.spans(max(start, index.events.begin), SPANS)
            known = {span.first: index.events.text(span) for span in spans}
            return spans, index.events.begin, {first: text for first, text in known.items() if text is not None}

        for _ in range(READS):
            spans, begin, texts = await self._look(look)
            away = [span for span in spans if span.first not in texts]
            if away:
                texts |= await self._open().texts.events(away)
            if all(span.first in texts for span in spans):
                return spans, begin, texts
        raise BackendUnavailableError("The events asked for keep moving.")


class _Parts:
    """What an open backend consists of."""

    def __init__(self, config: NATSConfig, ring: Callable[[set[str]], None]) -> None:
        self.link = Link(config, self._lost)
        self.stream = Stream(config, self.link)
        self.texts = Texts(self.stream)
        self.follower = Follower(self.link, self.stream, ring, config.timeout_s)
        self.writer = Writer(self.link, self.stream, self.follower, self.texts)
        self.compactor = Compactor(self.stream, self.follower, self.writer, config.slack_mib * MIB)
        self.writer.after_write = self.compactor.consider

    def _lost(self) -> None:
        self.follower.lost()

    async def start(self) -> None:
        await self.stream.prepare()
        await self.stream.set_replicas()
        await self.follower.ready()

    async def close(self) -> None:
        await self.compactor.close()
        await self.writer.close()
        with suppress(BackendUnavailableError):
            await self.follower.close()
        await self.link.close()


def _forget(draft: Draft) -> None:
    draft.reset = True


def _all(jobs: Sequence[Job | None]) -> list[Job]:
    return [job for job in jobs if job is not None]


def _queue_stats(index: Index, name: str, now: int) -> QueueStats | None:
    queue = index.queues.get(name)
    if queue is None:
        return None
    minutes = list(index.executions(name, now))
    return QueueStats(
        queue=queue,
        states={state.value: index.count(name, None, (state,)) for state in JobState},
        completed_last_hour=sum(minute.completed for minute in minutes),
        failed_last_hour=sum(minute.failed for minute in minutes),
        duration_ms_sum=sum(minute.duration_ms for minute in minutes),
        wait_ms_sum=sum(minute.wait_ms for minute in minutes),
    )
