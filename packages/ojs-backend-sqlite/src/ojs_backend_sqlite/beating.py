"""`beat`: a worker's report, and the leases it renews, in one step."""

from __future__ import annotations

from ojs_backend_sqlite.transaction import Transaction
from ojs_core.backend import Beaten, BeatRequest
from ojs_core.events import EventDraft, worker_started
from ojs_core.job import Job, JobState
from ojs_core.lifecycle import extend_lease
from ojs_core.records import Worker

_HEARTBEAT = (EventDraft("job.heartbeat"),)


def take_beat(transaction: Transaction, request: BeatRequest) -> Beaten:
    """Note the worker and renew the leases it names."""
    worker = _note_worker(transaction, request)
    extended: list[Job] = []
    others: list[Job] = []
    job_ids = tuple(dict.fromkeys(request.job_ids))
    transaction.jobs.load(job_ids)
    for job_id in job_ids:
        job = transaction.jobs.get(job_id)
        if job is None:
            continue
        if job.state is JobState.ACTIVE and job.worker_id in (None, worker.id):
            renewed = extend_lease(job, now=request.now, lease_ms=request.lease_ms)
            extended.append(transaction.swap_job(job, renewed, _HEARTBEAT, request.now))
        else:
            others.append(job)
    return Beaten(worker, tuple(extended), tuple(others))


def _note_worker(transaction: Transaction, request: BeatRequest) -> Worker:
    worker = request.noted(transaction.workers.get(request.worker.id))
    transaction.workers.put(worker.id, worker)
    if worker.beats == 1:
        transaction.log(worker_started(worker, request.now))
    return worker
