"""Workers: heartbeats, directives, and what happens to the jobs of one that died (OJS worker protocol)."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from msgspec import Struct

from ojs_core.backend import Beaten, BeatRequest, Commit, Committed, JobQuery
from ojs_core.errors import NotFoundError
from ojs_core.events import other_event
from ojs_core.failing import plan_lapse
from ojs_core.job import Job, JobState
from ojs_core.records import Worker, WorkerState
from ojs_core.service.context import Context

LAPSED_PER_STEP = 200
"""Jobs of a dead worker taken back in one go."""


class HeartbeatRequest(Struct, frozen=True, kw_only=True):
    """A heartbeat: the worker's report on itself, the jobs it holds, and the lease it wants for them."""

    worker: Worker
    job_ids: tuple[str, ...] = ()
    lease_ms: int | None = None


class _TestMeta(Struct):
    test_directive: Literal["quiet", "terminate"]


class WorkerService:
    """Workers."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def beat(self, request: HeartbeatRequest) -> tuple[Beaten, WorkerState]:
        """Take a heartbeat; return what the store noted and what the worker is to do (C-WRK-01, C-WRK-02)."""
        context = self._context
        beaten = await context.backend.beat(
            BeatRequest(
                worker=request.worker,
                job_ids=request.job_ids,
                now=context.clock.now(),
                lease_ms=request.lease_ms,
            )
        )
        for job in beaten.extended:
            if job.id in context.remembered:
                context.remember(job)
        directive = beaten.worker.directive
        if directive is None and context.settings.test_mode:
            directive = _test_directive((*beaten.extended, *beaten.others))
        return beaten, directive or "running"

    async def list_workers(self) -> list[Worker]:
        """Return the workers, longest silent first."""
        return await self._context.backend.list_workers()

    async def direct(self, worker_id: str, directive: WorkerState) -> Worker:
        """Tell a worker what to do, until told otherwise."""
        worker = await self._context.backend.set_directive(worker_id, directive)
        if worker is None:
            raise NotFoundError(f"There is no worker '{worker_id}'.", resource_type="worker", resource_id=worker_id)
        return worker

    async def bury(self, worker: Worker, seen_before: int) -> list[Job]:
        """Take back the jobs of a worker that fell silent, then forget it; return the jobs that ended (C-WRK-08).

        The jobs go first: a crash in between leaves a worker that is found dead again.
        """
        ended: list[Job] = []
        if worker.beats:
            while True:
                jobs = await self._active_jobs(worker)
                ended += await self._lapse(worker, jobs)
                if len(jobs) < LAPSED_PER_STEP:
                    break
        now = self._context.clock.now()
        reason = "heartbeat_timeout" if worker.beats else "silent"
        event = other_event("worker.stopped", now, worker.id, worker_id=worker.id, reason=reason)
        await self._context.backend.remove_worker(worker.id, seen_before, event)
        return ended

    async def _active_jobs(self, worker: Worker) -> tuple[Job, ...]:
        query = JobQuery(worker_id=worker.id, states=frozenset({JobState.ACTIVE}), limit=LAPSED_PER_STEP)
        return (await self._context.backend.list_jobs(query)).jobs

    async def _lapse(self, worker: Worker, jobs: tuple[Job, ...]) -> list[Job]:
        context = self._context
        now = context.clock.now()
        message = f"Worker '{worker.id}' was last heard of {(now - worker.last_seen_at) / 1000:.1f} s ago."
        answers = await asyncio.gather(
            *(
                context.commits.ask(
                    Commit(transitions=(plan_lapse(job, now, context.retention, "worker_death", message),))
                )
                for job in jobs
            )
        )
        changed = [change.job for answer in answers if isinstance(answer, Committed) for change in answer.changed]
        return [job for job in changed if job.ended]


def _test_directive(jobs: tuple[Job, ...]) -> WorkerState | None:
    """Return the directive some job's meta asks for; only in test mode, as meta is client data (C-WRK-03)."""
    for job in jobs:
        try:
            return msgspec.json.decode(job.meta, type=_TestMeta).test_directive
        except msgspec.ValidationError:
            continue
    return None
