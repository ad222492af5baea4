"""Records of core as the wire shows them (requirements, section 1 and C-EP)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from ojs_core.events import Event
from ojs_core.job import Job, JobError, JobState
from ojs_core.records import CronEntry, Queue, QueueStats, Worker
from ojs_core.timestamps import format_ms

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode


def job_view(job: Job) -> dict[str, Any]:
    """Return the envelope of a job; what has no meaning now is absent (requirements, "Returned job envelope")."""
    view: dict[str, Any] = {
        "specversion": "1.0",
        "id": job.id,
        "type": job.type,
        "queue": job.queue,
        "args": job.args,
        "meta": job.meta,
        "priority": job.priority,
        "state": job.state,
        "attempt": job.attempt,
        "max_attempts": job.retry.max_attempts,
        "created_at": format_ms(job.created_at),
    }
    if job.enqueued_at is not None:
        view["enqueued_at"] = format_ms(job.enqueued_at)
    if job.started_at is not None:
        view["started_at"] = format_ms(job.started_at)
    if job.state is JobState.ACTIVE:
        if job.worker_id is not None:
            view["worker_id"] = job.worker_id
        view["lease_id"] = job.lease_id
        if job.lease_expires_at is not None:
            view["lease_expires_at"] = format_ms(job.lease_expires_at)
    if job.completed_at is not None:
        view["completed_at"] = format_ms(job.completed_at)
    if job.result is not None:
        view["result"] = job.result
    if job.retry_delay_ms is not None:
        view["retry_delay_ms"] = job.retry_delay_ms
    if job.next_retry_at is not None:
        view["next_retry_at"] = format_ms(job.next_retry_at)
    if job.errors:
        view["errors"] = [error_view(error) for error in job.errors]
        if job.error is not None:
            view["error"] = error_view(job.error)
    _add_rare(view, job)
    return view


def _add_rare(view: dict[str, Any], job: Job) -> None:
    """Add what most jobs have not."""
    for name in ("cancelled_at", "discarded_at", "scheduled_at", "expires_at"):
        instant = getattr(job, name)
        if instant is not None:
            view[name] = format_ms(instant)
    for name in ("timeout_ms", "visibility_timeout_ms", "tags", "schema", "parent_results", "workflow_id"):
        value = getattr(job, name)
        if value is not None:
            view[name] = value
    if job.workflow_step is not None:
        view["workflow_step"] = job.workflow_step
    if job.as_sent is not None:
        view.update(_decode_members(job.as_sent))
    if job.extra is not None:
        view.update(_decode_members(job.extra))


def error_view(error: JobError) -> dict[str, Any]:
    """Return one failure (C-OPS-31). Facts of a timeout stand in the error itself (C-VIS-07)."""
    view: dict[str, Any] = {
        "type": error.type,
        "code": error.code,
        "message": error.message,
        "attempt": error.attempt,
        "occurred_at": format_ms(error.occurred_at),
    }
    if error.retryable is not None:
        view["retryable"] = error.retryable
    if error.details is not None:
        view["details"] = error.details
        if error.type == "timeout":
            members = _decode_members(error.details)
            view.update((key, members[key]) for key in _TIMEOUT_FACTS if key in members)
    if error.backtrace is not None:
        view["backtrace"] = error.backtrace
    return view


_TIMEOUT_FACTS = ("timeout_kind", "limit_seconds", "elapsed_seconds")


def queue_view(queue: Queue) -> dict[str, Any]:
    """Return a queue."""
    view: dict[str, Any] = {
        "name": queue.name,
        "status": "paused" if queue.paused else "active",
        "paused": queue.paused,
        "created_at": format_ms(queue.created_at),
    }
    if queue.paused_at is not None:
        view["paused_at"] = format_ms(queue.paused_at)
    if queue.max_per_second is not None:
        view["rate_limit"] = {"max_per_second": queue.max_per_second}
    return view


def stats_view(stats: QueueStats, now: int, *, draft: bool) -> dict[str, Any]:
    """Return the numbers of a queue, as object, as `stats` and flat, for the three forms clients read (C-EP-13, Q-05).

    `draft`: the client speaks the draft binding, in which `queue` is the name alone.
    """
    states = {state.value: stats.states.get(state.value, 0) for state in JobState}
    completed = stats.completed_last_hour
    numbers: dict[str, Any] = {
        **states,
        "total": sum(states.values()),
        "completed_last_hour": completed,
        "failed_last_hour": stats.failed_last_hour,
        "avg_duration_ms": stats.duration_ms_sum / completed if completed else 0.0,
        "avg_wait_ms": stats.wait_ms_sum / completed if completed else 0.0,
        "throughput_per_second": completed / 3600,
    }
    queue = queue_view(stats.queue)
    return {
        "queue": queue["name"] if draft else {**queue, **states, "total": numbers["total"]},
        "name": queue["name"],
        "status": queue["status"],
        "paused": queue["paused"],
        **states,
        "stats": numbers,
        "computed_at": format_ms(now),
    }


def worker_view(worker: Worker) -> dict[str, Any]:
    """Return a worker as last seen."""
    view: dict[str, Any] = {
        "id": worker.id,
        "worker_id": worker.id,
        "state": worker.state,
        "directive": worker.directive or "running",
        "first_seen_at": format_ms(worker.first_seen_at),
        "last_seen_at": format_ms(worker.last_seen_at),
        "heartbeats": worker.beats,
    }
    for name in ("hostname", "pid", "queues", "concurrency", "active_jobs", "labels"):
        value = getattr(worker, name)
        if value is not None:
            view[name] = value
    return view


def cron_view(entry: CronEntry) -> dict[str, Any]:
    """Return a cron entry in both dialects at once (C-EP-21)."""
    template: Mapping[str, Raw] = _decode_members(entry.job)
    return {
        "name": entry.name,
        "expression": entry.expression,
        "cron": entry.expression,
        "timezone": entry.timezone,
        "type": template["type"],
        "args": template["args"],
        "meta": template.get("meta", _EMPTY),
        "options": template.get("options", _EMPTY),
        "job_template": template,
        "overlap_policy": entry.overlap_policy,
        "enabled": entry.enabled,
        "status": "active" if entry.enabled else "disabled",
        "description": entry.description,
        "last_run_at": None if entry.last_run_at is None else format_ms(entry.last_run_at),
        "next_run_at": None if entry.next_run_at is None else format_ms(entry.next_run_at),
        "run_count": entry.run_count,
        "created_at": format_ms(entry.created_at),
    }


_EMPTY = Raw(b"{}")


def event_view(event: Event) -> dict[str, Any]:
    """Return an event in its envelope (C-EVT-01)."""
    return {
        "specversion": "1.0",
        "id": event.id,
        "type": event.type,
        "source": f"ojs://ojs-server/{event.type.partition('.')[0]}s",
        "time": format_ms(event.at),
        "subject": event.subject,
        "datacontenttype": "application/json",
        "data": event.data,
    }
