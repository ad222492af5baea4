"""The moves of the model test: what hypothesis draws, and how it becomes a request to a store.

A draw knows nothing of the store; it says "the fourth job" or "an event its state allows", and the situation of the
moment turns that into ids, versions and instants. So a failing sequence shrinks, and replays the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

from ojs_core.backend import (
    BeatRequest,
    ClaimRequest,
    Commit,
    CronWrite,
    Hold,
    JobQuery,
    NewJob,
    Removal,
    WorkflowWrite,
)
from ojs_core.events import EventDraft
from ojs_core.ids import uuid7_named
from ojs_core.job import TERMINAL, Job, JobState
from ojs_core.lifecycle import RELEASED, TRANSITIONS, LifecycleEvent, Transition
from ojs_core.records import CronEntry, Workflow
from ojs_core.testing.clock import DAY, NOW
from ojs_core.testing.factories import (
    make_beat,
    make_claim,
    make_cron,
    make_error,
    make_event,
    make_new,
    make_note,
    make_transition,
    make_workflow,
    raw,
)

QUEUES = ("a", "b", "a.b")
WORKERS = ("w1", "w2")
CRONS = ("c1", "c2")
FLOWS = tuple(uuid7_named(NOW, "flow", name) for name in "xy")
EVENTS = [event for event in TRANSITIONS if event is not LifecycleEvent.CLAIM]


class Situation:
    """What the moves so far have led to, as the reference backend sees it."""

    def __init__(self) -> None:
        self.now = NOW
        self.jobs: list[Job] = []
        self.crons: Mapping[str, CronEntry] = {}
        self.flows: Mapping[str, Workflow] = {}
        self._ids = 0

    def new_id(self) -> str:
        """Return an id never used before; ids of one instant are in no order."""
        self._ids += 1
        return uuid7_named(self.now, "job", str(self._ids))

    def pick(self, number: int) -> Job | None:
        """Return one of the jobs, if there are any."""
        return self.jobs[number % len(self.jobs)] if self.jobs else None


picks = st.integers(0, 50)
rarely = st.sampled_from([False] * 7 + [True])
soon = st.sampled_from([None, None, None, 0, 5, 1000, 60_000])


class Insert(NamedTuple):
    """A job to insert; `taken` picks one whose id it takes."""

    state: JobState
    queue: str
    priority: int
    expires_in: int | None
    mark: str | None
    hold: frozenset[JobState] | None
    since: int | None
    limit: int | None
    member: bool
    taken: int | None

    def build(self, situation: Situation) -> NewJob:
        now = situation.now
        holder = None if self.taken is None else situation.pick(self.taken)
        # An insert that meets two conflicts may report either, so one with a taken id holds nothing.
        hold = None if holder is not None or self.mark is None or self.hold is None else Hold(self.hold, self.since)
        ended: dict[str, Any] = {"wake_at": now + DAY} if self.state in TERMINAL else {}
        return make_new(
            self.state,
            hold=hold,
            max_per_second=self.limit,
            id=situation.new_id() if holder is None else holder.id,
            queue=self.queue,
            priority=self.priority,
            created_at=now,
            scheduled_at=now + 1000 if self.state is JobState.SCHEDULED else None,
            expires_at=None if self.expires_in is None else now + self.expires_in,
            fingerprint=self.mark,
            workflow_id=FLOWS[0] if self.member else None,
            **ended,
        )


inserts = st.builds(
    Insert,
    state=st.sampled_from([JobState.AVAILABLE] * 4 + [JobState.SCHEDULED, JobState.PENDING, JobState.CANCELLED]),
    queue=st.sampled_from(QUEUES),
    priority=st.sampled_from([0, 0, 0, 1, -1, 100, -100]),
    expires_in=soon,
    mark=st.sampled_from([None, "0" * 64, "1" * 64]),
    hold=st.none() | st.frozensets(st.sampled_from(list(JobState)), min_size=1),
    since=st.sampled_from([None, NOW - 1, NOW, NOW + 1000]),
    limit=st.sampled_from([None] * 6 + [1, 3]),
    member=rarely,
    taken=st.sampled_from([None] * 7) | picks,
)


class Swap(NamedTuple):
    """A swap of a job, mostly one that its state allows; `wrong` spoils a part of the guard."""

    job: int
    allowed: bool
    event: int
    guarded: bool
    wrong: str | None
    wake_in: int | None
    queue: str

    def build(self, situation: Situation) -> Transition | None:
        job = situation.pick(self.job)
        return None if job is None else self.of(job, situation)

    def of(self, job: Job, situation: Situation) -> Transition:
        """Return the swap of this very job."""
        now = situation.now
        events = [event for event in EVENTS if job.state in TRANSITIONS[event][0]] if self.allowed else EVENTS
        if not events:
            return make_note(job, at=now, member_wake_at=now + DAY)
        event = events[self.event % len(events)]
        guard: dict[str, Any] = {}
        if self.guarded:
            guard = {"version": job.version, "fence": job.fence, "worker_id": job.worker_id}
        if self.wrong is not None:
            guard[self.wrong] = {"version": job.version + 1, "fence": job.fence - 1, "worker_id": "nobody"}[self.wrong]
        failed = event in (LifecycleEvent.RETRY, LifecycleEvent.DISCARD, LifecycleEvent.LAPSE)
        return make_transition(
            event,
            job.id,
            at=now,
            changes=_changes(event, now, self.queue),
            error=make_error(f"Error{job.attempt}", attempt=job.attempt, occurred_at=now) if failed else None,
            events=(EventDraft(f"job.{event.value}"), *((EventDraft("job.failed"),) if failed else ())),
            wake_at=None if self.wake_in is None else now + self.wake_in,
            member_wake_at=now + 1000,
            **guard,
        )


def _changes(event: LifecycleEvent, now: int, queue: str) -> dict[str, Any]:
    match event:
        case LifecycleEvent.ACK:
            return {**RELEASED, "completed_at": now, "error": None, "result": raw({"at": now})}
        case LifecycleEvent.DISCARD:
            return {**RELEASED, "discarded_at": now, "dead": now % 2 == 0}
        case LifecycleEvent.EXPIRE:
            return {"discarded_at": now}
        case LifecycleEvent.CANCEL:
            return {**RELEASED, "cancelled_at": now}
        case LifecycleEvent.RETRY:
            return {**RELEASED, "next_retry_at": now + 1000, "retry_delay_ms": 1000}
        case LifecycleEvent.LAPSE | LifecycleEvent.REQUEUE:
            return {**RELEASED, "started_at": None, "enqueued_at": now}
        case LifecycleEvent.REVIVE:
            return {"attempt": 0, "dead": False, "error": None, "expires_at": None, "queue": queue, "enqueued_at": now}
        case _:
            return {"enqueued_at": now}


swaps = st.builds(
    Swap,
    job=picks,
    allowed=st.sampled_from([True] * 5 + [False]),
    event=picks,
    guarded=st.booleans(),
    wrong=st.sampled_from([None] * 8 + ["version", "fence", "worker_id"]),
    wake_in=soon,
    queue=st.sampled_from(QUEUES),
)


_BY_CLOCK = {
    JobState.SCHEDULED: LifecycleEvent.PROMOTE,
    JobState.RETRYABLE: LifecycleEvent.PROMOTE,
    JobState.ACTIVE: LifecycleEvent.LAPSE,
    JobState.AVAILABLE: LifecycleEvent.EXPIRE,
    JobState.PENDING: LifecycleEvent.EXPIRE,
}


def sweep(job: Job, now: int, wake_in: int | None) -> Transition:
    """Return what the clock does to a due job; `wake_in` is when it does so again."""
    event = _BY_CLOCK.get(job.state)
    if event is None:
        return make_note(job, at=now, member_wake_at=now + DAY)
    wake_at = None if wake_in is None else now + wake_in
    changes = _changes(event, now, job.queue)
    return make_transition(event, job.id, at=now, version=job.version, changes=changes, wake_at=wake_at)


def population(situation: Situation) -> list[tuple[list[Commit], list[ClaimRequest]]]:
    """Return commits and claims, in turn, that leave a few jobs in every state."""

    def some(queue: str, *states: JobState, **fields: Any) -> Commit:
        return Commit(inserts=tuple(make_new(state, id=situation.new_id(), queue=queue, **fields) for state in states))

    ready = JobState.AVAILABLE
    first = [some("a", *[ready] * 6), some("b", *[ready] * 2, fingerprint="0" * 64, hold=None)]
    jobs = [new.job for commit in first for new in commit.inserts]
    ends = (LifecycleEvent.ACK, LifecycleEvent.RETRY, LifecycleEvent.DISCARD, LifecycleEvent.CANCEL)
    swaps = [
        make_transition(
            event,
            job.id,
            at=NOW,
            changes=_changes(event, NOW, job.queue),
            wake_at=NOW + 1000,
            error=None if event is LifecycleEvent.ACK else make_error("Error1"),
        )
        for event, job in zip(ends, jobs, strict=False)
    ]
    return [
        (first, [make_claim("a", count=3, worker_id="w1"), make_claim("a", "b", count=4, worker_id="w2")]),
        ([Commit(transitions=(swap,)) for swap in swaps], [make_claim("never-seen", worker_id="w1")]),
        (
            [
                some("a", ready, ready, JobState.PENDING, JobState.SCHEDULED, expires_at=NOW + 1500),
                some("b", ready, ready, priority=1, max_per_second=3),
                some("a.b", ready, ready, workflow_id=FLOWS[0]),
                Commit(cron=CronWrite(CRONS[0], make_cron(CRONS[0]), 0)),
                Commit(workflows=(WorkflowWrite(FLOWS[0], make_workflow(id=FLOWS[0], wake_at=NOW), 0),)),
            ],
            [make_claim("a.b")],
        ),
    ]


class Write(NamedTuple):
    """A commit of any parts. `removal`, `cron` and `flow` pick a target; `stale` expects another version of it."""

    inserts: Sequence[Insert]
    swaps: Sequence[Swap]
    removal: int | None
    cron: int | None
    flow: int | None
    stale: bool
    delete: bool
    logs: bool

    def build(self, situation: Situation) -> Commit:
        now = situation.now
        transitions: dict[str, Transition] = {}
        for swap in self.swaps:
            transition = swap.build(situation)
            if transition is not None:
                transitions[transition.job_id] = transition
        removed = None if self.removal is None else situation.pick(self.removal)
        removals: tuple[Removal, ...] = ()
        if removed is not None and removed.id not in transitions:
            removals = (Removal(removed.id, removed.version + self.stale),)
        cron = None
        if self.cron is not None:
            name = CRONS[self.cron % len(CRONS)]
            known = situation.crons.get(name)
            entry = None if self.delete else make_cron(name, created_at=now, wake_at=now + 1000 * self.cron)
            cron = CronWrite(name, entry, (0 if known is None else known.version) + self.stale)
        flows: tuple[WorkflowWrite, ...] = ()
        if self.flow is not None:
            flow_id = FLOWS[self.flow % len(FLOWS)]
            stored = situation.flows.get(flow_id)
            flow = None if self.delete else make_workflow(id=flow_id, wake_at=now + 500 * self.flow, created_at=now)
            flows = (WorkflowWrite(flow_id, flow, (0 if stored is None else stored.version) + self.stale),)
        return Commit(
            inserts=tuple(insert.build(situation) for insert in self.inserts),
            transitions=tuple(transitions.values()),
            removals=removals,
            workflows=flows,
            cron=cron,
            events=(make_event("workflow.started", at=now, subject="flow"),) if self.logs else (),
        )


writes = st.builds(
    Write,
    inserts=st.lists(inserts, max_size=3),
    swaps=st.lists(swaps, max_size=2),
    removal=st.sampled_from([None] * 5) | picks,
    cron=st.sampled_from([None] * 3) | picks,
    flow=st.sampled_from([None] * 3) | picks,
    stale=rarely,
    delete=rarely,
    logs=rarely,
)


class Claim(NamedTuple):
    """A claim; queues may repeat."""

    queues: Sequence[str]
    size: int
    worker_id: str | None
    lease_ms: int | None

    def build(self, situation: Situation) -> ClaimRequest:
        return make_claim(
            *self.queues, count=self.size, now=situation.now, worker_id=self.worker_id, lease_ms=self.lease_ms
        )


claims = st.builds(
    Claim,
    queues=st.lists(st.sampled_from((*QUEUES, "never-seen")), min_size=1, max_size=4),
    size=st.sampled_from([1, 1, 2, 5]),
    worker_id=st.sampled_from([None, *WORKERS]),
    lease_ms=st.sampled_from([None, None, 10, 5000]),
)


class Beat(NamedTuple):
    """A heartbeat that names some jobs."""

    worker_id: str
    jobs: Sequence[int]
    lease_ms: int | None

    def build(self, situation: Situation) -> BeatRequest:
        named = [job.id for number in self.jobs if (job := situation.pick(number)) is not None]
        return make_beat(self.worker_id, *named, "no-such-job", now=situation.now, lease_ms=self.lease_ms)


beats = st.builds(
    Beat,
    worker_id=st.sampled_from(WORKERS),
    jobs=st.lists(picks, max_size=4),
    lease_ms=st.sampled_from([None, None, 10, 5000]),
)

queries = st.builds(
    JobQuery,
    states=st.none() | st.frozensets(st.sampled_from(list(JobState))),
    queue=st.sampled_from([None, None, *QUEUES]),
    dead=st.sampled_from([None, None, True, False]),
    error_type=st.sampled_from([None, None, None, "Error1"]),
    worker_id=st.sampled_from([None, None, *WORKERS]),
    limit=st.integers(1, 5),
)
