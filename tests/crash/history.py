"""What clients saw of a server that was killed now and then, and whether that can be true of one that never lies."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import apsw

ENDED = {"completed", "cancelled", "discarded"}
SECOND_MS = 1000


def to_ms(text: str) -> int:
    """Return a time of the wire in ms."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@dataclass
class Delivery:
    """A job as a fetch handed it out."""

    job_id: str
    attempt: int
    fence: int
    lease_until: int
    given_back: bool = False
    """An ack or nack of it was sent; from then on somebody else may have the job."""
    acked: bool = False
    """An ack of it was answered with 200."""


@dataclass
class WorkflowSent:
    """A workflow that was sent off: the tokens of its jobs, and which must have ended before which begin."""

    tokens: list[str]
    order: list[tuple[str, str]]
    id: str | None = None
    """None: the answer never came."""
    cancelled: bool = False
    """Its cancellation was asked for."""


@dataclass
class History:
    """All that clients learnt. Appending to a list, or adding to a set, is safe in any thread."""

    accepted: set[str] = field(default_factory=set)
    batches: list[tuple[list[str], bool]] = field(default_factory=list)
    uniques: set[str] = field(default_factory=set)
    workflows: list[WorkflowSent] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    lost_fetches: list[int] = field(default_factory=list)
    """How many jobs each fetch asked for whose answer never came."""
    unknown: list[str] = field(default_factory=list)
    """Requests whose answer never came, or was a 503."""
    surprises: list[str] = field(default_factory=list)


@dataclass
class Store:
    """What there is in the end: the file, and what the server says of it."""

    jobs: dict[str, dict[str, Any]]
    workflows: dict[str, dict[str, Any]]
    counted: dict[tuple[str, str], int]
    integrity: str
    events: list[dict[str, Any]]
    stats: dict[str, dict[str, int]]

    @classmethod
    def read(cls, path: Path, events: list[dict[str, Any]], stats: dict[str, dict[str, int]]) -> Store:
        """Read the file of a server that has stopped."""
        connection = apsw.Connection(str(path))
        try:
            return cls(
                jobs={row[0]: json.loads(row[1]) for row in connection.execute("SELECT id, record FROM jobs")},
                workflows={
                    row[0]: json.loads(row[1]) for row in connection.execute("SELECT id, record FROM workflows")
                },
                counted={
                    (queue, state): jobs
                    for queue, state, jobs in connection.execute("SELECT queue, state, jobs FROM counts WHERE jobs > 0")
                },
                integrity=connection.pragma("integrity_check"),
                events=events,
                stats=stats,
            )
        finally:
            connection.close()


def violations(history: History, store: Store) -> list[str]:
    """Return every sentence of the guarantees that does not hold, with the case against it."""
    check = _Check(history, store)
    return [
        *history.surprises,
        *check.accepted_jobs(),
        *check.batches(),
        *check.tokens(),
        *check.log(),
        *check.deliveries(),
        *check.workflows(),
        *check.crons(),
        *check.counters(),
    ]


