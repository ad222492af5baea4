"""What changes queues, workers and the event log outside `commit` and `claim`."""

from __future__ import annotations

import msgspec

from ojs_backend_nats.draft import Draft
from ojs_backend_nats.eventlog import plan_pruning
from ojs_core.backend import Beaten, BeatRequest
from ojs_core.events import Event, EventDraft, other_event, worker_started
from ojs_core.job import Job, JobState
from ojs_core.lifecycle import extend_lease
from ojs_core.records import Queue, Worker, WorkerState

_HEARTBEAT = (EventDraft("job.heartbeat"),)


def take_beat(draft: Draft, request: BeatRequest) -> Beaten:
    """Note the worker and renew the leases it names. Raises `NeedsTexts`."""
    job_ids = tuple(dict.fromkeys(request.job_ids))
    draft.read_ahead(job_ids)
    worker = _note_worker(draft, request)
    extended: list[Job] = []
    others: list[Job] = []
    for job_id in job_ids:
        job = draft.job(job_id)
        if job is None:
            continue
        if job.state is JobState.ACTIVE and job.worker_id in (None, worker.id):
            renewed = extend_lease(job, now=request.now, lease_ms=request.lease_ms)
            extended.append(draft.change_job(renewed, _HEARTBEAT, request.now))
        else:
            others.append(job)
    return Beaten(worker, tuple(extended), tuple(others))


def _note_worker(draft: Draft, request: BeatRequest) -> Worker:
    worker = request.noted(draft.worker(request.worker.id))
    draft.put(draft.workers, worker.id, worker)
    if worker.beats == 1:
        draft.log(worker_started(worker, request.now))
    return worker


def set_paused(draft: Draft, name: str, now: int, *, paused: bool) -> Queue:
    """Pause or resume a queue, with an event if that changes anything."""
    queue = draft.make_queue(name, now)
    if queue.paused != paused:
        queue = msgspec.structs.replace(queue, paused_at=now if paused else None)
        draft.put(draft.queues, name, queue)
        draft.log(other_event("queue.paused" if paused else "queue.resumed", now, name, queue=name))
    return queue


def set_directive(draft: Draft, worker_id: str, directive: WorkerState | None) -> Worker | None:
    """Tell a worker what to do."""
    worker = draft.worker(worker_id)
    if worker is not None:
        worker = msgspec.structs.replace(worker, directive=directive)
        draft.put(draft.workers, worker_id, worker)
    return worker


def remove_worker(draft: Draft, worker_id: str, seen_before: int, event: Event) -> bool:
    """Forget a worker that was not seen since, and log the event."""
    worker = draft.worker(worker_id)
    if worker is None or worker.last_seen_at >= seen_before:
        return False
    draft.put(draft.workers, worker_id, None)
    draft.log(event)
    return True


def prune_events(draft: Draft, before: int, keep: int, limit: int) -> int:
    """Prune the oldest events. Raises `NeedsEvents`."""
    if draft.events_from:
        return 0  # another request of this group just did
    pruning = plan_pruning(draft.index.events, before, keep, limit, draft.loaded)
    if pruning.count:
        draft.prune(pruning.begin)
    return pruning.count
