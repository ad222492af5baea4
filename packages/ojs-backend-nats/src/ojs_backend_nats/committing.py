"""`commit`: each set of changes is put into the draft as it is checked, and taken back if something is against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from ojs_backend_nats.draft import Draft
from ojs_core.backend import Change, Commit, Committed, Conflict, NewJob, Refused
from ojs_core.job import Job
from ojs_core.lifecycle import apply_transition, guard_holds


def apply_commits(draft: Draft, commits: Sequence[Commit]) -> list[Committed | Refused]:
    """Apply each commit on its own; later ones see the earlier ones. Same length and order. Raises `NeedsTexts`."""
    draft.read_ahead(transition.job_id for commit in commits for transition in commit.transitions)
    return [_apply_commit(draft, commit) for commit in commits]


def _apply_commit(draft: Draft, commit: Commit) -> Committed | Refused:
    mark = draft.mark()
    changed: list[Change] = []
    inserted: list[Job] = []
    # In this order: an insert meets the jobs as the other parts of its commit leave them.
    conflicts = [
        *_transitions(draft, commit, changed),
        *_removals(draft, commit),
        *_versions(draft, commit),
        *_inserts(draft, commit, inserted),
    ]
    if conflicts:
        draft.rewind(mark)
        return Refused(tuple(conflicts))
    for event in commit.events:
        draft.log(event)
    return Committed(inserted=tuple(inserted), changed=tuple(changed))


def _transitions(draft: Draft, commit: Commit, changed: list[Change]) -> Iterator[Conflict]:
    for index, transition in enumerate(commit.transitions):
        before = draft.job(transition.job_id)
        if before is None or not guard_holds(transition, before):
            yield Conflict(kind="transition", index=index, job=before)
            continue
        after = apply_transition(before, transition)
        draft.note_execution(before, after, transition.at)
        after = draft.change_job(after, transition.events, transition.at, before.started_at)
        if after.queue != before.queue:
            draft.make_queue(after.queue, transition.at)
        changed.append(Change(job=after, previous=before.state))


def _removals(draft: Draft, commit: Commit) -> Iterator[Conflict]:
    for index, removal in enumerate(commit.removals):
        if draft.version(removal.job_id) != removal.version:
            yield Conflict(kind="removal", index=index, job=draft.job(removal.job_id))
        else:
            draft.put(draft.jobs, removal.job_id, None)


def _versions(draft: Draft, commit: Commit) -> Iterator[Conflict]:
    for index, write in enumerate(commit.workflows):
        found = draft.workflow(write.workflow_id)
        if (0 if found is None else found.version) != write.expected_version:
            yield Conflict(kind="workflow", index=index)
            continue
        flow = write.workflow
        if flow is not None:
            flow = msgspec.structs.replace(flow, version=write.expected_version + 1)
        draft.put(draft.workflows, write.workflow_id, flow)
    cron = commit.cron
    if cron is None:
        return
    known = draft.cron(cron.name)
    if (0 if known is None else known.version) != cron.expected_version:
        yield Conflict(kind="cron", index=0)
        return
    entry = cron.entry
    if entry is not None:
        entry = msgspec.structs.replace(entry, version=cron.expected_version + 1)
    draft.put(draft.crons, cron.name, entry)


def _inserts(draft: Draft, commit: Commit, inserted: list[Job]) -> Iterator[Conflict]:
    for index, new in enumerate(commit.inserts):
        existing = draft.job(new.job.id)
        if existing is not None:
            yield Conflict(kind="id", index=index, job=existing)
            continue
        holder = _holder(draft, new)
        if holder is not None:
            yield Conflict(kind="hold", index=index, job=holder)
            continue
        inserted.append(draft.add_job(new.job, new.events))
        queue = draft.make_queue(new.job.queue, new.job.created_at)
        if new.max_per_second is not None and new.max_per_second != queue.max_per_second:
            limited = msgspec.structs.replace(queue, max_per_second=new.max_per_second)
            draft.put(draft.queues, queue.name, limited)


def _holder(draft: Draft, new: NewJob) -> Job | None:
    if new.hold is None or new.job.fingerprint is None:
        return None
    return draft.holder(new.job.fingerprint, new.hold)
