"""`commit`: a group of commits becomes the arguments of one call, and its rows become their answers.

The database checks and applies; see `migrations/0004_commit.sql`. What depends on the commits alone is decided here:
which of them may share a call, and which inserts of one commit are in each other's way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from ojs_backend_postgres.rows import NEVER, Row, columns_of, drafts_of, job_of, settings_of, to_text
from ojs_core.backend import Change, Commit, Committed, Conflict, CronWrite, NewJob, Refused, WorkflowWrite
from ojs_core.events import Event
from ojs_core.job import Job, JobState, replace_fields
from ojs_core.lifecycle import Transition
from ojs_core.records import encode

LOCKS_MAX = 1000
"""Fingerprints locked by one call, unless a single commit has more. Locks take room that the whole database shares."""
PARTS_MAX = 5000
"""Jobs inserted, swapped or removed by one call, unless a single commit has more: a call must end in time."""
BYTES_MAX = 32 * 1024 * 1024
"""Arguments inserted by one call, unless a single commit has more: PostgreSQL takes a gigabyte at most."""
_STATES = {state.value: state for state in JobState}
_encode = msgspec.json.Encoder().encode


def split(commits: Sequence[Commit]) -> Iterator[Sequence[Commit]]:
    """Yield the commits in groups that may share a call: no two touch the same job, fingerprint or record.

    A commit that both holds and swaps ends its group: whether its swaps happen depends on its holds, and a later hold
    would depend on that.
    """
    if len(commits) == 1:
        yield commits
        return
    begin = 0
    group = _Group()
    for place, commit in enumerate(commits):
        extent = _extent_of(commit)
        if place > begin and not group.takes(extent):
            yield commits[begin:place]
            begin, group = place, _Group()
        group.add(extent)
        if extent.locks and (commit.transitions or commit.removals):
            yield commits[begin : place + 1]
            begin, group = place + 1, _Group()
    if begin < len(commits):
        yield commits[begin:]


class _Extent(NamedTuple):
    """What a commit touches, and how much it is."""

    keys: Sequence[object]
    locks: int
    parts: int
    bytes: int


class _Group:
    """What the commits of one call touch, and how much it is."""

    def __init__(self) -> None:
        self._touched: set[object] = set()
        self._locks = self._parts = self._bytes = 0

    def takes(self, extent: _Extent) -> bool:
        """Return whether another commit may join."""
        return (
            self._parts + extent.parts <= PARTS_MAX
            and self._locks + extent.locks <= LOCKS_MAX
            and self._bytes + extent.bytes <= BYTES_MAX
            and self._touched.isdisjoint(extent.keys)
        )

    def add(self, extent: _Extent) -> None:
        """Take a commit in."""
        self._touched.update(extent.keys)
        self._parts += extent.parts
        self._locks += extent.locks
        self._bytes += extent.bytes


def _extent_of(commit: Commit) -> _Extent:
    keys: list[object] = []
    locks = size = 0
    for new in commit.inserts:
        job = new.job
        keys.append(job.id)
        size += len(bytes(job.args))
        if job.fingerprint is not None:
            keys.append(("fingerprint", job.fingerprint))
            locks += 1
    if commit.transitions:
        keys += [transition.job_id for transition in commit.transitions]
    if commit.removals:
        keys += [removal.job_id for removal in commit.removals]
    if commit.workflows:
        keys += [("workflow", write.workflow_id) for write in commit.workflows]
    if commit.cron is not None:
        keys.append(("cron", commit.cron.name))
    return _Extent(keys, locks, len(commit.inserts) + len(commit.transitions) + len(commit.removals), size)


class Call:
    """One call of the database function `commit`, and what it answers. `woken`: queues that got available jobs."""

    def __init__(self, commits: Sequence[Commit], schema: str) -> None:
        self.woken: set[str] = set()
        self._commits = commits
        self._schema = schema
        self._entering = 0
        # Of each commit, which of the places taken by this call each insert gets; None: it does not enter a queue.
        self._places: list[list[int | None]] = []
        self._new_jobs: list[tuple[Any, ...]] = []
        self._swaps: list[tuple[Any, ...]] = []
        self._removals: list[tuple[Any, ...]] = []
        self._workflows: list[tuple[Any, ...]] = []
        self._crons: list[tuple[Any, ...]] = []
        self._notes: list[tuple[Any, ...]] = []
        self._locks: set[int] = set()
        self._doomed: list[int] = []
        for c, commit in enumerate(commits):
            self._add(c, commit)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What to call the function with."""
        return (
            self._new_jobs,
            self._swaps,
            self._removals,
            self._workflows,
            self._crons,
            self._notes,
            sorted(self._locks),
            self._doomed,
            self._entering,
        )

    def _add(self, c: int, commit: Commit) -> None:
        # Transitions first: in the order of one commit they enter the queue before what it inserts.
        # Most commits are one insert or one swap, so that what is not there is not gone through.
        for i, transition in enumerate(commit.transitions):
            self._swaps.append(self._swap(c, i, transition))
        if commit.removals:
            self._removals += [(c, i, removal.job_id, removal.version) for i, removal in enumerate(commit.removals)]
        self._places.append([self._insert(c, i, new) for i, new in enumerate(commit.inserts)])
        if len(commit.inserts) > 1 and any(_in_the_way(commit.inserts)):
            self._doomed.append(c)
        if commit.workflows:
            self._workflows += [_put_workflow(c, i, write) for i, write in enumerate(commit.workflows)]
        if commit.cron is not None:
            self._crons.append(_put_cron(c, commit.cron))
        if commit.events:
            self._notes += [(c, *note_of(event)) for event in commit.events]

    def _enter(self, state: JobState) -> int | None:
        if state is not JobState.AVAILABLE:
            return None
        self._entering += 1
        return self._entering

    def _insert(self, c: int, i: int, new: NewJob) -> int | None:
        place = self._enter(new.job.state)
        row, lock = new_job_row(c, i, place, new, self._schema)
        self._new_jobs.append(row)
        if lock is not None:
            self._locks.add(lock)
        return place

    def _swap(self, c: int, i: int, swap: Transition) -> tuple[Any, ...]:
        patch, sets, values = settings_of(swap.changes)
        return (
            c,
            i,
            self._enter(swap.to),
            to_text(swap.job_id),
            " ".join(swap.expected),
            swap.version,
            None if swap.worker_id is None else to_text(swap.worker_id),
            swap.fence,
            swap.to,
            swap.at,
            swap.wake_at,
            swap.member_wake_at,
            drafts_of(swap.events),
            patch,
            None if swap.error is None else _encode(swap.error),
            sets,
            *values,
        )

    def answers(self, rows: Iterable[Row]) -> list[Committed | Refused]:
        """Return the answer of each commit, from the rows of the call."""
        places: Sequence[int] = ()
        conflicts: dict[int, list[Conflict]] = {}
        changes: dict[tuple[int, int], Change] = {}
        for row in rows:
            match row["part"]:
                case "changed":
                    changes[row["c"], row["i"]] = Change(job_of(row), _STATES[row["was"]])
                case "places":
                    places = row["places"]
                case _:
                    job = None if row["id"] is None else job_of(row)
                    conflicts.setdefault(row["c"], []).append(Conflict(kind=row["kind"], index=row["i"], job=job))
        for c in self._doomed:
            found = conflicts.setdefault(c, [])
            met = {conflict.index for conflict in found if conflict.kind in ("id", "hold")}
            found += _conflicts_within(self._commits[c].inserts, met)
        return [self._answer(c, commit, conflicts.get(c), changes, places) for c, commit in enumerate(self._commits)]

    def _answer(
        self,
        c: int,
        commit: Commit,
        conflicts: Sequence[Conflict] | None,
        changes: Mapping[tuple[int, int], Change],
        places: Sequence[int],
    ) -> Committed | Refused:
        if conflicts:
            return Refused(tuple(sorted(conflicts, key=lambda conflict: conflict.index)))
        inserted: list[Job] = []
        for new, place in zip(commit.inserts, self._places[c], strict=True):
            job = new.job
            if place is None:
                inserted.append(replace_fields(job, version=1))
            else:
                inserted.append(replace_fields(job, version=1, seq=places[place - 1]))
                self.woken.add(job.queue)
        changed = tuple([changes[c, i] for i in range(len(commit.transitions))])
        if changed:
            self.woken.update(change.job.queue for change in changed if change.job.state is JobState.AVAILABLE)
        return Committed(inserted=tuple(inserted), changed=changed)


