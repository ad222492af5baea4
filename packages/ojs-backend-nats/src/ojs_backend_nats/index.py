"""The index every server holds in memory: what the log says, in the orders that questions are asked in.

Rebuilt from the log at start, and kept up with every entry, the server's own as well as others'. It only ever changes
by whole entries. The text of a finished job, and of one with much data, is left in the log: its row says where.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from sys import intern
from typing import Generic, NamedTuple, TypeVar

from ojs_backend_nats.entry import Entry, Head, Minute, decode_head
from ojs_backend_nats.eventlog import EventLog
from ojs_backend_nats.ordered import Ordered
from ojs_core.job import TERMINAL, Job, JobState
from ojs_core.records import CronEntry, Queue, Worker, Workflow, encode

TEXT_KEPT_MAX = 8192
"""Bytes of a waiting or active job's record that are kept in memory; a longer one is read from the log when needed."""
STATS_MINUTES = 60
"""Minutes of which a queue's executions are counted."""


class Location(NamedTuple):
    """Where in the log a job's record is: the entry, and its position among `jobs`, or (-1 downwards) `moved_jobs`."""

    sequence: int
    place: int


class Row:
    """What the index has of one job."""

    __slots__ = (
        "created_at",
        "dead",
        "discarded_at",
        "error_type",
        "expires_at",
        "fingerprint",
        "id",
        "location",
        "priority",
        "queue",
        "seq",
        "size",
        "state",
        "text",
        "type",
        "version",
        "wake_at",
        "worker_id",
    )

    def __init__(self, head: Head | Job, text: bytes, location: Location) -> None:
        self.id = head.id
        # The same few names stand in every record; one copy of each will do.
        self.type = intern(head.type)
        self.queue = intern(head.queue)
        self.state = head.state
        self.created_at = head.created_at
        self.priority = head.priority
        self.version = head.version
        self.seq = head.seq
        self.wake_at = head.wake_at
        self.expires_at = head.expires_at
        self.discarded_at = head.discarded_at
        self.worker_id = head.worker_id
        self.error_type = None if head.error is None else head.error.type
        self.dead = head.dead
        self.fingerprint = head.fingerprint
        self.location = location
        self.size = len(text)
        self.text = text if self.size <= TEXT_KEPT_MAX and head.state not in TERMINAL else None


Placed = TypeVar("Placed", Queue, Worker, CronEntry, Workflow)


class Table(Generic[Placed]):
    """Records under their key, with the entry that holds the current one; and their instants, if they have any."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes of all of them, as text."""
        self.records: dict[str, Placed] = {}
        self.sequences: dict[str, int] = {}
        self.wakes: Ordered[tuple[int, str]] = Ordered()

    def get(self, key: str) -> Placed | None:
        """Return the record under a key, or None."""
        return self.records.get(key)

    def put(self, key: str, record: Placed, sequence: int) -> None:
        """Put a record in the place of any before it."""
        self.remove(key)
        self.records[key] = record
        self.size += len(encode(record))
        self.sequences[key] = sequence
        wake_at = getattr(record, "wake_at", None)
        if wake_at is not None:
            self.wakes.add((wake_at, key))

    def is_at(self, key: str, sequence: int) -> bool:
        """Return whether the current record of a key is in that entry."""
        return key in self.records and self.sequences[key] == sequence

    def remove(self, key: str) -> None:
        """Remove a record, if there is one."""
        record = self.records.pop(key, None)
        if record is None:
            return
        self.size -= len(encode(record))
        del self.sequences[key]
        wake_at = getattr(record, "wake_at", None)
        if wake_at is not None:
            self.wakes.remove((wake_at, key))

    def due(self, now: int, limit: int) -> list[Placed]:
        """Return at most `limit` records whose instant has come, earliest first."""
        found: list[Placed] = []
        for wake_at, key in self.wakes:
            if wake_at > now or len(found) == limit:
                break
            found.append(self.records[key])
        return found


