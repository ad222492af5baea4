"""Cron entries. Two dialects are read; an answer speaks both."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct

from ojs_api.shapes.jobs import JobOptions, JobTemplate
from ojs_api.shapes.lists import Pagination
from ojs_api.shapes.values import Array, Count, CronName, JobType, Nullable, Object, Time, either


class CronTemplate(JobTemplate, kw_only=True):
    """The job a cron entry enqueues. `args` may be left out; an `id` is ignored, each job gets its own."""

    args: Nullable[Array] = UNSET  # type: ignore[assignment]


CronExpression = Annotated[
    str,
    Meta(
        description="Five fields, six with seconds first, an alias such as @daily, or `@every` and a length.",
        examples=["*/5 * * * *", "@every 90s"],
    ),
]


class CronRequest(Struct, kw_only=True):
    """A registration: `expression` or `cron`; and `job_template`, or the job's attributes beside the others."""

    name: CronName
    expression: Nullable[CronExpression] = UNSET
    cron: Nullable[CronExpression] = UNSET
    timezone: Nullable[
        Annotated[str, Meta(description="IANA name with a slash, or UTC.", examples=["Europe/Berlin"])]
    ] = UNSET
    overlap_policy: Nullable[
        Annotated[
            Literal["skip", "allow", "cancel_previous", "cancel", "enqueue"],
            Meta(description="What to do when the job before has not ended. skip"),
        ]
    ] = UNSET
    enabled: Nullable[bool] = UNSET
    description: Nullable[str] = UNSET
    job_template: Nullable[CronTemplate] = UNSET
    type: Nullable[JobType] = UNSET
    args: Nullable[Array] = UNSET
    meta: Nullable[Object] = UNSET
    schema: Nullable[Annotated[str, Meta(min_length=1)]] = UNSET
    options: Nullable[JobOptions] = UNSET


CronBody = Annotated[
    CronRequest,
    Meta(
        extra_json_schema={
            "allOf": [either(expression="string", cron="string"), either(job_template="object", type="string")]
        }
    ),
]


class CronSwitch(Struct, kw_only=True):
    """Whether a cron entry is to fire."""

    enabled: bool


class Cron(Struct, kw_only=True):
    """A cron entry."""

    name: CronName
    expression: str
    cron: Annotated[str, Meta(description="The same as `expression`.")]
    timezone: str
    type: JobType
    args: Array
    meta: Object
    options: Object
    job_template: Object
    overlap_policy: Literal["skip", "allow", "cancel_previous", "enqueue"]
    enabled: bool
    status: Literal["active", "disabled"]
    description: str | None
    last_run_at: Time | None
    next_run_at: Time | None
    run_count: Count
    created_at: Time


class CronAnswer(Struct, kw_only=True):
    """One cron entry, under the name each dialect has for it."""

    cron: Cron
    cron_job: Cron


class DeletedCron(CronAnswer, kw_only=True):
    """The cron entry is gone; jobs it made stay."""

    deleted: Literal[True]
    name: CronName


class Crons(Struct, kw_only=True):
    """Cron entries by name, under the name each dialect has for them."""

    crons: list[Cron]
    cron_jobs: list[Cron]
    count: Count
    pagination: Pagination
