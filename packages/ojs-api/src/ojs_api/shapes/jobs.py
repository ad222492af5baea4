"""Jobs: what is enqueued, and what an answer shows (requirements, section 1)."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct

from ojs_api.shapes.values import (
    Array,
    Count,
    Duration,
    Instant,
    JobId,
    JobStateName,
    JobType,
    Maybe,
    Milliseconds,
    NamedPriority,
    Nullable,
    Object,
    PolicyMilliseconds,
    Priority,
    QueueName,
    Seconds,
    SpecVersion,
    Time,
    TimeAsSent,
    WorkerId,
)
from ojs_core.retry import MAX_ATTEMPTS_MAX

# Requests.


class RetryPolicy(Struct, kw_only=True):
    """What happens after a failure. What is left out has its default, key by key; unknown keys are ignored.

    `max_interval` must not be shorter than `initial_interval`.
    """

    max_attempts: Nullable[Annotated[int, Meta(ge=0, le=MAX_ATTEMPTS_MAX, description="Executions in all. 3")]] = UNSET
    initial_interval: Nullable[Annotated[Duration, Meta(description="Wait before the first retry. PT1S")]] = UNSET
    initial_interval_ms: Nullable[PolicyMilliseconds] = UNSET
    backoff_coefficient: Nullable[Annotated[float, Meta(ge=1, le=sys.float_info.max, description="2.0")]] = UNSET
    max_interval: Nullable[Annotated[Duration, Meta(description="Longest wait. PT5M")]] = UNSET
    max_interval_ms: Nullable[PolicyMilliseconds] = UNSET
    jitter: Nullable[Annotated[bool, Meta(description="Spread each wait over 0.5 to 1.5 of its length. true")]] = UNSET
    non_retryable_errors: Nullable[
        Annotated[
            list[Annotated[str, Meta(min_length=1)]],
            Meta(description="Types, classes or codes that end the job at once; `prefix.*` matches what begins so."),
        ]
    ] = UNSET
    on_exhaustion: Nullable[Literal["discard", "dead_letter"]] = UNSET
    backoff_strategy: Nullable[Literal["exponential", "linear", "constant", "none", "polynomial"]] = UNSET
    backoff_type: Nullable[Literal["exponential", "linear", "constant", "none", "polynomial"]] = UNSET


class UniquePolicy(Struct, kw_only=True):
    """Which existing jobs count as the same one, and what to do when there is one. Unknown keys are ignored.

    `meta` among the keys needs `meta_keys`; each of `args_keys` must be in an object of `args`.
    """

    keys: Nullable[list[Literal["type", "queue", "args", "meta"]]] = UNSET
    key: Nullable[Annotated[list[str], Meta(description="Other clients' name for `keys` or `args_keys`.")]] = UNSET
    args_keys: Nullable[list[str]] = UNSET
    meta_keys: Nullable[list[str]] = UNSET
    period: Nullable[Annotated[Duration, Meta(description="How long after its creation a job counts.")]] = UNSET
    period_ms: Nullable[PolicyMilliseconds] = UNSET
    states: Nullable[Annotated[list[JobStateName], Meta(min_length=1)]] = UNSET
    on_conflict: Nullable[Literal["reject", "ignore", "replace", "replace_except_schedule", "use_existing", "drop"]] = (
        UNSET
    )


class QueueRateLimit(Struct, kw_only=True):
    """Sets the limit of the job's queue; the last one set counts."""

    max_per_second: Nullable[Annotated[int, Meta(ge=1, le=1_000_000)]] = UNSET


class Attributes(Struct, kw_only=True):
    """What may stand in `options` or beside it; `options` wins."""

    queue: Nullable[Annotated[QueueName, Meta(description="`default` if left out.")]] = UNSET
    priority: Nullable[Priority | NamedPriority] = UNSET
    scheduled_at: Nullable[Instant] = UNSET
    delay_until: Nullable[Annotated[Instant, Meta(description="Another name for `scheduled_at`.")]] = UNSET
    expires_at: Nullable[Instant] = UNSET
    timeout_ms: Nullable[Annotated[Milliseconds, Meta(description="Longest execution.")]] = UNSET
    timeout: Nullable[Annotated[Seconds, Meta(description="Longest execution.")]] = UNSET
    visibility_timeout_ms: Nullable[Annotated[Milliseconds, Meta(description="Length of a lease.")]] = UNSET
    visibility_timeout: Nullable[Seconds | Duration] = UNSET
    tags: Nullable[list[str]] = UNSET
    pending: Nullable[
        Annotated[bool, Meta(description="Hold the job back until it is activated; not with a schedule.")]
    ] = UNSET
    rate_limit: Nullable[QueueRateLimit] = UNSET
    retry: Nullable[RetryPolicy] = UNSET
    retry_policy: Nullable[RetryPolicy] = UNSET
    unique: Nullable[UniquePolicy] = UNSET


class JobOptions(Attributes, kw_only=True):
    """Options of a job. Unknown ones are ignored."""

    metadata: Nullable[Annotated[Object, Meta(description="Merged into `meta`, which wins.")]] = UNSET


