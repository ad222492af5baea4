"""What comes in pages: dead letters, queues, events."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct

from ojs_api.shapes.jobs import Job
from ojs_api.shapes.values import Count, Maybe, Object, QueueName, Time
from ojs_core.events import EVENT_TYPES


class Pagination(Struct, kw_only=True):
    """Where in a list a page stands. `next_cursor` is there if more follows."""

    total: Count
    has_more: bool
    limit: Annotated[int, Meta(ge=1, le=200)]
    offset: Count
    count: Count
    next_cursor: Maybe[Annotated[str, Meta(min_length=1)]] = UNSET


class DeadLetters(Struct, kw_only=True):
    """Dead letters, newest first."""

    jobs: list[Job]
    pagination: Pagination


class RateLimit(Struct, kw_only=True):
    """Most jobs handed out in any one second."""

    max_per_second: Annotated[int, Meta(ge=1)]


class Queue(Struct, kw_only=True):
    """A queue."""

    name: QueueName
    status: Literal["active", "paused"]
    paused: bool
    created_at: Time
    paused_at: Maybe[Time] = UNSET
    rate_limit: Maybe[RateLimit] = UNSET


class Queues(Struct, kw_only=True):
    """Queues by name."""

    queues: list[Queue]
    pagination: Pagination


class PausedQueue(Struct, kw_only=True):
    """The queue hands out no jobs."""

    queue: Queue
    status: Literal["paused"]
    paused_at: Time


class ResumedQueue(Struct, kw_only=True):
    """The queue hands out jobs."""

    queue: Queue
    status: Literal["active"]
    resumed_at: Time


class CountedQueue(Queue, kw_only=True):
    """A queue and how many jobs it has in each state."""

    scheduled: Count
    available: Count
    pending: Count
    active: Count
    completed: Count
    retryable: Count
    cancelled: Count
    discarded: Count
    total: Count


class QueueNumbers(Struct, kw_only=True):
    """Jobs by state, and what the last hour was like."""

    scheduled: Count
    available: Count
    pending: Count
    active: Count
    completed: Count
    retryable: Count
    cancelled: Count
    discarded: Count
    total: Count
    completed_last_hour: Count
    failed_last_hour: Count
    avg_duration_ms: Annotated[float, Meta(ge=0)]
    avg_wait_ms: Annotated[float, Meta(ge=0)]
    throughput_per_second: Annotated[float, Meta(ge=0)]


class QueueStats(Struct, kw_only=True):
    """The numbers of a queue. To a client that sends `OJS-Version: 1.0.0-rc.1`, `queue` is the name alone."""

    queue: CountedQueue | QueueName
    name: QueueName
    status: Literal["active", "paused"]
    paused: bool
    scheduled: Count
    available: Count
    pending: Count
    active: Count
    completed: Count
    retryable: Count
    cancelled: Count
    discarded: Count
    stats: QueueNumbers
    computed_at: Time


class Event(Struct, kw_only=True):
    """Something that happened."""

    specversion: Literal["1.0"]
    id: Annotated[str, Meta(pattern="^evt_[0-9a-f-]{36}$")]
    type: Annotated[str, Meta(extra_json_schema={"enum": list(EVENT_TYPES)})]
    source: str
    time: Time
    subject: Annotated[str, Meta(description="Id of the job, workflow or worker; name of the queue or cron entry.")]
    datacontenttype: Literal["application/json"]
    data: Object


class Events(Struct, kw_only=True):
    """Events, oldest first. `cursor` continues after the last one."""

    events: list[Event]
    cursor: str | None
    has_more: bool
