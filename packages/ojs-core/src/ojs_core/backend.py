"""The seam: what a store has to do for core, and nothing else.

Core decides, a backend stores, claims and swaps. Two operations carry the load, `commit` and `claim`; both take a
sequence of independent requests and answer each on its own, so that one trip to the store serves every request that
happened to arrive together. Every write is guarded by what it expects to find. Nothing here reads a clock.

Any method may raise `BackendUnavailableError`: the store did not answer, and the change may or may not have happened;
repeating it is safe because of the guards. `commit` and `claim` may raise `PartlyUnavailableError`, with the answers to
those requests that were served. No exception of a driver crosses the seam. A store that cannot write several
keys in one step writes the record first and repairs the rest from it (ADR 0001 maps each operation on each store).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from ojs_core.events import Event, EventDraft
from ojs_core.job import Job, JobState
from ojs_core.lifecycle import Transition, claim_job
from ojs_core.records import CronEntry, Queue, QueueStats, Worker, WorkerState, Workflow

# What a backend is.


class Capabilities(Struct, frozen=True, kw_only=True):
    """What differs between stores, as data. Levels 0 to 4 are not optional and have no flag."""

    name: str
    unique_mechanism: str
    """How uniqueness is kept, for the manifest."""
    atomic_scope: Literal["store", "job"] = "store"
    """`store`: a `Commit` with several keys is one atomic step. `job`: record first, then repair."""
    shared: bool = True
    """Several server processes may use one store at once."""
    durable: bool = True
    """What was answered survives the end of the process."""
    push_wakeups: bool = True
    """`listen` is told of work that other processes made available; otherwise core polls."""
    max_record_bytes: int | None = None


# Writing.


class Hold(Struct, frozen=True):
    """A unique policy's claim on a fingerprint (C-UNQ-06).

    It conflicts with a job of the same fingerprint whose state is in `states` and whose `created_at` is later than
    `since` (None: however old).
    """

    states: frozenset[JobState]
    since: int | None = None

    def forbids(self, job: Job) -> bool:
        """Return whether it conflicts with a job that has the fingerprint."""
        return job.state in self.states and (self.since is None or job.created_at > self.since)


class NewJob(Struct, frozen=True, kw_only=True):
    """A job to insert, in its first state. `job.fingerprint` is set when `hold` is.

    `max_per_second`, where given, becomes the limit of the job's queue (C-RL-01). `one_queue` tells a store that keeps
    queues apart where it need not look: no job of another queue can have this id, nor the fingerprint that `hold` is
    about.
    """

    job: Job
    hold: Hold | None = None
    one_queue: bool = False
    max_per_second: int | None = None
    events: tuple[EventDraft, ...] = ()


class Removal(Struct, frozen=True):
    """Delete a job's record and every index of it, if its version is still this one."""

    job_id: str
    version: int


class CronWrite(Struct, frozen=True):
    """Put a cron entry (None: delete it), if the stored version is `expected_version` (0: there is none)."""

    name: str
    entry: CronEntry | None
    expected_version: int


class WorkflowWrite(Struct, frozen=True):
    """Put a workflow (None: delete it), if the stored version is `expected_version` (0: there is none)."""

    workflow_id: str
    workflow: Workflow | None
    expected_version: int


class Commit(Struct, frozen=True, kw_only=True):
    """A set of changes that happen together or not at all, with the events they cause.

    An insert meets the jobs as the transitions and removals of its commit leave them, and the inserts before it. A job
    is stored with `version` 1, the record of a workflow or cron entry with `expected_version` + 1. A queue that was
    never seen comes into being with the first job put into it, by insert or by transition. No job is named by two
    transitions of one commit.
    """

    inserts: tuple[NewJob, ...] = ()
    transitions: tuple[Transition, ...] = ()
    removals: tuple[Removal, ...] = ()
    workflows: tuple[WorkflowWrite, ...] = ()
    cron: CronWrite | None = None
    events: tuple[Event, ...] = ()


class Change(Struct, frozen=True):
    """A swap that happened: the record after it, and the state before."""

    job: Job
    previous: JobState


class Committed(Struct, frozen=True, kw_only=True):
    """The commit happened. Same lengths and order as asked."""

    inserted: tuple[Job, ...] = ()
    changed: tuple[Change, ...] = ()


class Conflict(Struct, frozen=True, kw_only=True):
    """One reason why a commit did not happen.

    `kind` says which part of the commit, `index` its position there. `job` is the record found, where there is one:
    the job that has the id (`id`), the job that holds the fingerprint (`hold`), the job as it is (`transition`,
    `removal`; None: there is no such job).
    """

    kind: Literal["id", "hold", "transition", "removal", "workflow", "cron"]
    index: int
    job: Job | None = None


class Refused(Struct, frozen=True):
    """Nothing of the commit happened. Every conflict of `inserts` is named; of the other parts at least the first.

    An insert that stands against nothing but another one, which is itself refused, may be named too.
    """

    conflicts: tuple[Conflict, ...]