class JobTemplate(Attributes, kw_only=True):
    """A job without an id of its own. Unknown attributes are kept; `null` counts as left out."""

    type: JobType
    args: Annotated[Array, Meta(description="Any JSON values; they come back as they were sent.")]
    specversion: Nullable[SpecVersion] = UNSET
    meta: Nullable[Annotated[Object, Meta(description="At most 64 KiB.")]] = UNSET
    schema: Nullable[Annotated[str, Meta(min_length=1, description="URI; kept, not looked up.")]] = UNSET
    options: Nullable[JobOptions] = UNSET


class JobRequest(JobTemplate, kw_only=True):
    """A job to enqueue. Unknown attributes are kept and come back with the job; `null` counts as left out."""

    id: Nullable[Annotated[JobId, Meta(description="The client's own UUIDv7, in lower case.")]] = UNSET


class BatchRequest(Struct, kw_only=True):
    """Several jobs, all or none."""

    jobs: Annotated[list[JobRequest], Meta(min_length=1)]


class Override(Struct, kw_only=True):
    """What a manual retry changes on the job."""

    queue: Nullable[QueueName] = UNSET
    args: Nullable[Array] = UNSET
    meta: Nullable[Object] = UNSET
    retry: Nullable[RetryPolicy] = UNSET


class DeadLetterRetry(Struct, kw_only=True):
    """How to retry a dead letter."""

    override: Nullable[Override] = UNSET


class Nothing(Struct, kw_only=True):
    """An empty object, or no body at all."""


# Answers.


class JobError(Struct, kw_only=True):
    """One failure."""

    type: str
    code: str
    message: str
    attempt: Count
    occurred_at: Time
    retryable: Maybe[bool] = UNSET
    details: Maybe[Object] = UNSET
    backtrace: Maybe[list[str]] = UNSET
    timeout_kind: Maybe[Literal["execution"]] = UNSET
    limit_seconds: Maybe[float] = UNSET
    elapsed_seconds: Maybe[float] = UNSET


class Job(Struct, kw_only=True):
    """A job. What has no meaning in its state is absent; attributes the server does not know stand as sent."""

    specversion: Literal["1.0"]
    id: JobId
    type: JobType
    queue: QueueName
    args: Array
    meta: Object
    priority: Priority
    state: JobStateName
    attempt: Annotated[Count, Meta(description="Number of the execution; 0 before the first.")]
    max_attempts: Count
    created_at: Time
    enqueued_at: Maybe[Time] = UNSET
    started_at: Maybe[Time] = UNSET
    completed_at: Maybe[Time] = UNSET
    cancelled_at: Maybe[Time] = UNSET
    discarded_at: Maybe[Time] = UNSET
    scheduled_at: Maybe[TimeAsSent] = UNSET
    expires_at: Maybe[TimeAsSent] = UNSET
    worker_id: Maybe[WorkerId] = UNSET
    lease_id: Maybe[str] = UNSET
    lease_expires_at: Maybe[Time] = UNSET
    result: Maybe[Annotated[Any, Meta(description="Any JSON value, as acknowledged.")]] = UNSET
    retry_delay_ms: Maybe[Count] = UNSET
    next_retry_at: Maybe[Time] = UNSET
    error: Maybe[JobError] = UNSET
    errors: Maybe[list[JobError]] = UNSET
    timeout_ms: Maybe[Count] = UNSET
    visibility_timeout_ms: Maybe[Count] = UNSET
    tags: Maybe[list[str]] = UNSET
    schema: Maybe[str] = UNSET
    retry: Maybe[Annotated[Object, Meta(description="As sent.")]] = UNSET
    unique: Maybe[Annotated[Object, Meta(description="As sent.")]] = UNSET
    parent_results: Maybe[Array] = UNSET
    workflow_id: Maybe[JobId] = UNSET
    workflow_step: Maybe[Count] = UNSET


class ChangedJob(Job, kw_only=True):
    """A job after a change, and what it was before."""

    previous_state: JobStateName
    activated_at: Maybe[Time] = UNSET


class RevivedJob(Job, kw_only=True):
    """A job that was a dead letter."""

    re_enqueued_at: Time


class JobAnswer(Struct, kw_only=True):
    """One job."""

    job: Job


class ExistingJob(Struct, kw_only=True):
    """The job that a unique policy found instead."""

    job: Job
    deduplicated: Literal[True]


class BatchAnswer(Struct, kw_only=True):
    """The jobs, in the order of the request."""

    jobs: list[Job]
    count: Count


class ChangedAnswer(Struct, kw_only=True):
    """The job as it is now."""

    job: ChangedJob


class RevivedAnswer(Struct, kw_only=True):
    """The job as it is now."""

    job: RevivedJob


class DeletedDeadLetter(Struct, kw_only=True):
    """The dead letter is gone, and the job with it."""

    deleted: Literal[True]
    id: JobId
    job_id: JobId
