"""Valid records, each with what a test cares about overridden and the rest filled in.

Ids are made by counting, so that of two jobs of one instant the later has the greater id.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import msgspec
from msgspec import Raw

from ojs_core.backend import BeatRequest, ClaimRequest, Hold, NewJob
from ojs_core.events import Event, EventDraft
from ojs_core.job import Job, JobError, JobState
from ojs_core.lifecycle import TRANSITIONS, LifecycleEvent, Transition, earliest
from ojs_core.records import CronEntry, Member, Worker, Workflow
from ojs_core.testing.clock import HOUR, MINUTE, NOW

LEASE_MS = 30 * MINUTE
TIMEOUT_MS = 40 * MINUTE
"""The defaults `make_claim` asks for; they differ, so that a mix-up shows."""

_numbers = count(1)


def raw(value: object) -> Raw:
    """Return a value as JSON text."""
    return Raw(msgspec.json.encode(value))


def make_id(at: int = NOW) -> str:
    """Return a UUIDv7, greater than every one made before for the same or an earlier instant."""
    number = next(_numbers)
    return f"{at >> 16:08x}-{at & 0xFFFF:04x}-7000-8{number >> 48:03x}-{number & 0xFFFF_FFFF_FFFF:012x}"


def _over(fields: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    return {**defaults, **fields}


def make_job(state: JobState = JobState.AVAILABLE, **fields: Any) -> Job:
    """Return a job as core would insert it; `state` is its first one.

    A scheduled job is due an hour after its creation unless `scheduled_at` says otherwise, and `wake_at` follows.
    """
    created_at = fields.setdefault("created_at", NOW)
    scheduled_at = fields.get("scheduled_at")
    if state is JobState.SCHEDULED and scheduled_at is None:
        scheduled_at = created_at + HOUR
    return Job(
        **_over(
            fields,
            id=make_id(created_at),
            type="test.job",
            queue="default",
            args=Raw(b"[]"),
            meta=Raw(b"{}"),
            state=state,
            scheduled_at=scheduled_at,
            enqueued_at=created_at if state is JobState.AVAILABLE else None,
            wake_at=earliest(scheduled_at if state is JobState.SCHEDULED else None, fields.get("expires_at")),
        )
    )


def make_new(
    state: JobState = JobState.AVAILABLE,
    *,
    hold: Hold | None = None,
    one_queue: bool = False,
    max_per_second: int | None = None,
    events: tuple[EventDraft, ...] | None = None,
    **fields: Any,
) -> NewJob:
    """Return an insert of `make_job`, by default with the event core gives it."""
    if events is None:
        name = {JobState.AVAILABLE: "job.enqueued", JobState.SCHEDULED: "job.scheduled"}.get(state)
        events = () if name is None else (EventDraft(name),)
    job = make_job(state, **fields)
    return NewJob(job=job, hold=hold, one_queue=one_queue, max_per_second=max_per_second, events=events)


def make_hold(*states: JobState, since: int | None = None) -> Hold:
    """Return a hold against jobs in `states`, by default in any that has not ended."""
    default = (JobState.AVAILABLE, JobState.ACTIVE, JobState.SCHEDULED, JobState.RETRYABLE, JobState.PENDING)
    return Hold(frozenset(states or default), since)


def make_unique(
    fingerprint: str = "f" * 64,
    *states: JobState,
    since: int | None = None,
    **fields: Any,
) -> NewJob:
    """Return an insert with a hold on `fingerprint` against jobs in `states`."""
    return make_new(hold=make_hold(*states, since=since), fingerprint=fingerprint, **fields)


def make_transition(
    event: LifecycleEvent,
    job_id: str,
    *,
    at: int = NOW,
    changes: Mapping[str, Any] | None = None,
    **rest: Any,
) -> Transition:
    """Return the swap of an event of the table, guarded by the states of the table alone."""
    expected, to = TRANSITIONS[event]
    return Transition(
        **_over(
            rest,
            job_id=job_id,
            event=event,
            to=to,
            at=at,
            expected=expected,
            changes={} if changes is None else dict(changes),
        )
    )


def make_note(job: Job, *, at: int = NOW, member_wake_at: int | None = None) -> Transition:
    """Return the swap by which a workflow takes note that its member ended: the state stays."""
    return Transition(
        job_id=job.id,
        event=LifecycleEvent.NOTE,
        to=job.state,
        at=at,
        expected=frozenset({job.state}),
        version=job.version,
        changes={"advanced": True},
        member_wake_at=member_wake_at,
    )


def make_claim(*queues: str, **fields: Any) -> ClaimRequest:
    """Return a claim of one job of `queues` (`default`)."""
    return ClaimRequest(
        **_over(
            fields,
            queues=queues or ("default",),
            count=1,
            now=NOW,
            default_lease_ms=LEASE_MS,
            default_timeout_ms=TIMEOUT_MS,
        )
    )


def make_worker(worker_id: str = "worker-1", **fields: Any) -> Worker:
    """Return the report of a worker."""
    return Worker(**{"id": worker_id, "first_seen_at": NOW, "last_seen_at": NOW, **fields})


def make_beat(
    worker_id: str = "worker-1",
    *job_ids: str,
    now: int = NOW,
    lease_ms: int | None = None,
    **fields: Any,
) -> BeatRequest:
    """Return a heartbeat that names `job_ids`."""
    worker = make_worker(worker_id, **fields)
    return BeatRequest(worker=worker, job_ids=job_ids, now=now, lease_ms=lease_ms)


def make_error(error_type: str = "TestError", **fields: Any) -> JobError:
    """Return one failure."""
    return JobError(
        **_over(
            fields,
            type=error_type,
            code="handler_error",
            message="It failed.",
            attempt=1,
            occurred_at=NOW,
        )
    )


def make_cron(name: str = "nightly", **fields: Any) -> CronEntry:
    """Return a cron entry, due a minute from the beginning."""
    return CronEntry(
        **_over(
            fields,
            name=name,
            expression="* * * * *",
            timezone="UTC",
            job=Raw(b'{"type":"test.job","args":[]}'),
            created_at=NOW,
            wake_at=NOW + MINUTE,
            next_run_at=NOW + MINUTE,
        )
    )


def make_workflow(**fields: Any) -> Workflow:
    """Return a running chain of two steps."""
    step = Raw(b'{"type":"test.step","args":[]}')
    return Workflow(
        **_over(
            fields,
            id=make_id(fields.get("created_at", NOW)),
            kind="chain",
            members=(
                Member(id="step-0", type="test.step", definition=step),
                Member(id="step-1", type="test.step", definition=step, depends_on=(0,)),
            ),
            created_at=NOW,
            job_count=2,
        )
    )


def make_event(event_type: str = "worker.stopped", **fields: Any) -> Event:
    """Return an event that is not about a job."""
    return Event(**{"type": event_type, "at": NOW, "subject": "worker-1", "data": Raw(b"{}"), **fields})
