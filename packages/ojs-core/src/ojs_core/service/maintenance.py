"""What the clock does: promotions, lapsed leases, timeouts, expiries, cron firings, dead workers, pruning.

Every server runs these loops. Each unit of work is a guarded write, so it happens once however many servers try; each
look is bounded, so that a million due jobs do not keep anyone waiting. A loop that fails logs it and goes on: the store
being away must not end it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from ojs_core.backend import Commit, Committed, JobQuery, Removal
from ojs_core.errors import BackendUnavailableError, PartlyUnavailableError
from ojs_core.failing import plan_failure, plan_lapse
from ojs_core.job import Job, JobError, JobState
from ojs_core.lifecycle import Transition, plan_expire, plan_promote
from ojs_core.records import CronEntry, Workflow
from ojs_core.service.context import Context
from ojs_core.service.crons import CronService
from ojs_core.service.workers import WorkerService
from ojs_core.service.workflows import WorkflowService

log = logging.getLogger("ojs.maintenance")

DUE_PER_LOOK = 500
"""Records handled in one look."""
POLL_MS = 100
"""Longest sleep between two looks at the clock: what another server scheduled meanwhile is late by this at most."""
HOUSEKEEPING_S = 1.0
BURIED_PER_LOOK = 100
PRUNE_S = 60.0
PRUNED_PER_LOOK = 5_000
FAILED_PAUSE_S = 1.0
CATCH_UP_S = 1.0
"""How long a fetch waits for the promotion of what is due, at most."""


class Maintenance:
    """The background work of one server process."""

    def __init__(
        self, context: Context, workflows: WorkflowService, crons: CronService, workers: WorkerService
    ) -> None:
        self._context = context
        self._workflows = workflows
        self._crons = crons
        self._workers = workers
        self._tasks: list[asyncio.Task[None]] = []
        # When something is due next, as far as the loop knows; and what wakes those who wait for its look.
        self._next_due: int | None = None
        self._looked = asyncio.Event()

    def start(self) -> None:
        """Begin. Needs a running event loop."""
        self._tasks = [
            asyncio.create_task(self._repeat(self.look, self._until_next_due), name="ojs-clock"),
            asyncio.create_task(self._repeat(self.bury_dead_workers, _every(HOUSEKEEPING_S)), name="ojs-workers"),
            asyncio.create_task(self._repeat(self.prune, _every(PRUNE_S)), name="ojs-prune"),
        ]

    async def stop(self) -> None:
        """End the loops. What is half done is finished by another server, or by this one after its next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _repeat(self, work: Callable[[], Awaitable[bool]], pause: Callable[[], Awaitable[None]]) -> None:
        """Do the work again at once while it finds more, else after a pause. An outage is said once, and its end."""
        away = False
        while True:
            try:
                more = await work()
                if away:
                    log.warning("Background work goes on.")
                away = False
                if not more:
                    await pause()
            except BackendUnavailableError as error:
                log.log(logging.DEBUG if away else logging.WARNING, "Background work waits for the store: %s", error)
                away = True
                await asyncio.sleep(FAILED_PAUSE_S)
            except Exception:
                log.exception("Background work failed; it is tried again.")
                await asyncio.sleep(FAILED_PAUSE_S)

    async def _until_next_due(self) -> None:
        """Sleep until something is due. Asked anew at least every `POLL_MS`: others write to the store too."""
        while not self._is_due():
            self._next_due = await self._context.backend.next_wake_at()
            left = POLL_MS if self._next_due is None else self._next_due - self._context.clock.now()
            await asyncio.sleep(max(0, min(left, POLL_MS)) / 1000)

    def _is_due(self) -> bool:
        """Return whether the loop knows of something due that it has not handled."""
        return self._next_due is not None and self._next_due <= self._context.clock.now()

    # The clock.

    async def catch_up(self) -> bool:
        """Wait while jobs are due that this server knows of, for one look at most; return whether it waited.

        What was due when a fetch came is handed to it, however slow the store is, and not to the next one.
        """
        if not self._is_due():
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_S):
                await self._looked.wait()
        return True

    async def look(self) -> bool:
        """Handle what is due now, at most `DUE_PER_LOOK` of each kind; return whether there may be more."""
        context = self._context
        now = context.clock.now()
        more = False
        try:
            jobs = await context.backend.due_jobs(now, DUE_PER_LOOK)
            if jobs:
                await self._handle(jobs, now)
            more = len(jobs) == DUE_PER_LOOK
        finally:
            if not more:
                self._next_due = None
            self._looked.set()
            self._looked.clear()
        workflows = await context.backend.due_workflows(now, DUE_PER_LOOK)
        await _each(self._workflows.wake, workflows)
        entries = await context.backend.due_crons(now, DUE_PER_LOOK)
        await _each(self._crons.wake, entries)
        return DUE_PER_LOOK in (len(jobs), len(workflows), len(entries))

    async def _handle(self, jobs: list[Job], now: int) -> None:
        unnoted = [job for job in jobs if job.unnoted]
        commits = [self._decide(job, now) for job in jobs if not job.unnoted]
        failed: PartlyUnavailableError | None = None
        if commits:
            try:
                answers: Sequence[Any] = await self._context.backend.commit(commits)
            except PartlyUnavailableError as error:
                answers, failed = error.answers, error
            changes = [change for answer in answers if isinstance(answer, Committed) for change in answer.changed]
            unnoted += [change.job for change in changes if change.job.unnoted]
        await self._note(unnoted)
        if failed is not None:
            raise failed

    async def _note(self, jobs: list[Job]) -> None:
        """Let workflows take note of members that ended; those that cannot are found due again."""
        for error in await self._workflows.note_ended(jobs):
            if isinstance(error, BackendUnavailableError):
                raise error
            log.error("A workflow could not go on; it is tried again.", exc_info=error)
            await _breathe()

    def _decide(self, job: Job, now: int) -> Commit:
        """Return what the clock does to a due job."""
        if job.ended:
            return Commit(removals=(Removal(job.id, job.version),))
        return Commit(transitions=(self._transition(job, now),))

    def _transition(self, job: Job, now: int) -> Transition:
        retention = self._context.retention
        if job.state is not JobState.ACTIVE:
            if job.expires_at is not None and job.expires_at <= now:
                return plan_expire(job, now, retention)
            return plan_promote(job, now)
        lease_ends = job.lease_expires_at or now
        if job.timeout_at is not None and job.timeout_at <= min(now, lease_ends):
            return plan_failure(job, now, retention, _timeout(job, now), self._context.clock.random())
        message = f"No acknowledgement within the lease of {job.lease_ms} ms."
        return plan_lapse(job, now, retention, "visibility_timeout", message)

    # Housekeeping.

    async def bury_dead_workers(self) -> bool:
        """Take back the jobs of workers that fell silent (C-WRK-08)."""
        context = self._context
        seen_before = context.clock.now() - context.settings.worker_timeout_ms
        workers = await context.backend.list_workers(seen_before=seen_before, limit=BURIED_PER_LOOK)
        for worker in workers:
            ended = await self._workers.bury(worker, seen_before)
            await self._note([job for job in ended if job.unnoted])
        return len(workers) == BURIED_PER_LOOK

    async def prune(self) -> bool:
        """Remove old events, and dead letters beyond their number (C-DLQ-09, C-EVT-12)."""
        context = self._context
        settings = context.settings
        before = context.clock.now() - settings.retain_events_ms
        pruned = await context.backend.prune_events(before, settings.events_max, PRUNED_PER_LOOK)
        return pruned == PRUNED_PER_LOOK or await self._prune_dead_letters()

    async def _prune_dead_letters(self) -> bool:
        context = self._context
        query = JobQuery(dead=True, limit=DUE_PER_LOOK, offset=context.settings.dead_letter_max)
        page = await context.backend.list_jobs(query)
        # A workflow that does not know of the end of its member would wait for it for ever: that one goes next time.
        await self._note([job for job in page.jobs if job.unnoted])
        noted = [job for job in page.jobs if not job.unnoted]
        if noted:
            await context.backend.commit([Commit(removals=(Removal(job.id, job.version),)) for job in noted])
        return len(noted) == DUE_PER_LOOK


