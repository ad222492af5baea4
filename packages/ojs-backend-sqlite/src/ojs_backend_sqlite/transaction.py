"""One transaction of the writer: what it read, what it changed, and the counters that follow from it.

The lifecycle is core's: this keeps the rows, counts and events of what core decided in step with each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

import apsw
import msgspec

from ojs_backend_sqlite import layouts, queries
from ojs_backend_sqlite.table import Row, Table, encode_keys
from ojs_core.backend import Hold
from ojs_core.events import Event, EventDraft, job_event
from ojs_core.job import Job, JobState, replace_fields
from ojs_core.records import Queue

MINUTE_MS = 60_000
_EVER = -(2**63)


class Transaction:
    """Records are read once and written once, however many requests of a flush touch them.

    `write` makes the file agree with the changes so far; it runs before a query that searches, and at the end.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self._stored: tuple[int, int] = connection.execute(queries.LOAD_STORE).get
        self.seq: int
        self._event_seq: int
        self.seq, self._event_seq = self._stored
        self.seq_found = self.seq
        self.woken: set[str] = set()
        """Queues that jobs may be claimed from, and could not before."""
        self._forget()

    def _forget(self) -> None:
        self.jobs = Table(self.connection, layouts.JOBS)
        self.queues = Table(self.connection, layouts.QUEUES)
        self.workers = Table(self.connection, layouts.WORKERS)
        self.crons = Table(self.connection, layouts.CRONS)
        self.workflows = Table(self.connection, layouts.WORKFLOWS)
        self._events: list[Row] = []
        self._counts: Counter[tuple[str, JobState]] = Counter()
        self._minutes: dict[tuple[str, int], list[int]] = {}
        self._taken_fingerprints: dict[str, bool] = {}
        self._unwritten_fingerprints: set[str | None] = set()

    # Jobs.

    def insert_job(self, job: Job, drafts: Iterable[EventDraft]) -> Job:
        """Insert a job in its first state, and return it as stored."""
        seq = self.wake(job.queue) if job.state is JobState.AVAILABLE else job.seq
        job = replace_fields(job, version=1, seq=seq)
        self._put_job(job)
        self._log_drafts(drafts, job, job.created_at)
        return job

    def swap_job(self, before: Job, after: Job, drafts: Iterable[EventDraft], at: int) -> Job:
        """Replace a job by what core made of it, and return it as stored."""
        if after.state is JobState.AVAILABLE:
            after = replace_fields(after, seq=self.wake(after.queue))
        self._counts[before.queue, before.state] -= 1
        self._put_job(after)
        if before.state is JobState.ACTIVE:
            self._note_execution(before, after, at)
        self._log_drafts(drafts, after, at, before.started_at)
        return after

    def remove_job(self, job: Job) -> None:
        """Delete a job and every index of it."""
        self._counts[job.queue, job.state] -= 1
        self._unwritten_fingerprints.add(job.fingerprint)
        self.jobs.remove(job.id)

    def _put_job(self, job: Job) -> None:
        self._counts[job.queue, job.state] += 1
        if job.fingerprint is not None:
            self._taken_fingerprints[job.fingerprint] = True
            self._unwritten_fingerprints.add(job.fingerprint)
        self.jobs.put(job.id, job)

    def _note_execution(self, before: Job, after: Job, at: int) -> None:
        completed = after.state is JobState.COMPLETED
        if before.started_at is None or not (completed or after.error is not before.error):
            return
        sums = self._minutes.setdefault((after.queue, at // MINUTE_MS), [0, 0, 0, 0])
        if completed:
            sums[0] += 1
            sums[2] += at - before.started_at
            sums[3] += before.started_at - (before.enqueued_at or before.started_at)
        else:
            sums[1] += 1

    # Holds.

    def load_fingerprints(self, fingerprints: Collection[str]) -> None:
        """Learn at once which of the fingerprints no job has, so that most holds need no query of their own."""
        missing = [fingerprint for fingerprint in fingerprints if fingerprint not in self._taken_fingerprints]
        if missing:
            taken = self.connection.execute(queries.TAKEN_FINGERPRINTS, (encode_keys(missing),)).get
            self._taken_fingerprints.update(dict.fromkeys(missing, False))
            self._taken_fingerprints.update(dict.fromkeys(msgspec.json.decode(taken), True))

    def find_holders(self, fingerprint: str, hold: Hold, limit: int) -> list[Job]:
        """Return at most `limit` jobs that a hold conflicts with."""
        if not self._taken_fingerprints.get(fingerprint, True):
            return []
        if fingerprint in self._unwritten_fingerprints:
            self.write()
        states = encode_keys(sorted(hold.states))
        since = _EVER if hold.since is None else hold.since
        return layouts.JOBS.read(self.connection, queries.FIND_HOLDERS, (fingerprint, states, since, limit))

    # Queues.

    def wake(self, queue: str) -> int:
        """Return the next place in the order of the store. That it moved tells other processes of the new work."""
        self.woken.add(queue)
        self.seq += 1
        return self.seq

    def make_queue(self, name: str, now: int) -> Queue:
        """Return a queue, made now if it was never seen."""
        queue = self.queues.get(name)
        if queue is None:
            queue = Queue(name=name, created_at=now)
            self.queues.put(name, queue)
        return queue

    # Events.

    def log(self, event: Event) -> None:
        """Add an event to the end of the log."""
        self._event_seq += 1
        self._events.append(
            (self._event_seq, event.at, event.type, event.subject, event.queue, event.job_type, bytes(event.data))
        )

    def _log_drafts(self, drafts: Iterable[EventDraft], job: Job, at: int, started_at: int | None = None) -> None:
        for draft in drafts:
            self.log(job_event(draft, job, at, started_at))

    # The file.

    def write(self) -> None:
        """Write what changed since the last time."""
        for table in (self.jobs, self.queues, self.workers, self.crons, self.workflows):
            table.write()
        self._unwritten_fingerprints.clear()
        layouts.INSERT_EVENTS.run(self.connection, self._events)
        layouts.ADD_COUNTS.run(self.connection, [(*key, count) for key, count in self._counts.items() if count])
        for key, sums in self._minutes.items():
            self.connection.execute(queries.ADD_MINUTE, (*key, *sums))
        self._events.clear()
        self._counts.clear()
        self._minutes.clear()
        counters = (self.seq, self._event_seq)
        if counters != self._stored:
            self.connection.execute(queries.SAVE_STORE, counters)
            self._stored = counters

    def reset(self) -> None:
        """Delete everything but the counters of the store, which only grow."""
        for table in ("jobs", "queues", "counts", "minutes", "workers", "crons", "workflows", "events"):
            self.connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
        self._forget()
