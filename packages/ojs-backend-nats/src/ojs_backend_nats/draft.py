"""What a group of requests is about to change: a layer over the index that becomes one entry of the log, or nothing.

Requests are decided one after the other against the layer, so later ones see what earlier ones do. The index itself is
not touched: the entry may still be refused because another server was faster, and then everything is decided anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from ojs_backend_nats.entry import Chunk, Entry, Minute, encode_events, joined, numbers_from
from ojs_backend_nats.index import Index, Location, Row
from ojs_core.backend import Hold
from ojs_core.events import Event, EventDraft, job_event
from ojs_core.ids import event_id
from ojs_core.job import Job, JobState, decode_record, encode_record, replace_fields
from ojs_core.records import CronEntry, Queue, Worker, Workflow

Record = TypeVar("Record")
_ABSENT: Any = object()
_MINUTE_MS = 60_000


class NeedsTexts(Exception):  # noqa: N818 - no error: whoever catches it reads the log and decides again
    """A decision needs records that are not in memory."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.locations = [row.location for row in rows]
        super().__init__(self.locations)


class Draft:
    """The changes of one group, so far. `loaded` is what was read from the log for it: see `Texts`."""

    def __init__(self, index: Index, loaded: Mapping[Location | int, bytes]) -> None:
        self.index = index
        self.jobs: dict[str, Job | None] = {}
        self.queues: dict[str, Queue | None] = {}
        self.workers: dict[str, Worker | None] = {}
        self.crons: dict[str, CronEntry | None] = {}
        self.workflows: dict[str, Workflow | None] = {}
        self.minutes: dict[tuple[str, int], Minute] = {}
        self.moved_jobs: dict[str, bytes] = {}
        self.moved_chunks: list[Chunk] = []
        self.events_from = 0
        self.reset = False
        self.loaded = loaded
        self._events: list[Event] = []
        self._latest = 0
        self._first = numbers_from(index.position + 1)
        self._seq = self._first
        self._marked: dict[str, dict[str, None]] = {}
        """Ids changed here, by fingerprint; some may have been taken back."""
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []
        self._heads: dict[str, Iterator[Row]] = {}

    # One request at a time.

    def mark(self) -> tuple[int, int]:
        """Return a point to `rewind` to."""
        return len(self._undo), len(self._events)

    def rewind(self, mark: tuple[int, int]) -> None:
        """Take back everything since the mark."""
        changes, events = mark
        while len(self._undo) > changes:
            table, key, before = self._undo.pop()
            if before is _ABSENT:
                del table[key]
            else:
                table[key] = before
        del self._events[events:]
        self._heads.clear()

    def put(self, table: dict[Any, Any], key: Any, value: Any) -> None:  # noqa: ANN401 - a table of any kind
        """Put a value into one of the tables, to be taken back by `rewind`."""
        self._undo.append((table, key, table.get(key, _ABSENT)))
        table[key] = value

    # Jobs.

    def job(self, job_id: str) -> Job | None:
        """Return a job as the requests so far leave it. Raises `NeedsTexts`."""
        if job_id in self.jobs:
            return self.jobs[job_id]
        row = self.index.rows.get(job_id)
        return None if row is None else self.read(row)

    def read(self, row: Row) -> Job:
        """Return the stored record of a row. Raises `NeedsTexts`."""
        text = row.text or self.loaded.get(row.location)
        if text is None:
            raise NeedsTexts([row])
        return decode_record(text)

    def read_ahead(self, job_ids: Iterable[str]) -> None:
        """Make sure the records of all these jobs are at hand. Raises `NeedsTexts` with all that are not."""
        rows = (self.index.rows.get(job_id) for job_id in job_ids)
        missing = [row for row in rows if row is not None and row.text is None and row.location not in self.loaded]
        if missing:
            raise NeedsTexts(missing)

    def version(self, job_id: str) -> int | None:
        """Return the version of a job as the requests so far leave it; None: there is no such job."""
        if job_id in self.jobs:
            job = self.jobs[job_id]
            return None if job is None else job.version
        row = self.index.rows.get(job_id)
        return None if row is None else row.version

    def add_job(self, job: Job, drafts: Iterable[EventDraft]) -> Job:
        """Insert a job, with its events."""
        return self.change_job(replace_fields(job, version=1), drafts, job.created_at)

    def change_job(self, job: Job, drafts: Iterable[EventDraft], at: int, started_at: int | None = None) -> Job:
        """Put the record of a job after a change; one that became available gets the last place of its queue."""
        if job.state is JobState.AVAILABLE:
            job = replace_fields(job, seq=self._seq)
            self._seq += 1
        self.put(self.jobs, job.id, job)
        if job.fingerprint is not None:
            self._marked.setdefault(job.fingerprint, {})[job.id] = None
        for draft in drafts:
            self.log(job_event(draft, job, at, started_at))
        return job

    def holder(self, fingerprint: str, hold: Hold) -> Job | None:
        """Return a job that a hold conflicts with (C-UNQ-06). Raises `NeedsTexts`."""
        for job_id in self._marked.get(fingerprint, ()):
            job = self.jobs.get(job_id)
            if job is not None and hold.forbids(job):
                return job
        for state in hold.states:
            for created_at, job_id in reversed(self.index.holders.get((fingerprint, state), ())):
                if hold.since is not None and created_at <= hold.since:
                    break
                if job_id not in self.jobs:
                    return self.read(self.index.rows[job_id])
        return None

    def ready(self, queue: str) -> Iterator[Row]:
        """Return the available jobs of a queue in order, each once per draft however often this is asked."""
        head = self._heads.get(queue)
        if head is None:
            head = self._heads[queue] = self._ready(queue)
        return head

    def _ready(self, queue: str) -> Iterator[Row]:
        rows = self.index.rows
        for _, _, job_id in self.index.ready.get(queue, ()):
            if job_id not in self.jobs:
                yield rows[job_id]

    # Everything else.

    def queue(self, name: str) -> Queue | None:
        """Return a queue as the requests so far leave it."""
        return self.queues[name] if name in self.queues else self.index.queues.get(name)

    def make_queue(self, name: str, now: int) -> Queue:
        """Return a queue, created if it was never seen."""
        queue = self.queue(name)
        if queue is None:
            queue = Queue(name=name, created_at=now)
            self.put(self.queues, name, queue)
        return queue

    def worker(self, worker_id: str) -> Worker | None:
        """Return a worker as the requests so far leave it."""
        return self.workers[worker_id] if worker_id in self.workers else self.index.workers.get(worker_id)

    def cron(self, name: str) -> CronEntry | None:
        """Return a cron entry as the requests so far leave it."""
        return self.crons[name] if name in self.crons else self.index.crons.get(name)

    def workflow(self, workflow_id: str) -> Workflow | None:
        """Return a workflow as the requests so far leave it."""
        return self.workflows[workflow_id] if workflow_id in self.workflows else self.index.workflows.get(workflow_id)

    def note_execution(self, before: Job, job: Job, at: int) -> None:
        """Count an execution that ended with this change, if one did."""
        if before.state is not JobState.ACTIVE or before.started_at is None:
            return
        completed = job.state is JobState.COMPLETED
        if not completed and job.error is before.error:
            return
        key = (job.queue, at // _MINUTE_MS)
        minute = self.minutes.get(key) or self.index.minute(*key)
        if completed:
            wait_ms = before.started_at - (before.enqueued_at or before.started_at)
            minute = msgspec.structs.replace(
                minute,
                completed=minute.completed + 1,
                duration_ms=minute.duration_ms + at - before.started_at,
                wait_ms=minute.wait_ms + wait_ms,
            )
        else:
            minute = msgspec.structs.replace(minute, failed=minute.failed + 1)
        self.put(self.minutes, key, minute)

    def log(self, event: Event) -> None:
        """Add an event at the end of the log."""
        number = self._first + len(self._events)
        self._latest = max(self._latest, event.at)
        self._events.append(msgspec.structs.replace(event, id=event_id(event.at, number)))

    def prune(self, begin: int) -> None:
        """Prune the events below a number."""
        self.events_from = begin

    # The end.

    def entry(self) -> tuple[Entry, list[Job]] | None:
        """Return the entry to write and the jobs in it, decoded; None: nothing changes."""
        if not (self._undo or self._events or self.events_from or self.moved_jobs or self.moved_chunks or self.reset):
            return None
        if self.reset:
            return Entry(reset=True), []  # whatever else was asked, was done just before
        rows = self.index.rows
        jobs = [job for job in self.jobs.values() if job is not None]
        entry = Entry(
            jobs=joined([encode_record(job) for job in jobs]),
            gone_jobs=tuple(job_id for job_id, job in self.jobs.items() if job is None and job_id in rows),
            moved_jobs=joined([text for job_id, text in self.moved_jobs.items() if job_id not in self.jobs]),
            queues=_present(self.queues),
            workers=_present(self.workers),
            gone_workers=_absent(self.workers),
            crons=_present(self.crons),
            gone_crons=_absent(self.crons),
            workflows=_present(self.workflows),
            gone_workflows=_absent(self.workflows),
            minutes=tuple(self.minutes.values()),
            chunk=self._chunk(),
            moved_chunks=tuple(self.moved_chunks),
            events_from=self.events_from,
        )
        return entry, jobs

    def _chunk(self) -> Chunk | None:
        if not self._events:
            return None
        return Chunk(self._first, len(self._events), self._latest, Raw(encode_events(self._events)))


def _present(table: Mapping[str, Record | None]) -> tuple[Record, ...]:
    return tuple([record for record in table.values() if record is not None])


def _absent(table: Mapping[str, object]) -> tuple[str, ...]:
    return tuple([key for key, record in table.items() if record is None])
