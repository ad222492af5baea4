"""The job record: what a store keeps, and what core decides about.

One record per job is the truth; every index of a store can be rebuilt from it. Times are milliseconds since the epoch
(UTC), names end in `_at`; lengths are milliseconds, names end in `_ms`. Client data (`args`, `meta`, `result`,
`parent_results`, unknown attributes) stays the JSON text that came in, so that it comes back byte for byte.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from msgspec import Raw, Struct

from ojs_core.retry import DEFAULT_RETRY_POLICY, RetryPolicy

if TYPE_CHECKING:
    MaybeRaw: TypeAlias = Raw | None
else:
    # msgspec does not decode a union with Raw (its issue 659). Absent and None it takes care of by the default.
    MaybeRaw = Raw
"""JSON text, or None. Only for a field with the default None, in a struct that omits defaults."""

ERRORS_KEPT = 20
"""Newest entries of `Job.errors` that are kept; the spec asks for at least 10 (C-RTY-12)."""


class JobState(StrEnum):
    """The eight states of OJS core §6.1."""

    SCHEDULED = "scheduled"
    AVAILABLE = "available"
    PENDING = "pending"
    ACTIVE = "active"
    COMPLETED = "completed"
    RETRYABLE = "retryable"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"


TERMINAL = frozenset({JobState.COMPLETED, JobState.CANCELLED, JobState.DISCARDED})
WAITING = frozenset({JobState.SCHEDULED, JobState.AVAILABLE, JobState.PENDING, JobState.RETRYABLE})


class JobError(Struct, frozen=True, omit_defaults=True):
    """One failure, as stored (C-OPS-31). `details` is raw JSON."""

    type: str
    code: str
    message: str
    attempt: int
    occurred_at: int
    retryable: bool | None = None
    details: MaybeRaw = None
    backtrace: tuple[str, ...] | None = None


class Job(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A job as a store keeps it.

    `version` counts the swaps the record has seen and is never reset: it guards decisions made from a read.
    `fence` counts the claims and is never reset either: a worker whose lease lapsed holds an old one.
    `seq` is the place in the queue, taken anew at each entry into `available`; the store assigns it.
    `wake_at` is the next instant at which the clock does something to the job (promotion, lease, timeout, expiry,
    repair of its workflow, removal), whatever the state; None: never. It is the one time index every store keeps.
    """

    id: str
    type: str
    queue: str
    args: Raw
    meta: Raw
    state: JobState
    created_at: int
    priority: int = 0
    attempt: int = 0
    requeues: int = 0
    retry: RetryPolicy = DEFAULT_RETRY_POLICY

    version: int = 0
    fence: int = 0
    seq: int = 0
    wake_at: int | None = None

    enqueued_at: int | None = None
    started_at: int | None = None
    completed_at: int | None = None
    cancelled_at: int | None = None
    discarded_at: int | None = None

    scheduled_at: int | None = None
    expires_at: int | None = None
    timeout_ms: int | None = None
    visibility_timeout_ms: int | None = None

    worker_id: str | None = None
    lease_ms: int | None = None
    lease_expires_at: int | None = None
    timeout_at: int | None = None

    retry_delay_ms: int | None = None
    next_retry_at: int | None = None
    error: JobError | None = None
    errors: tuple[JobError, ...] = ()
    result: MaybeRaw = None
    dead: bool = False
    """Kept in the dead letter list (C-DLQ-01)."""

    fingerprint: str | None = None
    workflow_id: str | None = None
    workflow_step: int | None = None
    """Position among the workflow's members; callbacks come after the last one."""
    advanced: bool = False
    """The workflow has taken note of this terminal job."""
    last_run: bool = False
    """The workflow was cancelled while this job ran: the run may finish, and there will be no other (C-WF-18)."""
    parent_results: MaybeRaw = None

    schema: str | None = None
    tags: tuple[str, ...] | None = None
    as_sent: MaybeRaw = None
    """Object of the client's own spelling of `scheduled_at`, `expires_at`, `retry` and `unique`, echoed verbatim."""
    extra: MaybeRaw = None
    """Object of the unknown top-level attributes, echoed verbatim (C-ENV-21)."""

    @property
    def lease_id(self) -> str:
        """The opaque token of the present claim."""
        return str(self.fence)

    @property
    def ended(self) -> bool:
        """Whether the state is terminal."""
        return self.state in TERMINAL

    @property
    def unnoted(self) -> bool:
        """Whether this is a member that ended and whose workflow may not know yet."""
        return self.ended and self.workflow_id is not None and not self.advanced

    @property
    def failures(self) -> int:
        """Executions that count against the retry policy: a requeue does not (C-OPS-34)."""
        return self.attempt - self.requeues


encode_record = msgspec.json.Encoder().encode
"""Job -> bytes, for stores that keep the record as one value."""

decode_record = msgspec.json.Decoder(Job).decode
"""bytes -> Job; the inverse of `encode_record`."""


def replace_fields(job: Job, **changes: object) -> Job:
    """Return a copy with `changes`."""
    return msgspec.structs.replace(job, **changes)


_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode


def no_longer_sent(as_sent: Raw | None, name: str) -> Raw | None:
    """Return `Job.as_sent` without an attribute that holds no more; it would be shown in the place of what does."""
    if as_sent is None:
        return None
    members = _decode_members(as_sent)
    if members.pop(name, None) is None:
        return as_sent
    return Raw(msgspec.json.encode(members))
