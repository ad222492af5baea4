"""Workers: fetch, ack, nack, heartbeat, and the same for one job by its path."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from ojs_api import shapes
from ojs_api.http import (
    Call,
    Disconnected,
    Endpoints,
    Reply,
    optional_text,
    optional_whole,
    required_text,
    texts,
)
from ojs_api.wire import job_view
from ojs_core.envelope import TIMEOUT_MAX_MS, invalid
from ojs_core.errors import NotFoundError, StateConflictError
from ojs_core.job import Job, JobState
from ojs_core.records import Worker, WorkerState
from ojs_core.service import FetchRequest, HeartbeatRequest
from ojs_core.service.failure import parse_failure
from ojs_core.service.jobs import WAIT_MAX_MS
from ojs_core.timestamps import format_ms

endpoints = Endpoints("Workers")

NOT_HELD = (NotFoundError, StateConflictError)

QUEUES_MAX = 1000
JOBS_MAX = 10_000
_WORKER_STATES: dict[str, WorkerState] = {
    "running": "running",
    "active": "running",
    "quiet": "quiet",
    "drain": "quiet",
    "draining": "quiet",
    "terminate": "terminate",
    "terminating": "terminate",
}
"""What workers call their states; the values are the spec's."""

_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode


@endpoints.add(
    "POST",
    "/ojs/v1/workers/fetch",
    "Fetch jobs to work on",
    request=shapes.FetchRequest,
    response=shapes.FetchAnswer,
)
async def fetch(call: Call) -> Reply:
    """C-EP-08; `wait_ms` waits for the first job."""
    body, _ = call.json()
    queues = texts(body, "queues", QUEUES_MAX)
    if not queues:
        raise invalid("queues", "an array of at least one queue name", body.get("queues"))
    request = FetchRequest(
        queues=queues,
        count=_count(body),
        worker_id=_own_name(body),
        lease_ms=optional_whole(body, "visibility_timeout_ms", TIMEOUT_MAX_MS),
        wait_ms=optional_whole(body, "wait_ms", WAIT_MAX_MS) or 0,
    )
    jobs = await (_fetch_unless_gone(call, request) if request.wait_ms else call.service.jobs.fetch(request))
    views = [job_view(job) for job in jobs]
    return Reply({"jobs": views, "job": views[0]} if views else {"jobs": views})


def _own_name(body: Mapping[str, Any]) -> str | None:
    """Return the worker's name; an empty text, which some clients send for a field that is not set, is none."""
    return optional_text(body, "worker_id") or None


def _count(body: Mapping[str, Any]) -> int:
    count = body.get("count")
    if count is None:
        return 1
    if type(count) is not int:
        raise invalid("count", "a whole number", count)
    return count


