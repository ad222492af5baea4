"""Jobs on their way in together, and what their unique policies make of one another (C-UNQ-06 to C-UNQ-10)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from ojs_core.backend import Commit, Committed, Conflict, NewJob
from ojs_core.envelope import JobRequest, at_index
from ojs_core.errors import DuplicateJobError, OJSError
from ojs_core.events import EventDraft
from ojs_core.job import Job, JobState, no_longer_sent, replace_fields
from ojs_core.lifecycle import Transition, earliest, plan_cancel, retention_ends
from ojs_core.service.context import Context
from ojs_core.timestamps import format_ms


class Pushed(Struct, frozen=True):
    """The answer to a push: the new job, or the existing one a unique policy with `ignore` found."""

    job: Job
    deduplicated: bool = False


class Batch:
    """Jobs on their way in, and what became of each so far."""

    def __init__(self, news: Sequence[NewJob], requests: Sequence[JobRequest], now: int, context: Context) -> None:
        self._now = now
        self._context = context
        self._requests = requests
        self._news: dict[int, NewJob] = {}
        self._existing: dict[int, Job] = {}
        self._same_as: dict[int, int] = {}
        self._replaced: dict[str, Transition] = {}
        self._scheduled: dict[int, dict[str, Job]] = {}
        """Per job, those it replaces and takes the schedule of, by id."""
        self._order: list[int] = []
        self._replaced_order: list[str] = []
        self._single = len(news) == 1
        by_id: dict[str, int] = {}
        holders: dict[str, list[int]] = {}
        for index, new in enumerate(news):
            if by_id.setdefault(new.job.id, index) != index:
                raise self._refuse(index, news[by_id[new.job.id]].job, "The id occurs twice in the batch.")
            self._add(index, new, holders)

    def _add(self, index: int, new: NewJob, holders: dict[str, list[int]]) -> None:
        """Take a job in, settling a unique conflict with earlier ones of the same batch."""
        self._news[index] = new
        mark = new.job.fingerprint
        if mark is None or new.hold is None:
            return
        earlier = holders.setdefault(mark, [])
        for other in earlier:
            existing = self._news[other].job
            if existing.state not in new.hold.states:
                continue
            match self._policy(index):
                case "reject":
                    raise self._refuse(index, existing)
                case "ignore":
                    del self._news[index]
                    self._same_as[index] = other
                    return
                case _:
                    self._take_place_of(index, existing)
                    self._news[other] = self._cancelled(self._news[other])
        earlier.append(index)

    def _take_place_of(self, index: int, existing: Job) -> None:
        if self._policy(index) == "replace_except_schedule" and existing.state is JobState.SCHEDULED:
            self._scheduled.setdefault(index, {})[existing.id] = existing

    def _cancelled(self, new: NewJob) -> NewJob:
        job = replace_fields(
            new.job,
            state=JobState.CANCELLED,
            cancelled_at=self._now,
            wake_at=retention_ends(JobState.CANCELLED, self._now, self._context.retention),
        )
        return NewJob(job=job, events=(*new.events, EventDraft("job.cancelled")))

    def commit(self) -> Commit:
        """Return what is to be written as things stand."""
        self._order = list(self._news)
        self._replaced_order = list(self._replaced)
        return Commit(
            inserts=tuple(self._insert(index) for index in self._order), transitions=tuple(self._replaced.values())
        )

    def _insert(self, index: int) -> NewJob:
        new, scheduled = self._news[index], self._scheduled.get(index)
        if not scheduled or new.job.state is JobState.CANCELLED:
            return new
        return _with_schedule_of(new, list(scheduled.values())[-1])

    def settle(self, conflict: Conflict) -> None:
        """Take a conflict into account, or raise it."""
        if conflict.kind == "transition":
            # It changed since it was found; the next round finds out whether it is still in the way.
            changed = self._replaced_order[conflict.index]
            del self._replaced[changed]
            for scheduled in self._scheduled.values():
                scheduled.pop(changed, None)
            return
        index = self._order[conflict.index]
        existing = conflict.job
        assert existing is not None  # noqa: S101 - part of the contract of `id` and `hold`
        if conflict.kind == "id":
            raise self._refuse(index, existing)
        match self._policy(index):
            case "reject":
                raise self._refuse(index, existing)
            case "ignore":
                del self._news[index]
                self._existing[index] = existing
            case _:
                self._replaced[existing.id] = plan_cancel(
                    existing.id, self._now, self._context.retention, version=existing.version
                )
                self._take_place_of(index, existing)

    def answers(self, committed: Committed) -> list[Pushed]:
        """Return an answer per request, in their order."""
        inserted = dict(zip(self._order, committed.inserted, strict=True))
        answers = []
        for index in range(len(self._requests)):
            source = self._same_as.get(index, index)
            if source in inserted:
                answers.append(Pushed(inserted[source], deduplicated=source != index))
            else:
                answers.append(Pushed(self._existing[source], deduplicated=True))
        return answers

    def _policy(self, index: int) -> str:
        unique = self._requests[index].unique
        return "reject" if unique is None else unique.on_conflict

    def _refuse(self, index: int, existing: Job, message: str | None = None) -> OJSError:
        error = _duplicate(existing, message)
        return error if self._single else at_index(error, index)


def _with_schedule_of(new: NewJob, existing: Job) -> NewJob:
    scheduled_at = existing.scheduled_at
    assert scheduled_at is not None  # noqa: S101 - a scheduled job has a time
    job = replace_fields(
        new.job,
        state=JobState.SCHEDULED,
        scheduled_at=scheduled_at,
        enqueued_at=None,
        wake_at=earliest(scheduled_at, new.job.expires_at),
        as_sent=no_longer_sent(new.job.as_sent, "scheduled_at"),
    )
    events = (EventDraft("job.scheduled", {"scheduled_at": format_ms(scheduled_at)}),)
    return msgspec.structs.replace(new, job=job, events=events)


def duplicate(conflict: Conflict) -> OJSError:
    """Return the error for a taken id or fingerprint."""
    assert conflict.job is not None  # noqa: S101 - part of the contract of `id` and `hold`
    return _duplicate(conflict.job)


def _duplicate(existing: Job, message: str | None = None) -> DuplicateJobError:
    return DuplicateJobError(
        message or f"Job {existing.id} is already there and {existing.state}.",
        existing_job_id=existing.id,
        existing_job_state=existing.state,
        unique_key=existing.fingerprint,
    )