class _Check:
    def __init__(self, history: History, store: Store) -> None:
        self.history = history
        self.store = store
        self.by_token: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for job in store.jobs.values():
            if "cron_name" not in job["meta"]:
                self.by_token[job["args"][0]].append(job)
        self.moments: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        """By job and type of event: where in the log."""
        for place, event in enumerate(store.events):
            self.moments[event["subject"]][event["type"]].append(place)

    def ends(self, job_id: str) -> list[int]:
        """Return where in the log a job ended; once, if all is well."""
        return sorted(place for name in ENDED for place in self.moments[job_id][f"job.{name}"])

    def accepted_jobs(self) -> Iterator[str]:
        jobs = self.store.jobs
        yield from (f"accepted, and gone: {job_id}" for job_id in self.history.accepted if job_id not in jobs)
        yield from (f"never ended: {job}" for job in jobs.values() if job["state"] not in ENDED)
        for job_id in self.history.cancelled:
            if jobs[job_id]["state"] != "cancelled":
                yield f"cancelled, and yet {jobs[job_id]['state']}: {job_id}"

    def batches(self) -> Iterator[str]:
        for ids, answered in self.history.batches:
            there = sum(job_id in self.store.jobs for job_id in ids)
            if there not in ({len(ids)} if answered else {0, len(ids)}):
                yield f"{there} of {len(ids)} jobs of a batch: {ids}"

    def tokens(self) -> Iterator[str]:
        yield from (f"{len(jobs)} jobs of {token}" for token, jobs in self.by_token.items() if len(jobs) > 1)
        yield from (f"unique, and gone: {token}" for token in self.history.uniques if token not in self.by_token)

    def log(self) -> Iterator[str]:
        """Check each job's events against its record: attempts rise by one, and nothing follows the end."""
        for job_id, job in self.store.jobs.items():
            moments = self.moments[job_id]
            started = moments["job.started"]
            attempts = [self.store.events[place]["data"]["attempt"] for place in started]
            if attempts != list(range(1, job.get("fence", 0) + 1)) or len(attempts) != job.get("attempt", 0):
                yield f"attempts {attempts} of {job}"
            ends = self.ends(job_id)
            if len(ends) != 1 or (started and started[-1] > ends[0]):
                yield f"ended {len(ends)} times, or went on after that: {job}"
        seen = Counter(delivery.job_id for delivery in self.history.deliveries)
        unseen = sum(job.get("fence", 0) - seen[job_id] for job_id, job in self.store.jobs.items())
        if self.history.deliveries and unseen > sum(self.history.lost_fetches):
            yield f"{unseen} claims went to nobody, with {self.history.lost_fetches} jobs asked for in vain"

    def deliveries(self) -> Iterator[str]:
        lapses = {
            (event["subject"], event["data"]["attempt"]): to_ms(event["time"])
            for event in self.store.events
            if event["data"].get("error", {}).get("type") == "visibility_timeout"
        }
        by_job: dict[str, list[Delivery]] = defaultdict(list)
        for delivery in sorted(self.history.deliveries, key=lambda delivery: delivery.fence):
            by_job[delivery.job_id].append(delivery)
        for job_id, deliveries in by_job.items():
            job = self.store.jobs[job_id]
            for delivery in deliveries:
                if delivery.attempt != delivery.fence:
                    yield f"attempt and claims differ: {delivery}"
                if delivery.acked and (job["state"] != "completed" or job["result"] != {"fence": delivery.fence}):
                    yield f"acknowledged, and yet not completed by that: {delivery} {job}"
                if delivery.acked and delivery.fence != job["fence"]:
                    yield f"delivered again after its acknowledgement: {delivery} {job}"
            for before, after in pairwise(deliveries):
                if before.fence == after.fence:
                    yield f"delivered twice: {before} {after}"
                lapsed_at = lapses.get((job_id, before.attempt), 0)
                # Not the start of the next: a claim is of the time at which it was asked for, not answered.
                if not before.given_back and lapsed_at < before.lease_until:
                    yield f"two leases at a time, the first until {lapsed_at}: {before} {after}"

    def workflows(self) -> Iterator[str]:
        records = self.store.workflows
        for record in records.values():
            if record.get("state", "running") == "running":
                yield f"a workflow never ended: {record}"
        for sent in self.history.workflows:
            jobs = {token: self.by_token[token] for token in sent.tokens}
            if sent.id is None and not any(jobs.values()):
                continue
            if sent.id is not None and sent.id not in records:
                yield f"accepted, and gone: {sent}"
            ids = {job["workflow_id"] for found in jobs.values() for job in found}
            states = {records[workflow_id].get("state") for workflow_id in ids}
            if not states <= ({"completed", "cancelled"} if sent.cancelled else {"completed"}):
                yield f"{states}, although whatever failed had a callback: {sent}"
            if not sent.cancelled and not all(jobs.values()):
                yield f"steps that never came: {sent}"
            for before, after in sent.order:
                ended = [place for job in jobs[before] for place in self.ends(job["id"])]
                enqueued = [place for job in jobs[after] for place in self.moments[job["id"]]["job.enqueued"][:1]]
                if enqueued and not (ended and ended[0] < enqueued[0]):
                    yield f"{after} began before {before} had ended: {sent}"
            stopped = self.moments[sent.id or ""]["workflow.cancelled"]
            for found in jobs.values():
                for job in found:
                    if stopped and self.moments[job["id"]]["job.enqueued"][0] > stopped[0]:
                        yield f"enqueued after the workflow was cancelled: {job}"
        wanted = {token for sent in self.history.workflows for token in sent.tokens}
        for token, jobs in self.by_token.items():
            if any("workflow_id" in job for job in jobs) and token not in wanted:
                yield f"a callback that should not have run: {token}"

    def crons(self) -> Iterator[str]:
        """Check that each slot fired once; those that passed while nobody could fire them are made up for by one."""
        fired: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for event in self.store.events:
            if event["type"] == "cron.triggered":
                fired[event["subject"]].append(event["data"])
        for name, firings in fired.items():
            due = None
            for count, firing in enumerate(firings, 1):
                slot, actual = to_ms(firing["scheduled_at"]), to_ms(firing["actual_time"])
                if slot != (due or slot) or actual < slot or firing["run_count"] != count:
                    yield f"{name}: {due} was the next slot, not {firing}"
                due = max(slot, actual // SECOND_MS * SECOND_MS) + SECOND_MS
            made = {job["id"] for job in self.store.jobs.values() if job["meta"].get("cron_name") == name}
            if made != {firing["job_id"] for firing in firings} or len(made) != len(firings):
                yield f"{name}: {len(firings)} firings made {len(made)} jobs"

    def counters(self) -> Iterator[str]:
        if self.store.integrity != "ok":
            yield self.store.integrity
        listed = Counter((job["queue"], job["state"]) for job in self.store.jobs.values())
        if self.store.counted != listed:
            yield f"counted {self.store.counted}, listed {listed}"
        said = {
            (queue, state): jobs
            for queue, states in self.store.stats.items()
            for state, jobs in states.items()
            if jobs and state != "total"
        }
        if said != listed:
            yield f"said {said}, listed {listed}"


def summary(history: History, store: Store) -> str:
    """Return the numbers of a run."""
    states = Counter(job["state"] for job in store.jobs.values())
    lapses = sum(event["data"].get("error", {}).get("type") == "visibility_timeout" for event in store.events)
    lateness = [
        to_ms(event["data"]["actual_time"]) - to_ms(event["data"]["scheduled_at"])
        for event in store.events
        if event["type"] == "cron.triggered"
    ]
    return (
        f"{len(store.jobs)} jobs {dict(states)}, {len(store.workflows)} workflows, {len(history.batches)} batches, "
        f"{len(history.uniques)} unique keys; {len(history.deliveries)} deliveries, {lapses} lapsed leases, "
        f"{sum(delivery.acked for delivery in history.deliveries)} acks answered, {len(history.cancelled)} cancelled; "
        f"{len(history.unknown)} unknown outcomes; {len(lateness)} cron slots fired, "
        f"the latest {max(lateness, default=0)} ms late; {len(store.events)} events"
    )
