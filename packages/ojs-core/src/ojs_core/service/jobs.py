"""The life of jobs: push, fetch, ack, fail, cancel, activate, and the dead letters (OJS core §7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec
from msgspec import Raw, Struct

from ojs_core.backend import (
    Change,
    ClaimRequest,
    Commit,
    Committed,
    JobPage,
    JobQuery,
    NewJob,
    Refused,
    Removal,
)
from ojs_core.envelope import JobRequest, at_index, check_size, new_job
from ojs_core.errors import BackendUnavailableError, NotFoundError, OJSError, StateConflictError
from ojs_core.failing import plan_failure, plan_requeue
from ojs_core.job import Job
from ojs_core.lifecycle import (
    Transition,
    check_guard,
    plan_ack,
    plan_activate,
    plan_cancel,
    plan_expire,
    plan_revive,
)
from ojs_core.service.batch import Batch, Pushed, duplicate
from ojs_core.service.context import Context
from ojs_core.service.failure import Failure
from ojs_core.service.revival import Revival

log = logging.getLogger("ojs.jobs")

COUNT_MAX = 1000
"""Jobs one fetch hands out, at most (C-OPS-12)."""
WAIT_MAX_MS = 30_000
POLL_MS = 500
"""How often a waiting fetch asks even if nobody rang: for rate limits that pass, and for stores that cannot push."""
ROUNDS_MAX = 8
"""How often a decision is made anew after it lost a race. More means that something else writes without end."""


class FetchRequest(Struct, frozen=True, kw_only=True):
    """What a worker asks for. `wait_ms`: how long to wait for the first job; 0: answer at once."""

    queues: tuple[str, ...]
    count: int = 1
    worker_id: str | None = None
    lease_ms: int | None = None
    wait_ms: int = 0


class JobService:
    """Jobs.

    Args:
        context: what all services share.
        ended: is told each member of a workflow that ended here; returns what kept workflows from going on.
        catch_up: waits while the promotion of due jobs is under way; returns whether it was.
    """

    def __init__(
        self,
        context: Context,
        ended: Callable[[Sequence[Job]], Awaitable[list[BaseException]]],
        catch_up: Callable[[], Awaitable[bool]],
    ) -> None:
        self._context = context
        self._ended = ended
        self._catch_up = catch_up

    # PUSH.

    async def push(self, request: JobRequest) -> Pushed:
        """Insert one job. Raises `DuplicateJobError` for a taken id or by a unique policy."""
        now = self._context.clock.now()
        new = new_job(request, now)
        if new.hold is None:
            # The common case in one line: nothing but a taken id can stand in the way.
            answer = await self._context.commits.ask(Commit(inserts=(new,)))
            if isinstance(answer, Committed):
                return Pushed(answer.inserted[0])
            raise duplicate(answer.conflicts[0])
        return (await self._insert([new], [request], now))[0]

    async def push_batch(self, requests: Sequence[JobRequest]) -> list[Pushed]:
        """Insert all or nothing, in the order given (C-BLK-01). An error names the element (`details.index`)."""
        now = self._context.clock.now()
        news = []
        for index, request in enumerate(requests):
            try:
                news.append(new_job(request, now))
            except OJSError as error:
                raise at_index(error, index) from None
        return await self._insert(news, requests, now)

    async def _insert(self, news: Sequence[NewJob], requests: Sequence[JobRequest], now: int) -> list[Pushed]:
        """Insert jobs together, settling each unique conflict by the policy of the new job (C-UNQ-06 to C-UNQ-10)."""
        batch = Batch(news, requests, now, self._context)
        for _ in range(ROUNDS_MAX):
            answer = await self._context.commits.ask(batch.commit())
            if isinstance(answer, Committed):
                await self._note_ended(answer.changed)
                return batch.answers(answer)
            for conflict in answer.conflicts:
                batch.settle(conflict)
        raise StateConflictError("The jobs this one would replace keep changing. Try again.")

    # FETCH.

    async def fetch(self, request: FetchRequest) -> tuple[Job, ...]:
        """Claim jobs; with `wait_ms`, wait for the first one as long as that (C-OPS-10 to C-OPS-18).

        A waiting fetch may be cancelled at any time: jobs claimed at that very moment are given back.
        """
        if not request.wait_ms:
            return await self._claim_due(request)
        doorbell = self._context.doorbell
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(request.wait_ms, WAIT_MAX_MS) / 1000
        with doorbell.waiting(request.queues) as rung:
            while True:
                rung.clear()
                jobs = await self._claim_or_give_back(request)
                left = deadline - loop.time()
                if jobs:
                    doorbell.ring({job.queue for job in jobs})
                if jobs or left <= 0 or doorbell.closed:
                    return jobs
                with suppress(TimeoutError):
                    await asyncio.wait_for(rung.wait(), min(left, POLL_MS / 1000))

    async def _claim_or_give_back(self, request: FetchRequest) -> tuple[Job, ...]:
        claiming = asyncio.ensure_future(self._claim_due(request))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            self._context.see_to(self._give_back(claiming))
            raise

    async def _give_back(self, claiming: asyncio.Future[tuple[Job, ...]]) -> None:
        """Requeue what was claimed for a client that has gone. What that fails for too has a lease that lapses."""
        jobs: tuple[Job, ...] = ()
        with suppress(OJSError):
            jobs = await claiming
        for job in jobs:
            with suppress(OJSError):
                await self.requeue(job.id, lease_id=job.lease_id)

    async def _claim_due(self, request: FetchRequest) -> tuple[Job, ...]:
        """Claim jobs, and once more if none was there while some were about to be promoted."""
        jobs = await self._claim(request)
        if not jobs and await self._catch_up():
            jobs = await self._claim(request)
        return jobs

    async def _claim(self, request: FetchRequest) -> tuple[Job, ...]:
        context = self._context
        settings = context.settings
        claimed = await context.claims.ask(
            ClaimRequest(
                queues=request.queues,
                count=min(max(1, request.count), COUNT_MAX),
                now=context.clock.now(),
                default_lease_ms=settings.visibility_timeout_ms,
                default_timeout_ms=settings.execution_timeout_ms,
                worker_id=request.worker_id,
                lease_ms=request.lease_ms,
            )
        )
        for job in claimed.jobs:
            context.remember(job)
        if claimed.expired:
            # Their end is visible by the time the fetch is answered (C-SCH-03). One that changed meanwhile is not ours.
            now = context.clock.now()
            expiries = [
                context.commits.ask(Commit(transitions=(plan_expire(job, now, context.retention),)))
                for job in claimed.expired
            ]
            try:
                answers = await asyncio.gather(*expiries)
            except BackendUnavailableError:
                # What was claimed is the client's by now, and would stand still until the leases lapse.
                if not claimed.jobs:
                    raise
                answers = []
            await self._note_ended(
                [change for answer in answers if isinstance(answer, Committed) for change in answer.changed]
            )
        return claimed.jobs

    # ACK and FAIL.

    async def ack(
        self, job_id: str, *, result: Raw | None = None, worker_id: str | None = None, lease_id: str | None = None
    ) -> Job:
        """Complete an active job. Raises `NotFoundError`, or `StateConflictError` for anyone but its holder.

        A result larger than a job may be is refused, and the job stays active (C-JSON-14): workflows keep results too.
        """
        if result is not None:
            check_size(result, "A result")
        context = self._context
        context.remembered.pop(job_id, None)
        transition = plan_ack(
            job_id,
            context.clock.now(),
            context.retention,
            result=result,
            worker_id=worker_id,
            fence=parse_lease_id(lease_id),
        )
        return (await self._apply(transition)).job

    async def fail(
        self, job_id: str, failure: Failure, *, worker_id: str | None = None, lease_id: str | None = None
    ) -> Job:
        """Record a failure of an active job: it will be retried, or is discarded (T08, T09)."""
        context = self._context
        fence = parse_lease_id(lease_id)
        rnd = context.clock.random()

        def plan(job: Job) -> Transition:
            now = context.clock.now()
            return plan_failure(
                job,
                now,
                context.retention,
                failure.at(job.attempt, now),
                rnd,
                error_class=failure.error_class,
                worker_id=worker_id,
                fence=fence,
            )

        return (await self._decide(job_id, plan)).job

    async def requeue(self, job_id: str, *, worker_id: str | None = None, lease_id: str | None = None) -> Job:
        """Give an active job back unfinished; it does not count as a failure (T10, C-OPS-33)."""
        context = self._context
        fence = parse_lease_id(lease_id)

        def plan(job: Job) -> Transition:
            return plan_requeue(job, context.clock.now(), context.retention, worker_id=worker_id, fence=fence)

        return (await self._decide(job_id, plan)).job

    # CANCEL, INFO, ACTIVATE.

    async def cancel(self, job_id: str) -> Change:
        """Cancel a job that has not ended (T15)."""
        context = self._context
        context.remembered.pop(job_id, None)
        return await self._apply(plan_cancel(job_id, context.clock.now(), context.retention))

    async def activate(self, job_id: str) -> Change:
        """Release a staged job (T05)."""
        return await self._apply(plan_activate(job_id, self._context.clock.now()))

    async def info(self, job_id: str) -> Job:
        """Read a job. Changes nothing."""
        job = (await self._context.backend.get_jobs([job_id]))[0]
        if job is None:
            raise job_not_found(job_id)
        return job

    async def list_jobs(self, query: JobQuery) -> JobPage:
        """List jobs."""
        return await self._context.backend.list_jobs(query)

    # Dead letters.

    async def dead_letter(self, job_id: str) -> Job:
        """Read a dead letter. Raises `NotFoundError` for any other job (C-DLQ-07)."""
        job = (await self._context.backend.get_jobs([job_id]))[0]
        if job is None or not job.dead:
            raise dead_letter_not_found(job_id)
        return job

    async def revive(self, job_id: str, revival: Revival | None = None) -> Change:
        """Make a dead letter available again with a fresh set of attempts (T17)."""
        for _ in range(ROUNDS_MAX):
            job = await self._noted_dead_letter(job_id)
            transition = plan_revive(job, self._context.clock.now(), (revival or Revival()).changes(job))
            answer = await self._context.commits.ask(Commit(transitions=(transition,)))
            if isinstance(answer, Committed):
                return answer.changed[0]
        raise keeps_changing(job_id)

    async def delete_dead_letter(self, job_id: str) -> Job:
        """Remove a dead letter and its record (C-DLQ-06)."""
        for _ in range(ROUNDS_MAX):
            job = await self._noted_dead_letter(job_id)
            answer = await self._context.commits.ask(Commit(removals=(Removal(job_id, job.version),)))
            if isinstance(answer, Committed):
                return job
        raise keeps_changing(job_id)

    async def _noted_dead_letter(self, job_id: str) -> Job:
        """Read a dead letter. Its workflow, if it has one, knows of its end by then: else it would wait for ever."""
        job = await self.dead_letter(job_id)
        if not job.unnoted:
            return job
        for error in await self._ended([job]):
            raise error
        return await self.dead_letter(job_id)

    # How a swap is made.

    async def _apply(self, transition: Transition) -> Change:
        """Make a swap that needs no read; say why it cannot be made."""
        answer = await self._context.commits.ask(Commit(transitions=(transition,)))
        if isinstance(answer, Refused):
            raise refusal(answer, transition)
        await self._note_ended(answer.changed)
        return answer.changed[0]

    async def _decide(self, job_id: str, plan: Callable[[Job], Transition]) -> Change:
        """Make a swap that is decided from the record, anew whenever the record changed under the decision.

        The first decision is made from what this process remembers of the claim, if it made it.
        """
        job = self._context.remembered.pop(job_id, None) or await self.info(job_id)
        for _ in range(ROUNDS_MAX):
            transition = plan(job)
            answer = await self._context.commits.ask(Commit(transitions=(transition,)))
            if isinstance(answer, Committed):
                await self._note_ended(answer.changed)
                return answer.changed[0]
            actual = answer.conflicts[0].job
            if actual is None:
                raise job_not_found(job_id)
            check_guard(msgspec.structs.replace(transition, version=None), actual)
            job = actual
        raise keeps_changing(job_id)

    async def _note_ended(self, changed: Sequence[Change]) -> None:
        members = [change.job for change in changed if change.job.unnoted]
        if members:
            # The job itself has ended, and that is what the caller asked for; the sweeper makes up for the rest.
            for error in await self._ended(members):
                log.warning("A workflow could not go on yet: %s", error)


def parse_lease_id(lease_id: str | None) -> int | None:
    """Return the fence in a lease id; one that this server never gave out matches no claim."""
    if lease_id is None:
        return None
    return int(lease_id) if lease_id.isascii() and lease_id.isdigit() and len(lease_id) < 19 else -1  # noqa: PLR2004


def job_not_found(job_id: str) -> NotFoundError:
    """Make the error for an unknown job."""
    return NotFoundError(f"There is no job {job_id}.", resource_type="job", resource_id=job_id)


def dead_letter_not_found(job_id: str) -> NotFoundError:
    """Make the error for a job that is not a dead letter."""
    return NotFoundError(f"There is no dead letter {job_id}.", resource_type="dead_letter_job", resource_id=job_id)


def keeps_changing(job_id: str) -> StateConflictError:
    """Make the error for a decision that lost every race."""
    return StateConflictError(f"Job {job_id} keeps changing. Try again.", job_id=job_id)


def refusal(refused: Refused, transition: Transition) -> OJSError:
    """Return why a single swap was refused."""
    actual = refused.conflicts[0].job
    if actual is None:
        return job_not_found(transition.job_id)
    try:
        check_guard(transition, actual)
    except StateConflictError as error:
        return error
    return keeps_changing(transition.job_id)