async def _fetch_unless_gone(call: Call, request: FetchRequest) -> tuple[Job, ...]:
    """Wait for jobs, but not for a client that has gone away: it would hold them until their leases lapse."""
    fetching = asyncio.ensure_future(call.service.jobs.fetch(request))
    leaving = asyncio.ensure_future(call.disconnected())
    try:
        await asyncio.wait({fetching, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if fetching.done():
            return fetching.result()
        raise Disconnected
    finally:
        fetching.cancel()
        leaving.cancel()


@endpoints.add(
    "POST",
    "/ojs/v1/workers/ack",
    "Report that a job succeeded",
    request=shapes.AckRequest,
    response=shapes.AckAnswer,
    errors=NOT_HELD,
)
async def ack(call: Call) -> Reply:
    """C-EP-09."""
    body, raw = call.json()
    return await _ack(call, required_text(body, "job_id"), body, raw)


@endpoints.add(
    "POST",
    "/ojs/v1/jobs/{job_id:str}/ack",
    "Report that this job succeeded",
    request=shapes.AckOneRequest | None,
    response=shapes.AckAnswer,
    errors=NOT_HELD,
)
async def ack_one(call: Call) -> Reply:
    """The same by path."""
    body, raw = call.optional_json()
    return await _ack(call, call.path_params["job_id"], body, raw)


async def _ack(call: Call, job_id: str, body: Mapping[str, Any], raw: Mapping[str, Raw]) -> Reply:
    job = await call.service.jobs.ack(
        job_id,
        result=None if body.get("result") is None else raw["result"],
        worker_id=_own_name(body),
        lease_id=optional_text(body, "lease_id"),
    )
    return Reply({"acknowledged": True, **_outcome(job), "job": job_view(job)})


@endpoints.add(
    "POST",
    "/ojs/v1/workers/nack",
    "Report that a job failed, or give it back",
    request=shapes.NackBody,
    response=shapes.NackAnswer,
    errors=NOT_HELD,
)
async def nack(call: Call) -> Reply:
    """C-EP-10."""
    body, raw = call.json()
    return await _nack(call, required_text(body, "job_id"), body, raw)


@endpoints.add(
    "POST",
    "/ojs/v1/jobs/{job_id:str}/nack",
    "Report that this job failed, or give it back",
    request=shapes.NackOneBody,
    response=shapes.NackAnswer,
    errors=NOT_HELD,
)
async def nack_one(call: Call) -> Reply:
    """The same by path."""
    body, raw = call.json()
    return await _nack(call, call.path_params["job_id"], body, raw)


async def _nack(call: Call, job_id: str, body: Mapping[str, Any], raw: Mapping[str, Raw]) -> Reply:
    requeue = body.get("requeue")
    if requeue is not None and not isinstance(requeue, bool):
        raise invalid("requeue", "a boolean", requeue)
    worker_id = _own_name(body)
    lease_id = optional_text(body, "lease_id")
    if requeue:
        job = await call.service.jobs.requeue(job_id, worker_id=worker_id, lease_id=lease_id)
    else:
        error = body.get("error")
        failure = parse_failure(error, _decode_object(raw["error"]) if isinstance(error, dict) else {})
        job = await call.service.jobs.fail(job_id, failure, worker_id=worker_id, lease_id=lease_id)
    return Reply({**_outcome(job), "job": job_view(job)})


def _outcome(job: Job) -> dict[str, Any]:
    """Return what became of a job, under the names of both dialects (Q-04)."""
    view: dict[str, Any] = {
        "id": job.id,
        "job_id": job.id,
        "state": job.state,
        "attempt": job.attempt,
        "max_attempts": job.retry.max_attempts,
    }
    if job.state is JobState.RETRYABLE and job.next_retry_at is not None:
        view["next_attempt_at"] = format_ms(job.next_retry_at)
        view["retry_delay_ms"] = job.retry_delay_ms
    for name in ("completed_at", "cancelled_at", "discarded_at"):
        instant = getattr(job, name)
        if instant is not None:
            view[name] = format_ms(instant)
    return view


@endpoints.add(
    "POST",
    "/ojs/v1/workers/heartbeat",
    "Say that a worker lives, and renew its leases",
    request=shapes.HeartbeatRequest,
    response=shapes.HeartbeatAnswer,
)
async def heartbeat(call: Call) -> Reply:
    """C-EP-11."""
    body, raw = call.json()
    beaten, directive = await call.service.workers.beat(_heartbeat_request(body, raw))
    view: dict[str, Any] = {
        "state": directive,
        "directive": "" if directive == "running" else directive,
        "acknowledged": True,
        "jobs_extended": [job.id for job in beaten.extended],
        "server_time": format_ms(beaten.worker.last_seen_at),
    }
    cancelled = [job.id for job in beaten.others if job.state is JobState.CANCELLED]
    if cancelled:
        view["jobs_cancelled"] = cancelled
    return Reply(view)


def _heartbeat_request(body: Mapping[str, Any], raw: Mapping[str, Raw]) -> HeartbeatRequest:
    """Read a heartbeat in any client's form: `active_jobs` may be a list of ids or a number (C-EP-11)."""
    active = body.get("active_jobs")
    if isinstance(active, int) and not isinstance(active, bool):
        ids: list[str] = []
        count = optional_whole(body, "active_jobs", JOBS_MAX)
    else:
        ids = list(texts(body, "active_jobs", JOBS_MAX) or ())
        count = len(ids)
    ids += texts(body, "active_job_ids", JOBS_MAX) or ()
    one = optional_text(body, "job_id")
    if one is not None:
        ids.append(one)
    state = optional_text(body, "state") or "running"
    if state not in _WORKER_STATES:
        raise invalid("state", "one of running, quiet, terminate", state)
    labels = body.get("labels")
    if labels is not None and not isinstance(labels, dict | list):
        raise invalid("labels", "an object or an array", labels)
    worker = Worker(
        id=required_text(body, "worker_id"),
        first_seen_at=0,
        last_seen_at=0,
        state=_WORKER_STATES[state],
        hostname=optional_text(body, "hostname"),
        pid=optional_whole(body, "pid", 2**53),
        queues=texts(body, "queues", QUEUES_MAX),
        concurrency=optional_whole(body, "concurrency", 2**31),
        active_jobs=count if count or active is not None else len(ids),
        labels=None if labels is None else raw["labels"],
    )
    lease_ms = optional_whole(body, "visibility_timeout_ms", TIMEOUT_MAX_MS)
    return HeartbeatRequest(worker=worker, job_ids=tuple(ids), lease_ms=lease_ms or None)
