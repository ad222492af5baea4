"""The Redis backend: each operation as one script, run in one trip."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec
from redis.exceptions import RedisError

from ojs_backend_redis import checking, scripts
from ojs_backend_redis.client import Client
from ojs_backend_redis.config import RedisConfig
from ojs_backend_redis.doorbell import Doorbell
from ojs_backend_redis.errors import as_setting, unavailable
from ojs_backend_redis.eventlog import list_events
from ojs_backend_redis.layout import decode_text, encode_text
from ojs_backend_redis.listing import Lister
from ojs_backend_redis.packing import (
    busy_with,
    decode_found,
    decode_jobs,
    decode_packed,
    divide_commits,
    encode_packed,
    pack_claims,
    pack_commits,
    pack_event,
    unpack_claims,
    unpack_commits,
)
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

STATES = tuple(state.value for state in JobState)
MINUTE_MS = 60_000
HOUR_MINUTES = 60
DELETED_AT_ONCE = 1000
JOBS_AT_ONCE = 200
"""Jobs that one script changes, if they are not one commit: between two scripts everybody else is served."""
READ_AT_ONCE = 500
"""Records that one script reads, for the same reason."""
CLAIMED_MAX_BYTES = 64 * 1024 * 1024
"""Bytes of jobs that one script hands out: if it answers too late, they stand still until their leases lapse."""
DUE_MAX_BYTES = 16 * 1024 * 1024
"""Bytes of what is due in one answer: it has to arrive in time, or nothing that is due would ever be done."""


class RedisBackend(Backend):
    """One store: all keys with one prefix, in one slot of a cluster."""

    def __init__(self, config: RedisConfig) -> None:
        self._config = config
        self._root = config.root
        self._origin = secrets.token_hex(8)
        """Marks this server's own wake-ups, which it need not be told of."""
        self._client = Client(config)
        self._lister = Lister(self._client, config.root)
        self._doorbell: Doorbell | None = None
        self._callbacks: list[WakeCallback] = []

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(name="redis", unique_mechanism="checked in the script that inserts; one runs at a time")

    @property
    def groups_at_once(self) -> int:
        return 3

    async def open(self) -> None:
        if self._client.is_open:
            return
        self._client.open()
        try:
            await checking.refuse_unfit(self._client, self._config)
            await self._subscribe()
        except BackendUnavailableError as error:
            await self.close()
            raise as_setting(error.__cause__) or self._not_opened(error) from error.__cause__
        except BaseException:
            await self.close()
            raise

    def _not_opened(self, error: BackendUnavailableError) -> BackendUnavailableError:
        """Say where it was looked for: unlike the answer to a request, this is read by the operator."""
        return BackendUnavailableError(f"{error} REDIS_URL names {self._config.target}.")

    async def _subscribe(self) -> None:
        channel = f"{self._root}bell"
        timeout_s = self._config.timeout_ms / 1000
        doorbell = Doorbell(self._client.route, channel, self._origin, self._ring, timeout_s)
        try:
            await doorbell.open()
        except (RedisError, OSError) as error:
            raise unavailable(error) from error
        self._doorbell = doorbell

    async def close(self) -> None:
        doorbell, self._doorbell = self._doorbell, None
        if doorbell is not None:
            await doorbell.close()
        await self._client.close()

    async def ping(self) -> None:
        await self._client.read(scripts.PING)

    async def reset(self) -> None:
        # The counters of the store and the stream itself stay: places and event numbers only grow.
        kept = {f"{self._root}store".encode(), f"{self._root}events".encode()}
        pattern = self._root.replace("\\", "\\\\").replace("[", "\\[").replace("*", "\\*").replace("?", "\\?")
        cursor = b"0"
        while True:
            [[cursor, keys]] = await self._client.ask(
                ("SCAN", cursor, "MATCH", f"{pattern}*", "COUNT", DELETED_AT_ONCE)
            )
            gone = [key for key in keys if key not in kept]
            if gone:
                await self._client.ask(("UNLINK", *gone))
            if cursor == b"0":
                break
        await self._client.ask(("XTRIM", f"{self._root}events", "MAXLEN", 0))

    async def warnings(self) -> list[str]:
        return await checking.warnings(self._client, self._config)

    # Jobs.

    async def commit(self, commits: Sequence[Commit]) -> list[Committed | Refused]:
        answers, _ = await self._commit(commits)
        return answers

    async def _commit(self, commits: Sequence[Commit]) -> tuple[list[Committed | Refused], str | None]:
        """Commit, up to one that meets a lock of a commit over several shards; return the answers, and that one."""
        answers: list[Committed | Refused] = []
        for group in divide_commits(commits, JOBS_AT_ONCE):
            places, packed = pack_commits(group)
            results = await self._client.write(scripts.COMMIT, self._origin, places, packed)
            owner = busy_with(results[-1])
            if owner is not None:
                results.pop()
            committed = unpack_commits(group[: len(results)], results)
            if places:
                self._ring_for(committed)
            answers += committed
            if owner is not None:
                return answers, owner
        return answers, None

    def _ring_for(self, answers: Sequence[Committed | Refused]) -> None:
        woken: set[str] = set()
        for answer in answers:
            if isinstance(answer, Committed):
                woken.update(job.queue for job in answer.inserted if job.state is JobState.AVAILABLE)
                woken.update(change.job.queue for change in answer.changed if change.job.state is JobState.AVAILABLE)
        if woken:
            self._ring(frozenset(woken))

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[Claimed]:
        return await self._claim(requests, frozenset())

    async def _claim(self, requests: Sequence[ClaimRequest], noted_elsewhere: AbstractSet[int]) -> list[Claimed]:
        """Serve each request; the workers of some, named by their positions, are noted by another shard."""
        answers: list[Claimed] = []
        while len(answers) < len(requests):
            # The script answers fewer when it has handed out many jobs.
            done = len(answers)
            packed = pack_claims(requests[done:], {position - done for position in noted_elsewhere})
            answers += unpack_claims(await self._client.write(scripts.CLAIM, packed, JOBS_AT_ONCE, CLAIMED_MAX_BYTES))
        return answers

    async def get_jobs(self, job_ids: Sequence[str]) -> list[Job | None]:
        found: list[Job | None] = []
        for first in range(0, len(job_ids), READ_AT_ONCE):
            found += decode_found(await self._client.read(scripts.READ, *job_ids[first : first + READ_AT_ONCE]))
        return found

    async def due_jobs(self, now: int, limit: int) -> list[Job]:
        return list(decode_jobs(await self._client.read(scripts.DUE, now, limit, DUE_MAX_BYTES)))

    async def next_wake_at(self) -> int | None:
        clocks = ("wake", "flowwake", "cronwake")
        fronts = await self._client.ask(*(("ZRANGE", self._root + clock, 0, 0, "WITHSCORES") for clock in clocks))
        return min((int(front[1]) for front in fronts if front), default=None)

    async def list_jobs(self, query: JobQuery) -> JobPage:
        return await self._lister.page(query)

    # Queues.

    async def list_queues(self) -> list[Queue]:
        [pairs] = await self._client.ask(("HGETALL", f"{self._root}queues"))
        queues = [_queue(name, record) for name, record in zip(pairs[::2], pairs[1::2], strict=True)]
        return sorted(queues, key=lambda queue: queue.name)

    async def queue_stats(self, name: str, now: int) -> QueueStats | None:
        found = await self._client.read(scripts.STATS, encode_text(name), *STATES)
        if found is None:
            return None
        record, counts, minutes = found
        sums = dict.fromkeys((b"c", b"f", b"d", b"w"), 0)
        for field, value in zip(minutes[::2], minutes[1::2], strict=True):
            minute, _, kind = field.partition(b":")
            if int(minute) > now // MINUTE_MS - HOUR_MINUTES:
                sums[kind] += int(value)
        return QueueStats(
            queue=_queue(encode_text(name).encode(), record),
            states=dict(zip(STATES, counts, strict=True)),
            completed_last_hour=sums[b"c"],
            failed_last_hour=sums[b"f"],
            duration_ms_sum=sums[b"d"],
            wait_ms_sum=sums[b"w"],
        )

    async def set_paused(self, name: str, now: int, *, paused: bool) -> Queue:
        text = encode_text(name)
        event = other_event("queue.paused" if paused else "queue.resumed", now, name, queue=name)
        record, changed = await self._client.write(
            scripts.PAUSE, self._origin, text, now, int(paused), pack_event(event)
        )
        if changed and not paused:
            self._ring(frozenset({name}))
        return _queue(text.encode(), record)

    # Workers.

    async def beat(self, request: BeatRequest) -> Beaten:
        return self._beaten(request, await self._beat(request))

    async def _beat(self, request: BeatRequest, *, noted_elsewhere: bool = False) -> Any:  # noqa: ANN401 - see beat.lua
        worker = request.worker
        packed = encode_packed(
            (
                encode_text(worker.id),
                not noted_elsewhere and encode(worker).decode(),
                pack_event(worker_started(worker, request.now)),
                request.now,
                request.lease_ms or False,
                tuple(dict.fromkeys(request.job_ids)),
            )
        )
        return await self._client.write(scripts.BEAT, packed)

    def _beaten(self, request: BeatRequest, result: Any) -> Beaten:  # noqa: ANN401 - see beat.lua
        worker, now = request.worker, request.now
        kept, extended, others = result
        first_seen_at, beats, directive = kept
        worker = msgspec.structs.replace(
            worker,
            first_seen_at=first_seen_at,
            last_seen_at=now,
            beats=beats,
            directive=directive.decode() or None,
        )
        return Beaten(worker, decode_jobs(extended), decode_jobs(others))

    async def list_workers(self, *, seen_before: int | None = None, limit: int = 1000) -> list[Worker]:
        before = "+inf" if seen_before is None else f"({seen_before}"
        return [_worker(*found) for found in await self._client.read(scripts.WORKERS, before, limit)]

    async def set_directive(self, worker_id: str, directive: WorkerState | None) -> Worker | None:
        found = await self._client.write(scripts.DIRECT, encode_text(worker_id), directive or "")
        return None if found is None else _worker(*found)

    async def remove_worker(self, worker_id: str, seen_before: int, event: Event) -> bool:
        forgotten = await self._client.write(scripts.FORGET, encode_text(worker_id), seen_before, pack_event(event))
        return bool(forgotten)

    # Cron entries and workflows.

    async def get_cron(self, name: str) -> CronEntry | None:
        [found] = await self._client.ask(("HGET", f"{self._root}crons", name))
        return None if found is None else decode_cron(_record(found))

    async def list_crons(self) -> list[CronEntry]:
        [found] = await self._client.ask(("HVALS", f"{self._root}crons"))
        return sorted((decode_cron(_record(packed)) for packed in found), key=lambda entry: entry.name)

    async def due_crons(self, now: int, limit: int) -> list[CronEntry]:
        found = await self._client.read(scripts.VERSIONED, "crons", "cronwake", now, limit, DUE_MAX_BYTES)
        return [decode_cron(_record(packed)) for packed in found]

    async def get_workflow(self, workflow_id: str) -> Workflow | None:
        [found] = await self._client.ask(("HGET", f"{self._root}flows", workflow_id))
        return self._workflow(found)

    @staticmethod
    def _workflow(found: bytes | None) -> Workflow | None:
        return None if found is None else decode_workflow(_record(found))

    async def due_workflows(self, now: int, limit: int) -> list[Workflow]:
        found = await self._client.read(scripts.VERSIONED, "flows", "flowwake", now, limit, DUE_MAX_BYTES)
        return [decode_workflow(_record(packed)) for packed in found]

    # Events.

    async def list_events(self, query: EventQuery) -> EventPage:
        return await list_events(self._read_entries, query)

    async def _read_entries(self, after: str, count: int) -> list[Any]:
        [entries] = await self._client.ask(("XRANGE", f"{self._root}events", after, "+", "COUNT", count))
        found: list[Any] = entries
        return found

    async def prune_events(self, before: int, keep: int, limit: int) -> int:
        pruned: int = await self._client.write(scripts.PRUNE, before, keep, limit)
        return pruned

    def listen(self, callback: WakeCallback) -> None:
        self._callbacks.append(callback)

    def _ring(self, queues: frozenset[str] | None) -> None:
        for callback in self._callbacks:
            callback(queues)


def _record(packed: bytes) -> bytes:
    """Return the record of a workflow or cron entry."""
    _, record = decode_packed(packed)
    text: str = record
    return text.encode()


def _queue(name: bytes, packed: bytes) -> Queue:
    created_at, paused_at, limit, *window = decode_packed(packed)
    return Queue(
        name=decode_text(name),
        created_at=created_at,
        paused_at=None if paused_at is False else paused_at,
        max_per_second=limit or None,
        window=RateWindow(window[0], tuple(window[1:])) if window else None,
    )


def _worker(worker_id: bytes, last_seen_at: bytes, packed: bytes) -> Worker:
    first_seen_at, beats, directive, report = decode_packed(packed)
    name = decode_text(worker_id)
    worker = decode_worker(report) if report else Worker(id=name, first_seen_at=0, last_seen_at=0)
    return msgspec.structs.replace(
        worker,
        first_seen_at=first_seen_at,
        last_seen_at=int(last_seen_at),
        beats=beats,
        directive=directive or None,
    )