Woken = TypeVar("Woken", Workflow, CronEntry)


async def _each(wake: Callable[[Woken], Awaitable[None]], records: Sequence[Woken]) -> None:
    """Wake each record; one that cannot be woken must not keep the others asleep."""
    for record in records:
        try:
            await wake(record)
        except BackendUnavailableError:
            raise
        except Exception:
            # Not the record: it holds the data of clients, megabytes of it.
            what = f"cron entry '{record.name}'" if isinstance(record, CronEntry) else f"workflow {record.id}"
            log.exception("What is due for %s failed; it is tried again.", what)
            await _breathe()


async def _breathe() -> None:
    """Pause, so that what stays due because it fails does not keep the loop spinning."""
    await asyncio.sleep(POLL_MS / 1000)


def _every(seconds: float) -> Callable[[], Awaitable[None]]:
    async def pause() -> None:
        await asyncio.sleep(seconds)

    return pause


def _timeout(job: Job, now: int) -> JobError:
    """Make the error of an execution that took too long (C-VIS-06, C-VIS-07)."""
    started_at = job.started_at or now
    limit_s = ((job.timeout_at or now) - started_at) / 1000
    return JobError(
        type="timeout",
        code="timeout",
        message=f"The execution took longer than its limit of {limit_s:g} s.",
        attempt=job.attempt,
        occurred_at=now,
        details=timeout_details(limit_s, (now - started_at) / 1000),
    )


def timeout_details(limit_s: float, elapsed_s: float) -> Raw:
    """Return the facts of a timeout as OJS timeouts §8 names them."""
    facts = {"timeout_kind": "execution", "limit_seconds": limit_s, "elapsed_seconds": elapsed_s}
    return Raw(msgspec.json.encode(facts))
