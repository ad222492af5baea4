"""`commit`: everything is checked by reads before the first write, so that a refused commit leaves no trace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from ojs_backend_sqlite.table import Table
from ojs_backend_sqlite.transaction import Transaction
from ojs_core.backend import Change, Commit, Committed, Conflict, NewJob, Refused
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
    check = _Check(transaction)
    check.transitions(commit)
    check.removals(commit)
    check.versions(commit)
    check.inserts(commit)  # last: an insert meets the jobs as the other parts of its commit leave them
    if check.conflicts:
        return Refused(tuple(check.conflicts))
    changed = tuple([_swap(transaction, transition) for transition in commit.transitions])
    for removal in commit.removals:
        transaction.remove_job(_present(transaction, removal.job_id))
    inserted = tuple([_insert(transaction, new) for new in commit.inserts])
    for write in commit.workflows:
        _put(transaction.workflows, write.workflow_id, write.workflow, write.expected_version)
    if commit.cron is not None:
        _put(transaction.crons, commit.cron.name, commit.cron.entry, commit.cron.expected_version)
    for event in commit.events:
        transaction.log(event)
    return Committed(inserted=inserted, changed=changed)


class _Check:
    """What stands against one commit. `staged` are the jobs as it would leave them (None: removed)."""

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction
        self.staged: dict[str, Job | None] = {}
        self.conflicts: list[Conflict] = []

    def job(self, job_id: str) -> Job | None:
        return self.staged[job_id] if job_id in self.staged else self.transaction.jobs.get(job_id)

    def transitions(self, commit: Commit) -> None:
        for index, transition in enumerate(commit.transitions):
            job = self.job(transition.job_id)
            if job is None or not guard_holds(transition, job):
                self.conflicts.append(Conflict(kind="transition", index=index, job=job))
            elif len(commit.transitions) > 1 or commit.removals or commit.inserts:
                self.staged[job.id] = apply_transition(job, transition)

    def removals(self, commit: Commit) -> None:
        for index, removal in enumerate(commit.removals):
            job = self.job(removal.job_id)
            if job is None or job.version != removal.version:
                self.conflicts.append(Conflict(kind="removal", index=index, job=job))
            else:
                self.staged[job.id] = None

    def versions(self, commit: Commit) -> None:
        for index, write in enumerate(commit.workflows):
            if _version(self.transaction.workflows.get(write.workflow_id)) != write.expected_version:
                self.conflicts.append(Conflict(kind="workflow", index=index))
        cron = commit.cron
        if cron is not None and _version(self.transaction.crons.get(cron.name)) != cron.expected_version:
            self.conflicts.append(Conflict(kind="cron", index=0))

    def inserts(self, commit: Commit) -> None:
        for index, new in enumerate(commit.inserts):
            existing = self.job(new.job.id)
            if existing is not None:
                self.conflicts.append(Conflict(kind="id", index=index, job=existing))
                continue
            holder = None if new.hold is None else self.holder(new)
            if holder is not None:
                self.conflicts.append(Conflict(kind="hold", index=index, job=holder))
            elif len(commit.inserts) > 1:
                self.staged[new.job.id] = new.job

    def holder(self, new: NewJob) -> Job | None:
        """Return a job that the hold of a new one conflicts with (C-UNQ-06)."""
        hold, fingerprint = new.hold, new.job.fingerprint
        if hold is None or fingerprint is None:
            return None
        touched = [job_id for job_id in self.staged ...]
        return None
