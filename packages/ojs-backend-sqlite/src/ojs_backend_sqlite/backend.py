"""The SQLite backend: each operation as the work it gives to the writer or to a reader."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import apsw
import msgspec

from ojs_backend_sqlite import database, layouts, queries
from ojs_backend_sqlite.beating import take_beat
from ojs_backend_sqlite.claiming import serve_claims
from ojs_backend_sqlite.committing import apply_commits
from ojs_backend_sqlite.config import SQLiteConfig
from ojs_backend_sqlite.errors import closed, unavailable
from ojs_backend_sqlite.listing import list_events, list_jobs
from ojs_backend_sqlite.mailbox import Work
from ojs_backend_sqlite.reader import Reader
from ojs_backend_sqlite.table import Layout
from ojs_backend_sqlite.transaction import MINUTE_MS, Transaction
from ojs_backend_sqlite.writer import Writer
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
from ojs_core.events import Event, other_event
from ojs_core.job import Job, JobState
from ojs_core.records import CronEntry, Queue, QueueStats, Worker, WorkerState, Workflow

Answer = TypeVar("Answer")
Record = TypeVar("Record")

PING_S = 2.0
"""How long `ping` waits for its answer."""
_STATS_MINUTES = 60
_FAR_FUTURE = 2**62


class SQLiteBackend(Backend):
    """One database file, shared by the processes of one machine; or `:memory:`, which ends with this process."""

    def __init__(self, config: SQLiteConfig) -> None:
        if not config.in_memory:
            # Wherever the process moves to later, it is this file.
            config = msgspec.structs.replace(config, path=str(Path(config.path).absolute()))
        self._config = config
        self._writer: Writer | None = None
        self._readers: list[Reader] = []
        self._callbacks: list[WakeCallback] = []

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="sqlite",
            unique_mechanism="checked in the transaction that inserts; one writes at a time",
            shared=not self._config.in_memory,
            durable=not self._config.in_memory and self._config.synchronous != "off",
        )

    async def open(self) -> None:
        if self._writer is not None:
            return
        try:
            connection = await asyncio.to_thread(database.prepare, self._config)
        except apsw.Error as error:
            raise unavailable(error) from error
        self._writer = Writer(self._config, connection, self._ring)
        if not self._config.in_memory:
            # Two, so that a long listing does not keep the short reads of requests waiting.
            self._readers = [Reader(self._config, "reader"), Reader(self._config, "lister")]

    async def close(self) -> None:
        writer, readers = self._writer, self._readers
        self._writer, self._readers = None, []
        for reader in readers:
            await reader.close()
        if writer is not None:
            await writer.close()

    async def ping(self) -> None:
        try:
            async with asyncio.timeout(PING_S):
                await self._read(lambda connection: connection.execute(queries.LOAD_STORE).get)
        except TimeoutError as error:
            raise BackendUnavailableError(f"The database did not answer within {PING_S:g} s.") from error

    async def reset(self) -> None:
        await self._write(Transaction.reset)

    async def warnings(self) -> list[str]:
        return database.warnings(self._config)

    # Jobs.

    async def commit(self, commits: Sequence[Commit]) -> list[Committed | Refused]:
        return await self._write(lambda transaction: apply_commits(transaction, commits))

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[Claimed]:
        return await self._write(lambda transaction: serve_claims(transaction, requests))

    async def get_jobs(self, job_ids: Sequence[str]) -> list[Job | None]:
        found = await self._read(lambda connection: layouts.JOBS.find(connection, job_ids))
        jobs = {job.id: job for job in found}
        return [jobs.get(job_id) for job_id in job_ids]

    async def due_jobs(self, now: int, limit: int) -> list[Job]:
        return await self._read(lambda connection: layouts.JOBS.read_due(connection, queries.DUE_JOBS, now, limit))

    async def next_wake_at(self) -> int | None:
        return await self._read(lambda connection: connection.execute(queries.NEXT_WAKE_AT).get)

    async def list_jobs(self, query: JobQuery) -> JobPage:
        return await self._list(lambda connection: list_jobs(connection, query))

    # Queues.

    async def list_queues(self) -> list[Queue]:
        return await self._read_all(layouts.QUEUES, queries.LIST_QUEUES)

    async def queue_stats(self, name: str, now: int) -> QueueStats | None:
        return await self._read(lambda connection: _queue_stats(connection, name, now))

    async def set_paused(self, name: str, now: int, *, paused: bool) -> Queue:
        return await self._write(lambda transaction: _set_paused(transaction, name, now, paused=paused))

    # Workers.

    async def beat(self, request: BeatRequest) -> Beaten:
        return await self._write(lambda transaction: take_beat(transaction, request))

    async def list_workers(self, *, seen_before: int | None = None, limit: int = 1000) -> list[Worker]:
        before = _FAR_FUTURE if seen_before is None else seen_before
        return await self._read_all(layouts.WORKERS, queries.LIST_WORKERS, before, limit)

    async def set_directive(self, worker_id: str, directive: WorkerState | None) -> Worker | None:
        return await self._write(lambda transaction: _set_directive(transaction, worker_id, directive))

    async def remove_worker(self, worker_id: str, seen_before: int, event: Event) -> bool:
        return await self._write(lambda transaction: _remove_worker(transaction, worker_id, seen_before, event))

    # Cron entries and workflows.

    async def get_cron(self, name: str) -> CronEntry | None:
        return await self._read(lambda connection: _first(layouts.CRONS.find(connection, [name])))

    async def list_crons(self) -> list[CronEntry]:
        return await self._read_all(layouts.CRONS, queries.LIST_CRONS)

    async def due_crons(self, now: int, limit: int) -> list[CronEntry]:
        return await self._read_all(layouts.CRONS, queries.DUE_CRONS, now, limit)

    async def get_workflow(self, workflow_id: str) -> Workflow | None:
        return await self._read(lambda connection: _first(layouts.WORKFLOWS.find(connection, [workflow_id])))

    async def due_workflows(self, now: int, limit: int) -> list[Workflow]:
        return await self._read(
            lambda connection: layouts.WORKFLOWS.read_due(connection, queries.DUE_WORKFLOWS, now, limit)
        )

    # Events.

    async def list_events(self, query: EventQuery) -> EventPage:
        return await self._list(lambda connection: list_events(connection, query))

    async def prune_events(self, before: int, keep: int, limit: int) -> int:
        return await self._write(lambda transaction: _prune_events(transaction, before, keep, limit))

    def listen(self, callback: WakeCallback) -> None:
        self._callbacks.append(callback)

    # The connections.

    def _ring(self, queues: frozenset[str] | None) -> None:
        for callback in self._callbacks:
            callback(queues)

    async def _write(self, work: Work[Transaction, Answer]) -> Answer:
        if self._writer is None:
            raise closed()
        return await self._writer.submit(work)

    async def _read(self, work: Work[apsw.Connection, Answer], reader: int = 0) -> Answer:
        if not self._readers:
            # A database in memory has one connection only.
            return await self._write(partial(_read_in_transaction, work))
        return await self._readers[reader].submit(work)

    async def _list(self, work: Work[apsw.Connection, Answer]) -> Answer:
        return await self._read(work, -1)

    async def _read_all(self, layout: Layout[Record], query: str, *bindings: int) -> list[Record]:
        return await self._read(lambda connection: layout.read(connection, query, bindings))


def _read_in_transaction(work: Work[apsw.Connection, Answer], transaction: Transaction) -> Answer:
    transaction.write()
    return work(transaction.connection)


def _first(records: Sequence[Record]) -> Record | None:
    return records[0] if records else None


def _queue_stats(connection: apsw.Connection, name: str, now: int) -> QueueStats | None:
    queue = _first(layouts.QUEUES.find(connection, [name]))
    if queue is None:
        return None
    states = {state.value: 0 for state in JobState}
    states.update(connection.execute(queries.COUNT_STATES, (name,)))
    sums = connection.execute(queries.SUM_MINUTES, (name, now // MINUTE_MS - _STATS_MINUTES)).get
    completed, failed, duration_ms, wait_ms = sums
    return QueueStats(
        queue=queue,
        states=states,
        completed_last_hour=completed,
        failed_last_hour=failed,
        duration_ms_sum=duration_ms,
        wait_ms_sum=wait_ms,
    )


def _set_paused(transaction: Transaction, name: str, now: int, *, paused: bool) -> Queue:
    queue = transaction.make_queue(name, now)
    if queue.paused != paused:
        queue = msgspec.structs.replace(queue, paused_at=now if paused else None)
        transaction.queues.put(name, queue)
        transaction.log(other_event("queue.paused" if paused else "queue.resumed", now, name, queue=name))
        if not paused:
            transaction.wake(name)
    return queue


def _set_directive(transaction: Transaction, worker_id: str, directive: WorkerState | None) -> Worker | None:
    worker = transaction.workers.get(worker_id)
    if worker is not None:
        worker = msgspec.structs.replace(worker, directive=directive)
        transaction.workers.put(worker_id, worker)
    return worker


def _remove_worker(transaction: Transaction, worker_id: str, seen_before: int, event: Event) -> bool:
    worker = transaction.workers.get(worker_id)
    if worker is None or worker.last_seen_at >= seen_before:
        return False
    transaction.workers.remove(worker_id)
    transaction.log(event)
    return True


def _prune_events(transaction: Transaction, before: int, keep: int, limit: int) -> int:
    transaction.write()
    connection = transaction.connection
    span: tuple[int, int] | tuple[None, None] = connection.execute(queries.EVENT_RANGE).get
    first, last = span
    if first is None or last is None:
        return 0
    end = min(first + limit, last + 1)
    oldest_kept: int | None = connection.execute(queries.OLDEST_KEPT, (first, end, before)).get
    last_old = end - 1 if oldest_kept is None else oldest_kept - 1
    last_gone = min(end - 1, max(last_old, last - keep))
    if last_gone >= first:
        connection.execute(queries.DELETE_EVENTS, (last_gone,))
    return max(0, last_gone - first + 1)
