"""The PostgreSQL backend: each operation as the statement it runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import asyncpg
import msgspec

from ojs_backend_postgres import claiming, schema
from ojs_backend_postgres.committing import Call, note_of, split
from ojs_backend_postgres.config import PostgresConfig
from ojs_backend_postgres.connections import Connections, connect, pause
from ojs_backend_postgres.errors import FAULTS, unavailable
from ojs_backend_postgres.listing import list_events, list_jobs
from ojs_backend_postgres.migrations import STEPS, Step, script
from ojs_backend_postgres.queries import Queries
from ojs_backend_postgres.rows import Row, job_of, of_text, to_text
from ojs_backend_postgres.wakeups import Wakeups
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
from ojs_core.clock import skew_warnings, wall_ms
from ojs_core.errors import BackendUnavailableError, PartlyUnavailableError, SettingsError
from ojs_core.events import Event, other_event, worker_started
from ojs_core.job import Job, JobState
from ojs_core.rate import RateWindow
from ojs_core.records import (
    CronEntry,
    Queue,
    QueueStats,
    Worker,
    WorkerState,
    Workflow,
    decode_cron,
    decode_worker,
    decode_workflow,
    encode,
)

Record = TypeVar("Record")

log = logging.getLogger("ojs.postgres")

BACKGROUND_SIZE = 2
"""Connections for what no request waits for, so that requests can never take them all."""
COUNT_UP_S = 1.0
"""How often changes are added to the counts."""
PING_S = 2.0
"""How long `ping` waits for its answer."""
CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8 * 1000"
MINUTE_MS = 60_000
_STATS_MINUTES = 60
_FAR_FUTURE = 2**62


class PostgresBackend(Backend):
    """One schema of a database, shared by any number of servers."""

    def __init__(self, config: PostgresConfig) -> None:
        self._config = config
        self._queries = Queries(config.schema)
        self._requests = Connections(config, config.pool_size, "ojs-server requests")
        self._background = Connections(config, BACKGROUND_SIZE, "ojs-server background")
        self._wakeups = Wakeups(config, self._ring) if config.notify_url is not None else None
        self._callbacks: list[WakeCallback] = []
        self._counting: asyncio.Task[None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="postgres",
            unique_mechanism="a lock for each fingerprint, held by the transaction that looks and inserts",
            durable=self._config.durability != "off",
            push_wakeups=self._wakeups is not None,
        )

    @property
    def groups_at_once(self) -> int:
        return 2

    async def open(self) -> None:
        if self._counting is not None:
            return
        try:
            steps = await self._pending_steps()
            if self._config.migrate == "never":
                schema.refuse_pending(steps, self._config)
            elif steps:
                await self.migrate()
            await self._requests.open()
            await self._background.open()
            if self._wakeups is not None:
                await self._wakeups.open()
        except FAULTS as error:
            await self.close()
            raise unavailable(error) from error
        except BaseException:
            await self.close()
            raise
        self._counting = asyncio.create_task(self._count_up(), name="ojs-postgres-count")

    async def close(self) -> None:
        counting, self._counting = self._counting, None
        if counting is not None:
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)
        if self._wakeups is not None:
            await self._wakeups.close()
        await self._requests.close()
        await self._background.close()

    async def ping(self) -> None:
        await self._background.ping(self._queries.ping, PING_S)

    async def reset(self) -> None:
        await self._background.execute(self._queries.reset)

    async def warnings(self) -> list[str]:
        found = []
        if self._config.durability == "off":
            found.append("OJS_POSTGRES_DURABILITY=off: a crash of the database may take the last answered changes.")
        for name, danger in (
            ("fsync", "a power loss may destroy the database"),
            ("full_page_writes", "a power loss may destroy the database"),
            ("synchronous_commit", "a crash of the database may take the last answered changes"),
        ):
            value = await self._background.fetch_value("SELECT current_setting($1)", name)
            if value == "off" and not (name == "synchronous_commit" and self._config.durability == "off"):
                found.append(f"The database has {name} = off: {danger}.")
        if self._wakeups is None:
            found.append(
                "OJS_POSTGRES_POOLER without OJS_POSTGRES_LISTEN_URL: work from other servers is noticed by polling."
            )
        asked_at = wall_ms()
        return found + skew_warnings(await self._background.fetch_value(CLOCK), asked_at)

    # The schema.

    async def migrate(self) -> list[str]:
        """Take the steps that the schema lacks, and return their names."""
        connection = await self._connect(patient=True)
        try:
            return [step.name for step in await schema.take_steps(connection, self._config)]
        except FAULTS as error:
            raise unavailable(error) from error
        finally:
            await _disconnect(connection)

    async def pending_migrations(self) -> list[str]:
        """Return the names of the steps that the schema lacks."""
        return [step.name for step in await self._pending_steps()]

    def migration_script(self) -> str:
        """Return all steps as SQL."""
        return script(STEPS, self._config.schema)

    async def _pending_steps(self) -> tuple[Step, ...]:
        connection = await self._connect()
        try:
            return await schema.pending_steps(connection, self._config)
        except FAULTS as error:
            raise unavailable(error) from error
        finally:
            await _disconnect(connection)

    async def _connect(self, *, patient: bool = False) -> asyncpg.Connection:
        try:
            return await connect(self._config, purpose="ojs-server migrate", patient=patient)
        except FAULTS as error:
            if isinstance(error, asyncpg.ClientConfigurationError):
                raise _unreadable_url() from None
            if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
                raise SettingsError(f"DATABASE_URL: {unavailable(error)}") from error
            raise unavailable(error) from error
        except ValueError:
            raise _unreadable_url() from None

    # Jobs.

    async def commit(self, commits: Sequence[Commit]) -> list[Committed | Refused]:
        answers: list[Committed | Refused] = []
        for group in split(commits):
            call = Call(group, self._config.schema)
            with _answering(answers, len(commits)):
                answers += call.answers(await self._requests.fetch(self._queries.commit, *call.arguments))
            if call.woken:
                self._wake(call.woken)
        return answers

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[Claimed]:
        answers: list[Claimed] = []
        for group in claiming.split(requests):
            with _answering(answers, len(requests)):
                rows = await self._requests.fetch(self._queries.claim, *claiming.arguments_of(group))
            answers += claiming.answers_of(group, rows)
        return answers

    async def get_jobs(self, job_ids: Sequence[str]) -> list[Job | None]:
        rows = await self._requests.fetch(self._queries.get_jobs, [to_text(job_id) for job_id in job_ids])
        jobs = {row["id"]: job_of(row) for row in rows}
        return [jobs.get(job_id) for job_id in job_ids]

    async def due_jobs(self, now: int, limit: int) -> list[Job]:
        return [job_of(row) for row in await self._background.fetch(self._queries.due_jobs, now, limit)]

    async def next_wake_at(self) -> int | None:
        wake_at: int | None = await self._background.fetch_value(self._queries.next_wake_at)
        return wake_at

    async def list_jobs(self, query: JobQuery) -> JobPage:
        return await list_jobs(self._requests, query, self._config.schema)

    # Queues.

    async def list_queues(self) -> list[Queue]:
        return [_queue(row) for row in await self._requests.fetch(self._queries.list_queues)]

    async def queue_stats(self, name: str, now: int) -> QueueStats | None:
        minute = now // MINUTE_MS - _STATS_MINUTES
        rows = await self._requests.fetch(self._queries.queue_stats, to_text(name), minute)
        return _stats(rows[0]) if rows else None

    async def set_paused(self, name: str, now: int, *, paused: bool) -> Queue:
        event = other_event("queue.paused" if paused else "queue.resumed", now, name, queue=name)
        [row] = await self._requests.fetch(self._queries.set_paused, to_text(name), now, paused, bytes(event.data))
        if row["changed"] and not paused:
            self._wake({name})
        return _queue(row)

    # Workers.

    async def beat(self, request: BeatRequest) -> Beaten:
        worker, now = request.worker, request.now
        job_ids = list(dict.fromkeys(map(to_text, request.job_ids)))
        started = bytes(worker_started(worker, now).data)
        kept, *rows = await self._requests.fetch(
            self._queries.beat, to_text(worker.id), now, encode(worker), started, job_ids, request.lease_ms
        )
        places = {job_id: place for place, job_id in enumerate(job_ids)}
        rows.sort(key=lambda row: places[row["id"]])
        return Beaten(
            msgspec.structs.replace(
                worker,
                first_seen_at=kept["first_seen_at"],
                last_seen_at=now,
                beats=kept["beats"],
                directive=kept["directive"],
            ),
            extended=tuple([job_of(row) for row in rows if row["renewed"]]),
            others=tuple([job_of(row) for row in rows if not row["renewed"]]),
        )

    async def list_workers(self, *, seen_before: int | None = None, limit: int = 1000) -> list[Worker]:
        before = _FAR_FUTURE if seen_before is None else seen_before
        return [_worker(row) for row in await self._background.fetch(self._queries.list_workers, before, limit)]

    async def set_directive(self, worker_id: str, directive: WorkerState | None) -> Worker | None:
        return _first(
            map(_worker, await self._requests.fetch(self._queries.set_directive, to_text(worker_id), directive))
        )

    async def remove_worker(self, worker_id: str, seen_before: int, event: Event) -> bool:
        removed: bool = await self._requests.fetch_value(
            self._queries.remove_worker, to_text(worker_id), seen_before, *note_of(event)
        )
        return removed

    # Cron entries and workflows.

    async def get_cron(self, name: str) -> CronEntry | None:
        rows = await self._requests.fetch(self._queries.get_cron, to_text(name))
        return _first(decode_cron(row["record"]) for row in rows)

    async def list_crons(self) -> list[CronEntry]:
        return [decode_cron(row["record"]) for row in await self._requests.fetch(self._queries.list_crons)]

    async def due_crons(self, now: int, limit: int) -> list[CronEntry]:
        rows = await self._background.fetch(self._queries.due_crons, now, limit)
        return [decode_cron(row["record"]) for row in rows]

    async def get_workflow(self, workflow_id: str) -> Workflow | None:
        rows = await self._requests.fetch(self._queries.get_workflow, to_text(workflow_id))
        return _first(decode_workflow(row["record"]) for row in rows)

    async def due_workflows(self, now: int, limit: int) -> list[Workflow]:
        rows = await self._background.fetch(self._queries.due_workflows, now, limit)
        return [decode_workflow(row["record"]) for row in rows]

    # Events.

    async def list_events(self, query: EventQuery) -> EventPage:
        return await list_events(self._requests, query, self._queries, self._config.schema)

    async def prune_events(self, before: int, keep: int, limit: int) -> int:
        pruned: int = await self._background.fetch_value(self._queries.prune_events, before, keep, limit)
        return pruned

    def listen(self, callback: WakeCallback) -> None:
        self._callbacks.append(callback)

    def _ring(self, queues: frozenset[str] | None) -> None:
        for callback in self._callbacks:
            callback(queues)

    def _wake(self, queues: set[str]) -> None:
        """Ring here at once, and on the other servers in a moment."""
        self._ring(frozenset(queues))
        if self._wakeups is not None:
            self._wakeups.tell(queues)

    # Background work of the store's own.

    async def _count_up(self) -> None:
        more = False
        while True:
            if not more:
                await pause(COUNT_UP_S)
            try:
                more = await self._background.fetch_value(self._queries.count_up)
            except BackendUnavailableError as error:
                more = False
                log.debug("Counting waits for the database: %s", error)


@contextlib.contextmanager
def _answering(answers: Sequence[object], asked: int) -> Iterator[None]:
    """Have an outage in the middle of a call answered with what happened before it: that has happened."""
    try:
        yield
    except BackendUnavailableError as error:
        if not answers:
            raise
        raise PartlyUnavailableError(error.message, [*answers, *[None] * (asked - len(answers))]) from error


async def _disconnect(connection: asyncpg.Connection) -> None:
    with contextlib.suppress(*FAULTS):
        await connection.close(timeout=1)
    connection.terminate()


def _unreadable_url() -> SettingsError:
    # Without the driver's own words, which repeat parts of the URL.
    return SettingsError(
        "DATABASE_URL cannot be read: check its hosts and ports, and the parameters after the question mark."
    )


def _first(records: Iterable[Record]) -> Record | None:
    return next(iter(records), None)


def _queue(row: Row) -> Queue:
    slot = row["slot"]
    return Queue(
        name=of_text(row["name"]),
        created_at=row["created_at"],
        paused_at=row["paused_at"],
        max_per_second=row["max_per_second"],
        window=None if slot is None else RateWindow(slot, tuple(row["spent"])),
    )


def _stats(row: Row) -> QueueStats:
    states = {state.value: 0 for state in JobState}
    if row["states"] is not None:
        states.update(msgspec.json.decode(row["states"]))
    return QueueStats(
        queue=_queue(row),
        states=states,
        completed_last_hour=row["completed_last_hour"],
        failed_last_hour=row["failed_last_hour"],
        duration_ms_sum=row["duration_ms_sum"],
        wait_ms_sum=row["wait_ms_sum"],
    )


def _worker(row: Row) -> Worker:
    report, worker_id = row["report"], of_text(row["id"])
    base = Worker(id=worker_id, first_seen_at=0, last_seen_at=0) if report is None else decode_worker(report)
    return msgspec.structs.replace(
        base,
        first_seen_at=row["first_seen_at"],
        last_seen_at=row["last_seen_at"],
        beats=row["beats"],
        directive=row["directive"],
    )