def new_job_row(c: int, i: int, place: int | None, new: NewJob, schema: str) -> tuple[tuple[Any, ...], int | None]:
    """Return a row of `new_job`, and the key of the lock on its fingerprint, if it has one.

    Args:
        c: number of its commit in the call.
        i: its place in the commit.
        place: which of the places taken by the call is its own, if it becomes available.
        new: the job.
        schema: keeps the locks of several schemas of one database apart.
    """
    job, hold = new.job, new.hold
    lock = None if job.fingerprint is None else lock_of(job.fingerprint, schema)
    row = (
        c,
        i,
        place,
        *columns_of(job),
        None if hold is None else " ".join(hold.states),
        None if hold is None else -NEVER if hold.since is None else hold.since,
        new.max_per_second,
        drafts_of(new.events),
    )
    return row, lock


def lock_of(fingerprint: str, schema: str) -> int:
    """Return the key of the lock on a fingerprint; `enqueue` in the database computes it too."""
    return int.from_bytes(sha256(f"{schema}:{fingerprint}".encode()).digest()[:8], "big", signed=True)


def _in_the_way(inserts: Sequence[NewJob]) -> Iterator[bool]:
    """Yield, for each insert, whether one before it has its id or refuses it."""
    ids: set[str] = set()
    prints: dict[str, list[Job]] = {}
    for new in inserts:
        job = new.job
        met = prints.setdefault(job.fingerprint, []) if job.fingerprint is not None else []
        yield job.id in ids or (new.hold is not None and any(map(new.hold.forbids, met)))
        ids.add(job.id)
        met.append(job)


