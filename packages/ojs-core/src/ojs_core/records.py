"""The records a store keeps beside jobs: queues, workers, cron entries, workflows."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw, Struct

from ojs_core.job import JobError, MaybeRaw
from ojs_core.rate import RateWindow


class Queue(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A queue. It exists from its first job, limit or pause on."""

    name: str
    created_at: int
    paused_at: int | None = None
    max_per_second: int | None = None
    """Jobs handed out in any one second, at most (C-RL-01)."""
    window: RateWindow | None = None
    """What was handed out lately; kept only while a limit is set."""

    @property
    def paused(self) -> bool:
        """Whether FETCH passes the queue over."""
        return self.paused_at is not None


class QueueStats(Struct, frozen=True, kw_only=True):
    """Numbers of one queue. `states` counts jobs by state, exact right after each operation (C-QOP-04).

    The rest covers the last hour: executions that completed and that failed, and sums over the completed ones of the
    time from start to end and from enqueue to start.
    """

    queue: Queue
    states: dict[str, int]
    completed_last_hour: int = 0
    failed_last_hour: int = 0
    duration_ms_sum: int = 0
    wait_ms_sum: int = 0


WorkerState = Literal["running", "quiet", "terminate"]


class Worker(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A worker as last seen. Only one that has sent a heartbeat can be declared dead (C-WRK-09)."""

    id: str
    first_seen_at: int
    last_seen_at: int
    beats: int = 0
    state: WorkerState = "running"
    """What the worker says of itself."""
    directive: WorkerState | None = None
    """What an operator wants of it; sticky until changed."""
    hostname: str | None = None
    pid: int | None = None
    queues: tuple[str, ...] | None = None
    concurrency: int | None = None
    active_jobs: int | None = None
    labels: MaybeRaw = None


OverlapPolicy = Literal["skip", "allow", "cancel_previous", "enqueue"]


class CronEntry(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A cron registration. `expression` and `timezone` are as typed; `job` is the raw job request of the template.

    `wake_at` is when the scheduler looks at it next (None: disabled). `last_job_id` is the newest instance,
    `waiting_job_ids` those staged behind it under the policy `enqueue`. `version` guards each firing.
    """

    name: str
    expression: str
    timezone: str
    job: Raw
    created_at: int
    overlap_policy: OverlapPolicy = "skip"
    enabled: bool = True
    description: str | None = None
    version: int = 0
    wake_at: int | None = None
    next_run_at: int | None = None
    last_run_at: int | None = None
    run_count: int = 0
    last_job_id: str | None = None
    waiting_job_ids: tuple[str, ...] = ()


WorkflowKind = Literal["chain", "group", "batch", "dag"]
WorkflowState = Literal["running", "completed", "failed", "cancelled"]
MemberState = Literal["waiting", "pending", "completed", "failed", "cancelled"]
Trigger = Literal["success", "complete", "failure"]


class Member(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One element of a workflow: a job, or a workflow of its own (`nested`).

    `id` names it within the workflow, `type` is the job type or the kind of the nested workflow. `definition` is the
    raw request of either, with the workflow's default options merged in. `depends_on` are positions of other members,
    in any order but without cycles; callbacks of a batch leave it empty and wait for all members. `trigger` says when
    it starts: once all it waits for completed, once all ended, or once all ended and not all completed.

    `enqueued_at` is set once started, `job_id` or `child_id` with it. `error` is set exactly when the member failed or
    was cancelled on its own; one that will never start because of another is cancelled without it. `result` is raw
    JSON; where the record has no room for it (`RESULTS_MAX_BYTES`) it is left with the job or nested workflow, and
    `result_bytes` is its size. `completed_count` and `failed_count` are those of a nested workflow's jobs, known when
    it has ended.
    """

    id: str
    type: str
    definition: Raw
    name: str | None = None
    nested: bool = False
    depends_on: tuple[int, ...] = ()
    trigger: Trigger = "success"
    state: MemberState = "waiting"
    job_id: str | None = None
    child_id: str | None = None
    result: MaybeRaw = None
    result_bytes: int | None = None
    error: JobError | None = None
    enqueued_at: int | None = None
    started_at: int | None = None
    """Start of the execution that ended the member; known when it has ended."""
    completed_at: int | None = None
    """When the member ended, however it did."""
    completed_count: int = 0
    failed_count: int = 0


class Workflow(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A workflow and its progress: a set of outcomes, so that one reported twice counts once.

    `members` are steps or jobs in the order given; `callbacks` (batch only) map `on_complete`, `on_success`,
    `on_failure` to their members. `input` is the raw array of results an outer workflow hands to the jobs that start
    first. `job_count` includes the jobs of nested workflows, but no callbacks. `wake_at` is when the sweeper looks at
    it next: set while a step of several writes is unfinished, and for the end of its retention.

    A nested workflow has the `created_at` of the outermost one (its definition was accepted then, and ids are named
    after it); `started_at` tells when its turn came.
    """

    id: str
    kind: WorkflowKind
    members: tuple[Member, ...]
    created_at: int
    state: WorkflowState = "running"
    name: str | None = None
    callbacks: dict[str, Member] = {}
    input: MaybeRaw = None
    parent_id: str | None = None
    parent_step: int | None = None
    job_count: int = 0
    version: int = 0
    wake_at: int | None = None
    started_at: int | None = None
    completed_at: int | None = None
    cancelled_at: int | None = None


def encode(record: Queue | Worker | CronEntry | Workflow) -> bytes:
    """Record -> bytes, for stores that keep a record as one value."""
    return msgspec.json.encode(record)


decode_queue = msgspec.json.Decoder(Queue).decode
decode_worker = msgspec.json.Decoder(Worker).decode
decode_cron = msgspec.json.Decoder(CronEntry).decode
decode_workflow = msgspec.json.Decoder(Workflow).decode
