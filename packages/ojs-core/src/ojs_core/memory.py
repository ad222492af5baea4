"""The reference backend: everything in dictionaries, read as the definition of each operation.

`OJS_BACKEND=memory` runs a server on it, for trying things out: one process, gone at its end. It favours plainness over
speed (a claim sorts the queue). Each method runs without awaiting anything, so it is atomic by construction.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ojs_core import rate
from ojs_core.backend import (
    Backend,
    Beaten,
    BeatRequest,
    Capabilities,
    Change,
    Claimed,
    ClaimRequest,
    Commit,
    Committed,
    Conflict,
    EventPage,
    EventQuery,
    JobPage,
    JobQuery,
    NewJob,
    Refused,
    WakeCallback,
)
from ojs_core.events import Event, EventDraft, job_event, other_event, worker_started
from ojs_core.hookspecs import hookimpl
from ojs_core.ids import event_id, event_seq
from ojs_core.job import Job, JobState, replace_fields
from ojs_core.lifecycle import Transition, apply_transition, earliest, extend_lease, guard_holds
from ojs_core.paging import decode_cursor, decode_event_id, encode_cursor, event_matches, job_matches
from ojs_core.records import CronEntry, Queue, QueueStats, Worker, WorkerState, Workflow

EXPIRED_MAX = 100
"""Expired jobs a claim reports, at most."""
HOUR_MS = 3_600_000


class MemoryBackend(Backend):
    """All records of one process."""

    def __init__(self) -> None:
        self._callbacks: list[WakeCallback] = []
        self._seq = 0
        self._event_seq = 0
        self._clear()

    def _clear(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._queues: dict[str, Queue] = {}
        self._workers: dict[str, Worker] = {}
        self._crons: dict[str, CronEntry] = {}
        self._workflows: dict[str, Workflow] = {}
        self._events: deque[Event] = deque()
        self._ended: dict[str, deque[tuple[int, bool, int, int]]] = defaultdict(deque)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="memory", unique_mechanism="single process", shared=False, durable=False, push_wakeups=True
        )

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def ping(self) -> None:
        pass

    async def reset(self) -> None:
        self._clear()

    async def warnings(self) -> list[str]:
        return ["Jobs are kept in memory only and end with this process."]

    # Writing.

    async def commit(self, commits: Sequence[Commit]) -> list[Committed | Refused]:
        woken: set[str] = set()
        answers = [self._commit(commit, woken) for commit in commits]
        self._ring(woken)
        return answers

    def _commit(self, commit: Commit, woken: set[str]) -> Committed | Refused:
        conflicts = tuple(self._conflicts(commit))
        if conflicts:
            return Refused(conflicts)
        changed = tuple(self._swap(transition) for transition in commit.transitions)
        for removal in commit.removals:
            del self._jobs[removal.job_id]
        inserted = tuple(self._insert(new) for new in commit.inserts)
        for write in commit.workflows:
            if write.workflow is None:
                self._workflows.pop(write.workflow_id, None)
            else:
                version = write.expected_version + 1
                self._workflows[write.workflow_id] = msgspec.structs.replace(write.workflow, version=version)
        if commit.cron is not None:
            if commit.cron.entry is None:
                self._crons.pop(commit.cron.name, None)
            else:
                version = commit.cron.expected_version + 1
                self._crons[commit.cron.name] = msgspec.structs.replace(commit.cron.entry, version=version)
        for event in commit.events:
            self._log(event)
        woken.update(job.queue for job in inserted if job.state is JobState.AVAILABLE)
        woken.update(change.job.queue for change in changed if change.job.state is JobState.AVAILABLE)
        return Committed(inserted=inserted, changed=changed)

    def _conflicts(self, commit: Commit) -> Iterable[Conflict]:
        jobs = dict(self._jobs)
        for index, transition in enumerate(commit.transitions):
            job = jobs.get(transition.job_id)
            if job is None or not guard_holds(transition, job):
                yield Conflict(kind="transition", index=index, job=job)
            else:
                jobs[job.id] = apply_transition(job, transition)
        for index, removal in enumerate(commit.removals):
            job = jobs.get(removal.job_id)
            if job is None or job.version != removal.version:
                yield Conflict(kind="removal", index=index, job=job)
            else:
                del jobs[job.id]
        for index, write in enumerate(commit.workflows):
            workflow = self._workflows.get(write.workflow_id)
            if (0 if workflow is None else workflow.version) != write.expected_version:
                yield Conflict(kind="workflow", index=index)
        if commit.cron is not None:
            entry = self._crons.get(commit.cron.name)
            if (0 if entry is None else entry.version) != commit.cron.expected_version:
                yield Conflict(kind="cron", index=0)
        # An insert meets the jobs as its commit's other parts leave them, and the inserts before it.
        for index, new in enumerate(commit.inserts):
            holder = _holder(new, jobs)
            if new.job.id in jobs:
                yield Conflict(kind="id", index=index, job=jobs[new.job.id])
            elif holder is not None:
                yield Conflict(kind="hold", index=index, job=holder)
            else:
                jobs[new.job.id] = new.job

    def _insert(self, new: NewJob) -> Job:
        job = replace_fields(new.job, version=1)
        if job.state is JobState.AVAILABLE:
            job = replace_fields(job, seq=self._next_seq())
        self._jobs[job.id] = job
        queue = self._queue(job.queue, job.created_at)
        if new.max_per_second is not None and new.max_per_second != queue.max_per_second:
            self._queues[queue.name] = msgspec.structs.replace(queue, max_per_second=new.max_per_second)
        self._log_drafts(new.events, job, job.created_at)
        return job

    def _swap(self, transition: Transition) -> Change:
        before = self._jobs[transition.job_id]
        job = apply_transition(before, transition)
        if job.state is JobState.AVAILABLE:
            job = replace_fields(job, seq=self._next_seq())
        self._jobs[job.id] = job
        self._queue(job.queue, transition.at)
        if before.state is JobState.ACTIVE and before.started_at is not None:
            self._note_execution(before, job, transition.at)
        self._log_drafts(transition.events, job, transition.at, before.started_at)
        return Change(job=job, previous=before.state)

    def _note_execution(self, before: Job, job: Job, at: int) -> None:
        completed = job.state is JobState.COMPLETED
        if not completed and job.error is before.error:
            return
        started = before.started_at or at
        entry = (at, completed, at - started, started - (before.enqueued_at or started))
        self._ended[job.queue].append(entry)

    def _queue(self, name: str, now: int) -> Queue:
        return self._queues.setdefault(name, Queue(name=name, created_at=now))

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    # Claiming.

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[Claimed]:
        return [self._claim(request) for request in requests]

    def _claim(self, request: ClaimRequest) -> Claimed:
        now = request.now
        if request.worker_id is not None:
            worker = self._workers.get(request.worker_id)
            worker = worker or Worker(id=request.worker_id, first_seen_at=now, last_seen_at=now)
            self._workers[worker.id] = msgspec.structs.replace(worker, last_seen_at=now)
            if worker.directive in ("quiet", "terminate"):
                return Claimed()
        jobs: list[Job] = []
        expired: list[Job] = []
        for name in dict.fromkeys(request.queues):
            queue = self._queues.get(name)
            if queue is None or queue.paused:
                continue
            room = request.count - len(jobs)
            if queue.max_per_second is not None:
                room = min(room, rate.available(queue.window, queue.max_per_second, now))
            taken = 0
            for job in sorted(
                (job for job in self._jobs.values() if job.queue == name and job.state is JobState.AVAILABLE),
                key=lambda job: (-job.priority, job.seq),
            ):
                if taken >= room:
                    break
                if job.expires_at is not None and job.expires_at <= now:
                    expired.append(job)
                    continue
                jobs.append(self._claim_one(job, request))
                taken += 1
            if queue.max_per_second is not None and taken:
                window = rate.spend(queue.window, taken, now)
                self._queues[name] = msgspec.structs.replace(queue, window=window)
        return Claimed(tuple(jobs), tuple(expired[:EXPIRED_MAX]))

    def _claim_one(self, job: Job, request: ClaimRequest) -> Job:
        claimed = request.claimed(job)
        self._jobs[job.id] = claimed
        self._log_drafts((EventDraft("job.started"),), claimed, request.now)
        return claimed

    # Reading.

    async def get_jobs(self, job_ids: Sequence[str]) -> list[Job | None]:
        return [self._jobs.get(job_id) for job_id in job_ids]

    async def due_jobs(self, now: int, limit: int) -> list[Job]:
        due = [job for job in self._jobs.values() if job.wake_at is not None and job.wake_at <= now]
        return sorted(due, key=lambda job: (job.wake_at, job.seq, job.id))[:limit]

    async def next_wake_at(self) -> int | None:
        return earliest(
            *(job.wake_at for job in self._jobs.values()),
            *(flow.wake_at for flow in self._workflows.values()),
            *(entry.wake_at for entry in self._crons.values()),
        )

    async def list_jobs(self, query: JobQuery) -> JobPage:
        key = _discarded_key if query.dead else _created_key
        found = sorted((job for job in self._jobs.values() if job_matches(job, query)), key=key, reverse=True)
        rest = found[query.offset :]
        if query.cursor is not None:
            last = decode_cursor(query.cursor)
            rest = [job for job in found if key(job) < last]
        page = tuple(rest[: query.limit])
        more = len(rest) > query.limit
        return JobPage(jobs=page, total=len(found), next_cursor=encode_cursor(key(page[-1])) if more else None)

    # Queues.

    async def list_queues(self) -> list[Queue]:
        return [self._queues[name] for name in sorted(self._queues)]

    async def queue_stats(self, name: str, now: int) -> QueueStats | None:
        queue = self._queues.get(name)
        if queue is None:
            return None
        states = Counter({state.value: 0 for state in JobState})
        states.update(job.state.value for job in self._jobs.values() if job.queue == name)
        ended = self._ended[name]
        while ended and ended[0][0] <= now - HOUR_MS:
            ended.popleft()
        completed = [entry for entry in ended if entry[1]]
        return QueueStats(
            queue=queue,
            states=dict(states),
            completed_last_hour=len(completed),
            failed_last_hour=len(ended) - len(completed),
            duration_ms_sum=sum(entry[2] for entry in completed),
            wait_ms_sum=sum(entry[3] for entry in completed),
        )

    async def set_paused(self, name: str, now: int, *, paused: bool) -> Queue:
        queue = self._queue(name, now)
        if queue.paused != paused:
            queue = msgspec.structs.replace(queue, paused_at=now if paused else None)
            self._queues[name] = queue
            self._log(other_event("queue.paused" if paused else "queue.resumed", now, name, queue=name))
            if not paused:
                self._ring({name})
        return queue

    # Workers.

    async def beat(self, request: BeatRequest) -> Beaten:
        now = request.now
        worker = request.noted(self._workers.get(request.worker.id))
        self._workers[worker.id] = worker
        if worker.beats == 1:
            self._log(worker_started(worker, now))
        extended: list[Job] = []
        others: list[Job] = []
        for job_id in dict.fromkeys(request.job_ids):
            job = self._jobs.get(job_id)
            if job is None:
                continue
            if job.state is JobState.ACTIVE and job.worker_id in (None, worker.id):
                job = extend_lease(job, now=now, lease_ms=request.lease_ms)
                self._jobs[job.id] = job
                self._log_drafts((EventDraft("job.heartbeat"),), job, now)
                extended.append(job)
            else:
                others.append(job)
        return Beaten(worker, tuple(extended), tuple(others))

    async def list_workers(self, *, seen_before: int | None = None, limit: int = 1000) -> list[Worker]:
        workers = sorted(self._workers.values(), key=lambda worker: (worker.last_seen_at, worker.id))
        return [worker for worker in workers if seen_before is None or worker.last_seen_at < seen_before][:limit]

    async def set_directive(self, worker_id: str, directive: WorkerState | None) -> Worker | None:
        worker = self._workers.get(worker_id)
        if worker is None:
            return None
        self._workers[worker_id] = msgspec.structs.replace(worker, directive=directive)
        return self._workers[worker_id]

    async def remove_worker(self, worker_id: str, seen_before: int, event: Event) -> bool:
        worker = self._workers.get(worker_id)
        if worker is None or worker.last_seen_at >= seen_before:
            return False
        del self._workers[worker_id]
        self._log(event)
        return True

    # Cron entries and workflows.

    async def get_cron(self, name: str) -> CronEntry | None:
        return self._crons.get(name)

    async def list_crons(self) -> list[CronEntry]:
        return [self._crons[name] for name in sorted(self._crons)]

    async def due_crons(self, now: int, limit: int) -> list[CronEntry]:
        due = [entry for entry in self._crons.values() if entry.wake_at is not None and entry.wake_at <= now]
        return sorted(due, key=lambda entry: (entry.wake_at, entry.name))[:limit]

    async def get_workflow(self, workflow_id: str) -> Workflow | None:
        return self._workflows.get(workflow_id)

    async def due_workflows(self, now: int, limit: int) -> list[Workflow]:
        due = [flow for flow in self._workflows.values() if flow.wake_at is not None and flow.wake_at <= now]
        return sorted(due, key=lambda flow: (flow.wake_at, flow.id))[:limit]

    # Events.

    async def list_events(self, query: EventQuery) -> EventPage:
        after = -1 if query.after is None else decode_event_id(query.after)
        found = [event for event in self._events if event_seq(event.id) > after and event_matches(event, query)]
        return EventPage(tuple(found[: query.limit]), has_more=len(found) > query.limit)

    async def prune_events(self, before: int, keep: int, limit: int) -> int:
        pruned = 0
        while pruned < limit and self._events and (len(self._events) > keep or self._events[0].at < before):
            self._events.popleft()
            pruned += 1
        return pruned

    def listen(self, callback: WakeCallback) -> None:
        self._callbacks.append(callback)

    def _ring(self, queues: set[str]) -> None:
        if queues:
            for callback in self._callbacks:
                callback(frozenset(queues))

    def _log(self, event: Event) -> None:
        self._event_seq += 1
        self._events.append(msgspec.structs.replace(event, id=event_id(event.at, self._event_seq)))

    def _log_drafts(self, drafts: Iterable[EventDraft], job: Job, at: int, started_at: int | None = None) -> None:
        for draft in drafts:
            self._log(job_event(draft, job, at, started_at))


def _created_key(job: Job) -> tuple[int, str]:
    return (job.created_at, job.id)


def _discarded_key(job: Job) -> tuple[int, str]:
    return (job.discarded_at or 0, job.id)


def _holder(new: NewJob, jobs: Mapping[str, Job]) -> Job | None:
    """Return a job that a new one's hold conflicts with (C-UNQ-06)."""
    hold = new.hold
    if hold is None:
        return None
    return next((job for job in jobs.values() if job.fingerprint == new.job.fingerprint and hold.forbids(job)), None)


@hookimpl
def ojs_make_backend(environ: Mapping[str, str]) -> Backend:  # noqa: ARG001 - this backend has no settings
    """Make the reference backend."""
    return MemoryBackend()