def _conflicts_within(inserts: Sequence[NewJob], met: set[int]) -> Iterator[Conflict]:
    """Yield the conflicts of inserts with earlier ones of the same commit; `met`: those refused by what is stored."""
    standing: list[Job] = []
    for i, new in enumerate(inserts):
        if i in met:
            continue
        same = next((job for job in standing if job.id == new.job.id), None)
        alike = (job for job in standing if job.fingerprint == new.job.fingerprint)
        holder = next(filter(new.hold.forbids, alike), None) if new.hold is not None else None
        if same is not None:
            yield Conflict(kind="id", index=i, job=same)
        elif holder is not None:
            yield Conflict(kind="hold", index=i, job=holder)
        else:
            standing.append(new.job)


def _put_workflow(c: int, i: int, write: WorkflowWrite) -> tuple[Any, ...]:
    version, record = write.expected_version, write.workflow
    if record is None:
        return (c, i, write.workflow_id, version, None, None)
    encoded = encode(msgspec.structs.replace(record, version=version + 1))
    return (c, i, write.workflow_id, version, record.wake_at, encoded)


def _put_cron(c: int, write: CronWrite) -> tuple[Any, ...]:
    version, record = write.expected_version, write.entry
    if record is None:
        return (c, 0, write.name, version, None, None)
    encoded = encode(msgspec.structs.replace(record, version=version + 1))
    return (c, 0, write.name, version, record.wake_at, encoded)


def note_of(event: Event) -> tuple[Any, ...]:
    """Return an event as the columns of `note`, from `type` on."""
    return (
        event.type,
        event.at,
        to_text(event.subject),
        None if event.queue is None else to_text(event.queue),
        None if event.job_type is None else to_text(event.job_type),
        bytes(event.data),
    )
