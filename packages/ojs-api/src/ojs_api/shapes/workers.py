"""Workers: fetch, ack, nack, heartbeat; and what an operator sees of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct

from ojs_api.shapes.jobs import Job
from ojs_api.shapes.values import (
    Array,
    Count,
    JobId,
    JobStateName,
    LeaseId,
    Maybe,
    Milliseconds,
    Nullable,
    Object,
    ShortText,
    Time,
    WorkerId,
    WorkerStateName,
)
from ojs_core.service.jobs import WAIT_MAX_MS


class FetchRequest(Struct, kw_only=True):
    """What a worker asks for."""

    queues: Annotated[
        list[str],
        Meta(min_length=1, max_length=1000, description="Served from left to right; unknown names are no error."),
    ]
    count: Nullable[
        Annotated[int, Meta(description="Most jobs to hand out: 1 to 1000; other numbers count as those.")]
    ] = UNSET
    worker_id: Nullable[WorkerId] = UNSET
    visibility_timeout_ms: Nullable[Annotated[Milliseconds, Meta(description="Length of the lease.")]] = UNSET
    wait_ms: Nullable[Annotated[int, Meta(ge=0, le=WAIT_MAX_MS, description="How long to wait for the first job.")]] = (
        UNSET
    )


class FetchAnswer(Struct, kw_only=True):
    """The jobs handed out; `job` is the first."""

    jobs: list[Job]
    job: Maybe[Job] = UNSET


class AckOneRequest(Struct, kw_only=True):
    """The job succeeded."""

    result: Annotated[Any, Meta(description="Any JSON value.")] = UNSET
    worker_id: Nullable[WorkerId] = UNSET
    lease_id: Nullable[LeaseId] = UNSET


class AckRequest(AckOneRequest, kw_only=True):
    """A job succeeded."""

    job_id: Annotated[str, Meta(min_length=1, max_length=255)]


class ReportedError(Struct, kw_only=True):
    """What went wrong. The codes RETRY, DISCARD, FAIL and DEAD_LETTER decide what becomes of the job."""

    message: Annotated[str, Meta(min_length=1)]
    code: Nullable[ShortText] = UNSET
    type: Nullable[ShortText] = UNSET
    retryable: Nullable[bool] = UNSET
    details: Nullable[Annotated[Object, Meta(description="`error_class` is a third name of the error.")]] = UNSET
    backtrace: Nullable[str | Array] = UNSET


class NackOneRequest(Struct, kw_only=True):
    """The job failed; or, with `requeue`, is given back unfinished, and then needs no `error`."""

    error: Nullable[ReportedError] = UNSET
    requeue: Nullable[bool] = UNSET
    worker_id: Nullable[WorkerId] = UNSET
    lease_id: Nullable[LeaseId] = UNSET


class NackRequest(NackOneRequest, kw_only=True):
    """A job failed; or, with `requeue`, is given back unfinished, and then needs no `error`."""

    job_id: Annotated[str, Meta(min_length=1, max_length=255)]


_ERROR_OR_REQUEUE = {
    "anyOf": [
        {"required": ["error"], "properties": {"error": {"type": "object"}}},
        {"required": ["requeue"], "properties": {"requeue": {"const": True}}},
    ]
}
NackBody = Annotated[NackRequest, Meta(extra_json_schema=_ERROR_OR_REQUEUE)]
NackOneBody = Annotated[NackOneRequest, Meta(extra_json_schema=_ERROR_OR_REQUEUE)]


class NackAnswer(Struct, kw_only=True):
    """What became of the job."""

    id: JobId
    job_id: JobId
    state: JobStateName
    attempt: Count
    max_attempts: Count
    job: Job
    next_attempt_at: Maybe[Time] = UNSET
    retry_delay_ms: Maybe[Count] = UNSET
    completed_at: Maybe[Time] = UNSET
    cancelled_at: Maybe[Time] = UNSET
    discarded_at: Maybe[Time] = UNSET


class AckAnswer(NackAnswer, kw_only=True):
    """The job is completed."""

    acknowledged: Literal[True]


class HeartbeatRequest(Struct, kw_only=True):
    """A sign of life. The leases of the jobs it names are renewed."""

    worker_id: Annotated[WorkerId, Meta(min_length=1)]
    active_jobs: Nullable[Annotated[int, Meta(ge=0, le=10_000)] | Annotated[list[str], Meta(max_length=10_000)]] = UNSET
    active_job_ids: Nullable[Annotated[list[str], Meta(max_length=10_000)]] = UNSET
    job_id: Nullable[ShortText] = UNSET
    state: Nullable[Literal["running", "active", "", "quiet", "drain", "draining", "terminate", "terminating"]] = UNSET
    visibility_timeout_ms: Nullable[Milliseconds] = UNSET
    hostname: Nullable[ShortText] = UNSET
    pid: Nullable[Annotated[int, Meta(ge=0, le=2**53)]] = UNSET
    queues: Nullable[Annotated[list[str], Meta(max_length=1000)]] = UNSET
    concurrency: Nullable[Annotated[int, Meta(ge=0, le=2**31)]] = UNSET
    labels: Nullable[Object | Array] = UNSET


class HeartbeatAnswer(Struct, kw_only=True):
    """What the worker is to do, and which of its jobs were renewed or cancelled."""

    state: WorkerStateName
    directive: Literal["", "quiet", "terminate"]
    acknowledged: Literal[True]
    jobs_extended: list[JobId]
    server_time: Time
    jobs_cancelled: Maybe[list[JobId]] = UNSET


class Worker(Struct, kw_only=True):
    """A worker as last seen."""

    id: str
    worker_id: str
    state: WorkerStateName
    directive: WorkerStateName
    first_seen_at: Time
    last_seen_at: Time
    heartbeats: Count
    hostname: Maybe[str] = UNSET
    pid: Maybe[Count] = UNSET
    queues: Maybe[list[str]] = UNSET
    concurrency: Maybe[Count] = UNSET
    active_jobs: Maybe[Count] = UNSET
    labels: Maybe[Object | Array] = UNSET


class WorkersAnswer(Struct, kw_only=True):
    """The workers, longest silent first."""

    workers: list[Worker]
    count: Count


class DirectiveRequest(Struct, kw_only=True):
    """What a worker is to do, until told otherwise."""

    directive: WorkerStateName


class WorkerAnswer(Struct, kw_only=True):
    """One worker."""

    worker: Worker


class ResetAnswer(Struct, kw_only=True):
    """Everything is gone."""

    reset: Literal[True]
