"""Which columns stand beside each kind of record."""

from __future__ import annotations

from ojs_backend_sqlite.table import InsertRows, Layout, Row
from ojs_core.job import Job, encode_record
from ojs_core.records import CronEntry, Queue, Worker, Workflow, encode


def _job_row(job: Job) -> Row:
    return (
        job.id,
        job.queue,
        job.type,
        job.state,
        job.priority,
        job.seq,
        job.wake_at,
        job.expires_at,
        job.worker_id,
        job.fingerprint,
        job.created_at,
        job.discarded_at or 0,
        job.dead,
        encode_record(job),
    )


JOBS = Layout(
    Job,
    "jobs",
    (
        "id",
        "queue",
        "type",
        "state",
        "priority",
        "seq",
        "wake_at",
        "expires_at",
        "worker_id",
        "fingerprint",
        "created_at",
        "discarded_at",
        "dead",
        "record",
    ),
    _job_row,
    fixed=("type", "created_at"),
)
QUEUES = Layout(Queue, "queues", ("name", "record"), lambda queue: (queue.name, encode(queue)))
WORKERS = Layout(
    Worker,
    "workers",
    ("id", "last_seen_at", "record"),
    lambda worker: (worker.id, worker.last_seen_at, encode(worker)),
)
CRONS = Layout(
    CronEntry, "crons", ("name", "wake_at", "record"), lambda entry: (entry.name, entry.wake_at, encode(entry))
)
WORKFLOWS = Layout(
    Workflow,
    "workflows",
    ("id", "wake_at", "record"),
    lambda workflow: (workflow.id, workflow.wake_at, encode(workflow)),
)
INSERT_EVENTS = InsertRows("events", ("seq", "at", "type", "subject", "queue", "job_type", "data"))
ADD_COUNTS = InsertRows(
    "counts", ("queue", "state", "jobs"), "ON CONFLICT (queue, state) DO UPDATE SET jobs = jobs + excluded.jobs"
)