# Claiming.


class ClaimRequest(Struct, frozen=True, kw_only=True):
    """Hand out up to `count` jobs, queues left to right, priority high to low, then `seq` low to high (C-OPS-10).

    Passed over: paused queues, what a queue's rate limit forbids, jobs whose `expires_at` has come. Nothing is handed
    out to a worker whose directive is not `running` (C-OPS-18). `lease_ms`, `default_lease_ms`, `default_timeout_ms`
    and the resulting record: see `claimed`. The claim notes that `worker_id` was seen.
    """

    queues: tuple[str, ...]
    count: int
    now: int
    default_lease_ms: int
    default_timeout_ms: int
    worker_id: str | None = None
    lease_ms: int | None = None

    def claimed(self, job: Job) -> Job:
        """Return an available job as this claim leaves it; see `claim_job`."""
        return claim_job(
            job,
            now=self.now,
            worker_id=self.worker_id,
            lease_ms=self.lease_ms,
            default_lease_ms=self.default_lease_ms,
            default_timeout_ms=self.default_timeout_ms,
        )


class Claimed(Struct, frozen=True):
    """The jobs handed out, in order, each once; and expired ones met on the way, left as they are (at most 100)."""

    jobs: tuple[Job, ...] = ()
    expired: tuple[Job, ...] = ()


class BeatRequest(Struct, frozen=True, kw_only=True):
    """A heartbeat: note the worker, and renew the leases it names.

    Renewed (`extend_lease`) is each named job that is active and recorded as this worker's or as nobody's; no other is
    touched, and none makes the beat fail (C-VIS-05, C-WRK-07). `worker` carries the worker's report; its
    `first_seen_at`, `beats` and `directive` are the store's to keep. Each renewed job gets a `job.heartbeat` event.
    """

    worker: Worker
    job_ids: tuple[str, ...]
    now: int
    lease_ms: int | None = None

    def noted(self, known: Worker | None) -> Worker:
        """Return the worker's record after this beat; `known` is the one before, if there was one."""
        return msgspec.structs.replace(
            self.worker,
            first_seen_at=self.now if known is None else known.first_seen_at,
            last_seen_at=self.now,
            beats=1 if known is None else known.beats + 1,
            directive=None if known is None else known.directive,
        )


class Beaten(Struct, frozen=True):
    """The worker's record after the beat, the jobs renewed, and the named jobs that exist but were not renewed."""

    worker: Worker
    extended: tuple[Job, ...] = ()
    others: tuple[Job, ...] = ()


# Reading.


class JobQuery(Struct, frozen=True, kw_only=True):
    """Which jobs to list. Filters are joined by AND; `since` and `until` bound `discarded_at` (dead letters only)."""

    states: frozenset[JobState] | None = None
    queue: str | None = None
    job_type: str | None = None
    dead: bool | None = None
    error_type: str | None = None
    since: int | None = None
    until: int | None = None
    worker_id: str | None = None
    limit: int = 50
    offset: int = 0
    cursor: str | None = None


class JobPage(Struct, frozen=True, kw_only=True):
    """Newest first; `total` counts all that match; `next_cursor` continues after the last one, stable under writes."""

    jobs: tuple[Job, ...]
    total: int
    next_cursor: str | None = None


class EventQuery(Struct, frozen=True, kw_only=True):
    """Which events to list, oldest first. `types` are exact names or `prefix.*`; `after` is an exclusive event id."""

    types: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    job_types: tuple[str, ...] = ()
    after: str | None = None
    limit: int = 100


class EventPage(Struct, frozen=True):
    """Events in the order of the log, and whether more match."""

    events: tuple[Event, ...]
    has_more: bool = False


WakeCallback = Callable[[frozenset[str] | None], None]
"""Told the queues that got work; None: some did, ask all."""


