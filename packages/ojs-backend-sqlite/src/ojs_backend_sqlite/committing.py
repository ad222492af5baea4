"""`commit`: everything is checked by reads before the first write, so that a refused commit leaves no trace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from ojs_backend_sqlite.table import Table
from ojs_backend_sqlite.transaction import Transaction
from ojs_core.backend import Change, Commit, Committed, Conflict, Hold, NewJob, Refused
from ojs_core.job import Job
from ojs_core.lifecycle import Transition, apply_transition, guard_holds
from ojs_core.records import CronEntry, Workflow


def apply_commits(transaction: Transaction, commits: Sequence[Commit]) -> list[Committed | Refused]:
    """Apply each commit on its own; later ones see the earlier ones. Same length and order."""
    _read_ahead(transaction, commits)
    return [_apply_commit(transaction, commit) for commit in commits]


def _read_ahead(transaction: Transaction, commits: Iterable[Commit]) -> None:
    ids: list[str] = []
    queues: set[str] = set()
    fingerprints: set[str] = set()
    for commit in commits:
        for new in commit.inserts:
            ids.append(new.job.id)
            queues.add(new.job.queue)
            if new.hold is not None and new.job.fingerprint is not None:
                fingerprints.add(new.job.fingerprint)
        ids += [transition.job_id for transition in commit.transitions]
        ids += [removal.job_id for removal in commit.removals]
    transaction.jobs.load(ids)
    transaction.queues.load(queues)
    transaction.load_fingerprints(fingerprints)


def _apply_commit(transaction: Transaction, commit: Commit) -> Committed | Refused:
    conflicts = _Check(transaction).find_conflicts(commit)
    if conflicts:
        return Refused(tuple(conflicts))
    changed = tuple([_swap(transaction, transition) for transition in commit.transitions]) if commit.transitions else ()
    for removal in commit.removals:
        transaction.remove_job(_present(transaction, removal.job_id))
    inserted = tuple([_insert(transaction, new) for new in commit.inserts]) if commit.inserts else ()
    for write in commit.workflows:
        _put(transaction.workflows, write.workflow_id, write.workflow, write.expected_version)
    if commit.cron is not None:
        _put(transaction.crons, commit.cron.name, commit.cron.entry, commit.cron.expected_version)
    for event in commit.events:
        transaction.log(event)
    return Committed(inserted=inserted, changed=changed)


class _Check:
    """What stands against one commit. `_staged` are the jobs as its parts so far leave them (None: removed)."""

    __slots__ = ("_conflicts", "_staged", "_staged_by_fingerprint", "_transaction")

    def __init__(self, transaction: Transaction) -> None:
        self._conflicts: list[Conflict] = []
        self._transaction = transaction
        self._staged: dict[str, Job | None] = {}
        self._staged_by_fingerprint: dict[str, list[str]] = {}

    def find_conflicts(self, commit: Commit) -> list[Conflict]:
        if commit.transitions:
            self._check_transitions(commit)
        if commit.removals:
            self._check_removals(commit)
        if commit.workflows or commit.cron is not None:
            self._check_versions(commit)
        if commit.inserts:
            self._check_inserts(commit)  # last: an insert meets the jobs as the other parts of its commit leave them
        return self._conflicts

    def _check_transitions(self, commit: Commit) -> None:
        for index, transition in enumerate(commit.transitions):
            job = self._job(transition.job_id)
            if job is None or not guard_holds(transition, job):
                self._conflicts.append(Conflict(kind="transition", index=index, job=job))
            elif len(commit.transitions) > 1 or commit.removals or commit.inserts:
                self._stage(job, apply_transition(job, transition))

    def _check_removals(self, commit: Commit) -> None:
        for index, removal in enumerate(commit.removals):
            job = self._job(removal.job_id)
            if job is None or job.version != removal.version:
                self._conflicts.append(Conflict(kind="removal", index=index, job=job))
            else:
                self._stage(job, None)

    def _check_versions(self, commit: Commit) -> None:
        for index, write in enumerate(commit.workflows):
            if _version(self._transaction.workflows.get(write.workflow_id)) != write.expected_version:
                self._conflicts.append(Conflict(kind="workflow", index=index))
        cron = commit.cron
        if cron is not None and _version(self._transaction.crons.get(cron.name)) != cron.expected_version:
            self._conflicts.append(Conflict(kind="cron", index=0))

    def _check_inserts(self, commit: Commit) -> None:
        for index, new in enumerate(commit.inserts):
            existing = self._job(new.job.id)
            holder = None if existing is not None or new.hold is None else self._holder(new.job.fingerprint, new.hold)
            if existing is not None:
                self._conflicts.append(Conflict(kind="id", index=index, job=existing))
            elif holder is not None:
                self._conflicts.append(Conflict(kind="hold", index=index, job=holder))
            elif len(commit.inserts) > 1:
                self._stage(new.job, new.job)

    def _job(self, job_id: str) -> Job | None:
        return self._staged[job_id] if job_id in self._staged else self._transaction.jobs.get(job_id)

    def _stage(self, before: Job, after: Job | None) -> None:
        self._staged[before.id] = after
        if before.fingerprint is not None:
            self._staged_by_fingerprint.setdefault(before.fingerprint, []).append(before.id)

    def _holder(self, fingerprint: str | None, hold: Hold) -> Job | None:
        """Return a job that a hold conflicts with (C-UNQ-06)."""
        if fingerprint is None:
            return None
        staged = self._staged_by_fingerprint.get(fingerprint, [])
        # One more than may turn out to be staged: what the commit makes of those counts, not what is stored.
        for job in self._transaction.find_holders(fingerprint, hold, len(staged) + 1):
            if job.id not in self._staged:
                return job
        for job_id in staged:
            after = self._staged[job_id]
            if after is not None and hold.forbids(after):
                return after
        return None


def _version(record: Workflow | CronEntry | None) -> int:
    return 0 if record is None else record.version


def _swap(transaction: Transaction, transition: Transition) -> Change:
    before = _present(transaction, transition.job_id)
    after = apply_transition(before, transition)
    if after.queue != before.queue:
        transaction.make_queue(after.queue, transition.at)
    return Change(transaction.swap_job(before, after, transition.events, transition.at), before.state)


def _insert(transaction: Transaction, new: NewJob) -> Job:
    job = transaction.insert_job(new.job, new.events)
    queue = transaction.make_queue(job.queue, job.created_at)
    if new.max_per_second is not None and new.max_per_second != queue.max_per_second:
        transaction.queues.put(queue.name, msgspec.structs.replace(queue, max_per_second=new.max_per_second))
    return job


def _present(transaction: Transaction, job_id: str) -> Job:
    job = transaction.jobs.get(job_id)
    if job is None:
        raise LookupError(f"job {job_id} was there a moment ago")  # the checks of this very commit saw it
    return job


_Versioned = TypeVar("_Versioned", Workflow, CronEntry)


def _put(table: Table[_Versioned], key: str, record: _Versioned | None, expected_version: int) -> None:
    if record is None:
        table.remove(key)
    else:
        table.put(key, msgspec.structs.replace(record, version=expected_version + 1))