class Index:
    """Everything the entries up to `position` say."""

    def __init__(self) -> None:
        self.position = 0
        """Sequence of the last message taken in."""
        self.clear()

    def clear(self) -> None:
        """Forget everything but the position."""
        self.rows: dict[str, Row] = {}
        self.ready: dict[str, Ordered[tuple[int, int, str]]] = {}
        """Available jobs by queue: (-priority, seq, id)."""
        self.wakes: Ordered[tuple[int, int, str]] = Ordered()
        """(wake_at, seq, id)."""
        self.by_state: dict[JobState, Ordered[tuple[int, str]]] = {state: Ordered() for state in JobState}
        """(created_at, id)."""
        self.dead: Ordered[tuple[int, str]] = Ordered()
        """Dead letters: (discarded_at, id)."""
        self.holders: dict[tuple[str, JobState], list[tuple[int, str]]] = {}
        """Jobs with a fingerprint, by it and state: (created_at, id), ascending."""
        self.counts: dict[str, dict[str, dict[JobState, int]]] = {}
        """How many jobs there are by queue, type and state."""
        self.queues: Table[Queue] = Table()
        self.workers: Table[Worker] = Table()
        self.crons: Table[CronEntry] = Table()
        self.workflows: Table[Workflow] = Table()
        self.minutes: dict[str, dict[int, tuple[Minute, int]]] = {}
        """Executions by queue and minute, with the entry that holds the total."""
        self.events = EventLog()
        self._live_bytes = 0
        """Of jobs and events."""

    @property
    def live_bytes(self) -> int:
        """Size of all that is current, as text."""
        return self._live_bytes + sum(table.size for table in (self.queues, self.workers, self.crons, self.workflows))

    def apply(self, entry: Entry, sequence: int, heads: Sequence[Head | Job] | None = None) -> set[str]:
        """Take in the entry whose last message has that sequence; return the queues in which jobs became available.

        `heads`: the jobs of the entry, where the caller has them decoded already.
        """
        if entry.reset:
            self.clear()
        for job_id in entry.gone_jobs:
            self._remove_job(job_id)
        if heads is None:
            heads = [decode_head(text) for text in entry.jobs]
        woken: set[str] = set()
        for place, (head, text) in enumerate(zip(heads, entry.jobs, strict=True)):
            self._put_job(head, bytes(text), Location(sequence, place))
            if head.state is JobState.AVAILABLE:
                woken.add(head.queue)
        for place, text in enumerate(entry.moved_jobs):
            self._move_job(decode_head(text), bytes(text), Location(sequence, -1 - place))
        self._apply_tables(entry, sequence, woken)
        for minute in entry.minutes:
            self._put_minute(minute, sequence)
        if entry.chunk is not None:
            self._live_bytes += self.events.add(entry.chunk, sequence)
        for chunk in entry.moved_chunks:
            self._live_bytes += self.events.move(chunk, sequence)
        if entry.events_from:
            self._live_bytes -= self.events.prune(entry.events_from)
        return woken

    def _apply_tables(self, entry: Entry, sequence: int, woken: set[str]) -> None:
        for queue in entry.queues:
            before = self.queues.get(queue.name)
            if before is not None and before.paused and not queue.paused:
                woken.add(queue.name)
            self.queues.put(queue.name, queue, sequence)
        for worker_id in entry.gone_workers:
            self.workers.remove(worker_id)
        for worker in entry.workers:
            self.workers.put(worker.id, worker, sequence)
        for name in entry.gone_crons:
            self.crons.remove(name)
        for cron in entry.crons:
            self.crons.put(cron.name, cron, sequence)
        for workflow_id in entry.gone_workflows:
            self.workflows.remove(workflow_id)
        for workflow in entry.workflows:
            self.workflows.put(workflow.id, workflow, sequence)

    # Jobs.

    def _put_job(self, head: Head | Job, text: bytes, location: Location) -> None:
        self._remove_job(head.id)
        row = Row(head, text, location)
        self.rows[row.id] = row
        self._live_bytes += row.size
        self._count(row, 1)
        self.by_state[row.state].add((row.created_at, row.id))
        if row.state is JobState.AVAILABLE:
            ready = self.ready.get(row.queue)
            if ready is None:
                ready = self.ready[row.queue] = Ordered()
            ready.add((-row.priority, row.seq, row.id))
        if row.wake_at is not None:
            self.wakes.add((row.wake_at, row.seq, row.id))
        if row.dead:
            self.dead.add((row.discarded_at or 0, row.id))
        if row.fingerprint is not None:
            insort(self.holders.setdefault((row.fingerprint, row.state), []), (row.created_at, row.id))

    def _remove_job(self, job_id: str) -> None:
        row = self.rows.pop(job_id, None)
        if row is None:
            return
        self._live_bytes -= row.size
        self._count(row, -1)
        self.by_state[row.state].remove((row.created_at, row.id))
        if row.state is JobState.AVAILABLE:
            ready = self.ready[row.queue]
            ready.remove((-row.priority, row.seq, row.id))
            if not ready:
                del self.ready[row.queue]
        if row.wake_at is not None:
            self.wakes.remove((row.wake_at, row.seq, row.id))
        if row.dead:
            self.dead.remove((row.discarded_at or 0, row.id))
        if row.fingerprint is not None:
            key = (row.fingerprint, row.state)
            held = self.holders[key]
            del held[bisect_left(held, (row.created_at, row.id))]
            if not held:
                del self.holders[key]

    def _count(self, row: Row, change: int) -> None:
        types = self.counts.setdefault(row.queue, {})
        states = types.setdefault(row.type, {})
        states[row.state] = states.get(row.state, 0) + change
        if change < 0 and not any(states.values()):
            # A type is free text of clients: what was counted to zero does not stay.
            del types[row.type]
            if not types:
                del self.counts[row.queue]

    def count(self, queue: str | None, job_type: str | None, states: Iterable[JobState]) -> int:
        """Return how many jobs there are in these states; None: of all queues, of all types."""
        queues = self.counts.values() if queue is None else [self.counts.get(queue, {})]
        found = [by_state for types in queues for name, by_state in types.items() if job_type in (None, name)]
        return sum(by_state.get(state, 0) for state in states for by_state in found)

    def _move_job(self, head: Head, text: bytes, location: Location) -> None:
        row = self.rows.get(head.id)
        if row is not None:
            row.location = location
        else:
            # Whoever begins to read here has not seen the record that was copied.
            self._put_job(head, text, location)

    # Executions.

    def _put_minute(self, minute: Minute, sequence: int) -> None:
        minutes = self.minutes.setdefault(minute.queue, {})
        minutes[minute.minute] = (minute, sequence)
        if len(minutes) > STATS_MINUTES:
            newest = max(minutes)
            for number in [number for number in minutes if number <= newest - STATS_MINUTES]:
                del minutes[number]

    def minute(self, queue: str, number: int) -> Minute:
        """Return what ended in a queue in one minute so far."""
        found = self.minutes.get(queue, {}).get(number)
        return Minute(queue, number) if found is None else found[0]

    def is_minute_at(self, queue: str, number: int, sequence: int) -> bool:
        """Return whether the total of a minute is in that entry, and still asked for."""
        found = self.minutes.get(queue, {}).get(number)
        return found is not None and found[1] == sequence

    def executions(self, queue: str, now: int) -> Iterable[Minute]:
        """Yield the minutes of the last hour."""
        first = now // 60_000 - STATS_MINUTES
        return (minute for number, (minute, _) in self.minutes.get(queue, {}).items() if number > first)

    # Times.

    def next_wake_at(self) -> int | None:
        """Return the earliest instant of all jobs, workflows and cron entries."""
        firsts = (self.wakes.first(), self.workflows.wakes.first(), self.crons.wakes.first())
        return min((first[0] for first in firsts if first is not None), default=None)

    def due(self, now: int, limit: int) -> list[Row]:
        """Return at most `limit` jobs whose instant has come, earliest first (ties: lowest `seq`, then id)."""
        found: list[Row] = []
        for wake_at, _, job_id in self.wakes:
            if wake_at > now or len(found) == limit:
                break
            found.append(self.rows[job_id])
        return found