class JobStore(ABC):
    """Jobs: the write primitive, the claim, and reads by id, time and filter."""

    @abstractmethod
    async def commit(self, commits: Sequence[Commit]) -> list[Committed | Refused]:
        """Apply each commit on its own, all or nothing; later ones see the earlier ones. Same length and order.

        Nothing of a commit is visible unless everything is, indexes, counters and events included. An answer means that
        it will not be lost (as far as the store's durability setting goes).
        """

    @abstractmethod
    async def claim(self, requests: Sequence[ClaimRequest]) -> list[Claimed]:
        """Serve each request, in any order; no job goes to two. Same length and order of the answers."""

    @abstractmethod
    async def get_jobs(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Read jobs by id; a pure read. Same length and order."""

    @abstractmethod
    async def due_jobs(self, now: int, limit: int) -> list[Job]:
        """Return at most `limit` jobs whose `wake_at` has come, earliest first (ties: lowest `seq`, then id)."""

    @abstractmethod
    async def next_wake_at(self) -> int | None:
        """Return the earliest `wake_at` of all jobs, workflows and cron entries."""

    @abstractmethod
    async def list_jobs(self, query: JobQuery) -> JobPage:
        """List jobs, newest `created_at` first, dead letters newest `discarded_at` first; ties by id, downwards."""


class QueueStore(ABC):
    """Queues, their pause flags, limits and numbers."""

    @abstractmethod
    async def list_queues(self) -> list[Queue]:
        """Return all queues by name."""

    @abstractmethod
    async def queue_stats(self, name: str, now: int) -> QueueStats | None:
        """Return the numbers of a queue, or None if it was never seen. Costs the same however many jobs it holds."""

    @abstractmethod
    async def set_paused(self, name: str, now: int, *, paused: bool) -> Queue:
        """Pause or resume; creates the queue. Idempotent: a second pause keeps `paused_at`. One event per change."""


class WorkerStore(ABC):
    """Workers as last seen."""

    @abstractmethod
    async def beat(self, request: BeatRequest) -> Beaten:
        """Take a heartbeat, in one step. The first one of a worker adds a `worker.started` event."""

    @abstractmethod
    async def list_workers(self, *, seen_before: int | None = None, limit: int = 1000) -> list[Worker]:
        """Return workers, longest silent first; `seen_before`: only those last seen before that instant."""

    @abstractmethod
    async def set_directive(self, worker_id: str, directive: WorkerState | None) -> Worker | None:
        """Tell a worker what to do; None if there is no such worker."""

    @abstractmethod
    async def remove_worker(self, worker_id: str, seen_before: int, event: Event) -> bool:
        """Forget a worker that was not seen since, and log the event. False: it was, or is already gone."""


class CronStore(ABC):
    """Cron entries. They are written through `commit`."""

    @abstractmethod
    async def get_cron(self, name: str) -> CronEntry | None:
        """Read one entry."""

    @abstractmethod
    async def list_crons(self) -> list[CronEntry]:
        """Return all entries by name."""

    @abstractmethod
    async def due_crons(self, now: int, limit: int) -> list[CronEntry]:
        """Return at most `limit` entries whose `wake_at` has come, earliest first."""


class WorkflowStore(ABC):
    """Workflows. They are written through `commit`."""

    @abstractmethod
    async def get_workflow(self, workflow_id: str) -> Workflow | None:
        """Read one workflow."""

    @abstractmethod
    async def due_workflows(self, now: int, limit: int) -> list[Workflow]:
        """Return at most `limit` workflows whose `wake_at` has come, earliest first."""


class EventStore(ABC):
    """The event log, and the doorbell."""

    @abstractmethod
    async def list_events(self, query: EventQuery) -> EventPage:
        """Read the log."""

    @abstractmethod
    async def prune_events(self, before: int, keep: int, limit: int) -> int:
        """Remove at most `limit` of the oldest events: those before an instant and those beyond the newest `keep`."""

    @abstractmethod
    def listen(self, callback: WakeCallback) -> None:
        """Call back, on the event loop, whenever jobs become available; on any server, if `push_wakeups`."""


class Backend(JobStore, QueueStore, WorkerStore, CronStore, WorkflowStore, EventStore):
    """A store behind the seam."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this store is like."""

    @property
    def groups_at_once(self) -> int:
        """Groups of commits, and of claims, a server process may have under way at once.

        With more than one the next group is made while the store works on the one before. They are smaller then, so a
        store with one writer, or one that does its work in this process, is better off with one.
        """
        return 1

    def lane_of(self, request: Commit | ClaimRequest) -> int:  # noqa: ARG002 - for stores of several parts
        """Return which lane a request goes in: only those of one lane are sent in one call.

        A store of several parts so keeps one that is slow from holding up the others. There are at most some hundreds.
        """
        return 0

    @abstractmethod
    async def open(self) -> None:
        """Connect and prepare the store (tables, scripts, streams).

        Raises `SettingsError` or `BackendUnavailableError`.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish what is under way and disconnect. Safe to call twice, and without `open`."""

    @abstractmethod
    async def ping(self) -> None:
        """Return if the store answers and, as far as it can tell without a change, takes changes.

        Else raises `BackendUnavailableError`. A store that is full, but lets jobs end, takes changes. Leaves nothing
        behind, and is asked every few seconds.
        """

    @abstractmethod
    async def reset(self) -> None:
        """Remove everything. For tests only (C-EP-28)."""

    async def migrate(self) -> list[str]:
        """Bring the store's schema up to date, and return the names of the steps taken; for `ojs-server migrate`.

        Needs no `open`. A store without a schema of steps has nothing to do. Raises as `open` does.
        """
        return []

    async def pending_migrations(self) -> list[str]:
        """Return the names of the steps that `migrate` would take. Needs no `open`. Raises as `open` does."""
        return []

    def migration_script(self) -> str:
        """Return the whole schema as a script for the store's own command line, or nothing if there is none."""
        return ""

    async def warnings(self) -> list[str]:
        """Return what an operator should know about the store's settings, for `ojs-server check` and the log."""
        return []
