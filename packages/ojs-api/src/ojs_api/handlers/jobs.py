"""Jobs: enqueue, batch, read, cancel, activate."""

from __future__ import annotations

from typing import Any

from ojs_api import shapes
from ojs_api.http import Call, Endpoints, Reply
from ojs_api.wire import job_view
from ojs_core.backend import Change
from ojs_core.envelope import invalid, parse_job_request, parse_job_requests
from ojs_core.errors import (
    DuplicateJobError,
    EnvelopeTooLargeError,
    InvalidPayloadError,
    InvalidRetryPolicyError,
    MetadataTooLargeError,
    NotFoundError,
    StateConflictError,
)
from ojs_core.timestamps import format_ms

endpoints = Endpoints("Jobs")

REFUSED = (InvalidRetryPolicyError, MetadataTooLargeError, DuplicateJobError, StateConflictError)
NOT_IN_STATE = (NotFoundError, StateConflictError)


@endpoints.add(
    "POST",
    "/ojs/v1/jobs",
    "Enqueue a job",
    status=201,
    request=shapes.JobRequest,
    response={201: shapes.JobAnswer, 200: shapes.ExistingJob},
    errors=REFUSED,
)
async def enqueue(call: Call) -> Reply:
    """C-EP-03."""
    if not call.body:
        raise InvalidPayloadError("The body is empty; a job is needed.")
    pushed = await call.service.jobs.push(parse_job_request(call.body, call.service.clock.now()))
    view = {"job": job_view(pushed.job)}
    if pushed.deduplicated:
        return Reply({**view, "deduplicated": True})
    return Reply(view, 201, ((b"location", b"/ojs/v1/jobs/" + pushed.job.id.encode()),))


@endpoints.add(
    "POST",
    "/ojs/v1/jobs/batch",
    "Enqueue several jobs, all or none",
    status=201,
    request=shapes.BatchRequest,
    response=shapes.BatchAnswer,
    errors=REFUSED,
)
async def enqueue_batch(call: Call) -> Reply:
    """C-EP-04."""
    envelope, raw = call.json()
    jobs = envelope.get("jobs")
    if not isinstance(jobs, list) or not jobs:
        raise invalid("jobs", "an array of at least one job", jobs)
    most = call.service.settings.batch_max
    if len(jobs) > most:
        raise EnvelopeTooLargeError(f"A batch may have {most} jobs; this one has {len(jobs)}.", max_jobs=most)
    requests = parse_job_requests(jobs, raw["jobs"], call.service.clock.now())
    pushed = await call.service.jobs.push_batch(requests)
    return Reply({"jobs": [job_view(item.job) for item in pushed], "count": len(pushed)}, 201)


@endpoints.add("GET", "/ojs/v1/jobs/{job_id:str}", "Read a job", response=shapes.JobAnswer, errors=(NotFoundError,))
async def info(call: Call) -> Reply:
    """C-EP-05."""
    return Reply({"job": job_view(await call.service.jobs.info(call.path_params["job_id"]))})


@endpoints.add(
    "DELETE", "/ojs/v1/jobs/{job_id:str}", "Cancel a job", response=shapes.ChangedAnswer, errors=NOT_IN_STATE
)
async def cancel(call: Call) -> Reply:
    """C-EP-06."""
    return Reply({"job": _changed(await call.service.jobs.cancel(call.path_params["job_id"]))})


@endpoints.add(
    "POST",
    "/ojs/v1/jobs/{job_id:str}/activate",
    "Release a pending job",
    request=shapes.Nothing | None,
    response=shapes.ChangedAnswer,
    errors=NOT_IN_STATE,
)
async def activate(call: Call) -> Reply:
    """C-EP-07."""
    call.optional_json()
    change = await call.service.jobs.activate(call.path_params["job_id"])
    view = _changed(change)
    if change.job.enqueued_at is not None:
        view["activated_at"] = format_ms(change.job.enqueued_at)
    return Reply({"job": view})


def _changed(change: Change) -> dict[str, Any]:
    return {**job_view(change.job), "previous_state": change.previous}
