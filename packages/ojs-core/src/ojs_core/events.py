"""Events: what happened, as the event log keeps it (OJS events §2-3).

A transition carries drafts (type and the facts only the decision knows); the store turns a draft and the job it changed
into an `Event` in the same atomic step as the change. The envelope of the wire is made by the HTTP layer.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from ojs_core.job import Job
from ojs_core.records import Worker
from ojs_core.timestamps import format_ms

EVENT_TYPES = (
    "job.enqueued",
    "job.scheduled",
    "job.started",
    "job.completed",
    "job.failed",
    "job.retrying",
    "job.discarded",
    "job.cancelled",
    "job.expired",
    "job.heartbeat",
    "queue.paused",
    "queue.resumed",
    "worker.started",
    "worker.stopped",
    "worker.quiet",
    "workflow.created",
    "workflow.started",
    "workflow.step_completed",
    "workflow.step_failed",
    "workflow.job_completed",
    "workflow.job_failed",
    "workflow.callback_fired",
    "workflow.completed",
    "workflow.failed",
    "workflow.cancelled",
    "cron.triggered",
    "cron.skipped",
)
"""Every type this server emits."""


class EventDraft(Struct, frozen=True):
    """An event about a job, not yet joined with the job it is about."""

    type: str
    data: dict[str, Any] = {}


class Event(Struct, frozen=True, kw_only=True):
    """One entry of the event log.

    `id` is given by the store and ascends in the order of the log; it is empty until then. `data` is a JSON object.
    """

    id: str = ""
    type: str
    at: int
    subject: str
    queue: str | None = None
    job_type: str | None = None
    data: Raw


encode_data = msgspec.json.Encoder().encode


class _TraceContext(Struct):
    trace_id: str | None = None
    traceparent: str | None = None


_trace_decoder = msgspec.json.Decoder(_TraceContext)


def _trace_id(meta: Raw) -> str | None:
    """Return the trace id in `meta`, if it holds one (C-EVT-09). `meta` is client data: a wrong type means none."""
    text = bytes(meta)
    if b'"trace' not in text:
        return None
    try:
        context = _trace_decoder.decode(text)
    except msgspec.ValidationError:
        return None
    return context.trace_id or context.traceparent


def job_event(draft: EventDraft, job: Job, at: int, started_at: int | None = None) -> Event:
    """Join a draft with the job after the change.

    Args:
        draft: type and facts of the decision.
        job: the record after the change.
        at: when it happened.
        started_at: start of the execution the event ends, where the change cleared it from the record.

    The data is a superset of what OJS events §3 asks of each type and of the older flat form (C-EVT-02, C-EVT-03).
    """
    data: dict[str, Any] = {
        "job_id": job.id,
        "job_type": job.type,
        "type": job.type,
        "queue": job.queue,
        "state": job.state,
        "attempt": job.attempt,
        "priority": job.priority,
        "timestamp": format_ms(at),
    }
    if job.worker_id is not None:
        data["worker_id"] = job.worker_id
    start = job.started_at if started_at is None else started_at
    if start is not None and draft.type in ("job.completed", "job.failed"):
        data["duration_ms"] = max(0, at - start)
    if job.lease_expires_at is not None and draft.type == "job.heartbeat":
        data["visible_until"] = format_ms(job.lease_expires_at)
    if job.workflow_id is not None:
        data["workflow_id"] = job.workflow_id
    trace_id = _trace_id(job.meta)
    if trace_id is not None:
        data["trace_id"] = trace_id
    data.update(draft.data)
    return Event(
        type=draft.type, at=at, subject=job.id, queue=job.queue, job_type=job.type, data=Raw(encode_data(data))
    )


def other_event(event_type: str, at: int, subject: str, *, queue: str | None = None, **data: Any) -> Event:
    """Make an event about a queue, worker, workflow or cron entry."""
    job_type = data.get("job_type")
    if queue is not None:
        data["queue"] = queue
    return Event(
        type=event_type,
        at=at,
        subject=subject,
        queue=queue,
        job_type=job_type if isinstance(job_type, str) else None,
        data=Raw(encode_data({**data, "timestamp": format_ms(at)})),
    )


def worker_started(worker: Worker, at: int) -> Event:
    """Make the event of a worker's first heartbeat."""
    return other_event(
        "worker.started",
        at,
        worker.id,
        worker_id=worker.id,
        queues=list(worker.queues or ()),
        concurrency=worker.concurrency,
        hostname=worker.hostname,
    )
