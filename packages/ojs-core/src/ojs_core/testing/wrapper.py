"""A backend around a backend, to observe or disturb what crosses the seam."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ParamSpec, TypeVar

from ojs_core.backend import (
    Backend,
    Beaten,
    BeatRequest,
    Capabilities,
    Claimed,
    ClaimRequest,
    Commit,
    Committed,
    EventPage,
    EventQuery,
    JobPage,
    JobQuery,
    Refused,
    WakeCallback,
)
from ojs_core.events import Event
from ojs_core.job import Job
from ojs_core.records import CronEntry, Queue, QueueStats, Worker, WorkerState, Workflow

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


class BackendWrapper(Backend):
    """Hands every call to `inner`. A subclass overrides `around`, through which all that await the store pass."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    async def around(
        self, method: Callable[Asked, Awaitable[Answer]], *args: Asked.args, **kwargs: Asked.kwargs
    ) -> Answer:
        """Call a method of `inner`; `method.__name__` is its name in the seam."""
        return await method(*args, **kwargs)

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    @property
    def groups_at_once(self) -> int:
        return self.inner.groups_at_once

    def lane_of(self, request: Commit | ClaimRequest) -> int:
        return self.inner.lane_of(request)

    async def open(self) -> None:
        await self.around(self.inner.open)

    async def close(self) -> None:
        await self.around(self.inner.close)

    async def ping(self) -> None:
        await self.around(self.inner.ping)

    async def reset(self) -> None:
        await self.around(self.inner.reset)

    async def migrate(self) -> list[str]:
        return await self.around(self.inner.migrate)

    async def pending_migrations(self) -> list[str]:
        return await self.around(self.inner.pending_migrations)

    def migration_script(self) -> str:
        return self.inner.migration_script()

    async def warnings(self) -> list[str]:
        return await self.around(self.inner.warnings)

    # Jobs.

    async def commit(self, commits: Sequence[Commit]) -> list[Committed | Refused]:
        return await self.around(self.inner.commit, commits)

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[Claimed]:
        return await self.around(self.inner.claim, requests)

    async def get_jobs(self, job_ids: Sequence[str]) -> list[Job | None]:
        return await self.around(self.inner.get_jobs, job_ids)

    async def due_jobs(self, now: int, limit: int) -> list[Job]:
        return await self.around(self.inner.due_jobs, now, limit)

    async def next_wake_at(self) -> int | None:
        return await self.around(self.inner.next_wake_at)

    async def list_jobs(self, query: JobQuery) -> JobPage:
        return await self.around(self.inner.list_jobs, query)

    # Queues.

    async def list_queues(self) -> list[Queue]:
        return await self.around(self.inner.list_queues)

    async def queue_stats(self, name: str, now: int) -> QueueStats | None:
        return await self.around(self.inner.queue_stats, name, now)

    async def set_paused(self, name: str, now: int, *, paused: bool) -> Queue:
        return await self.around(self.inner.set_paused, name, now, paused=paused)

    # Workers.

    async def beat(self, request: BeatRequest) -> Beaten:
        return await self.around(self.inner.beat, request)

    async def list_workers(self, *, seen_before: int | None = None, limit: int = 1000) -> list[Worker]:
        return await self.around(self.inner.list_workers, seen_before=seen_before, limit=limit)

    async def set_directive(self, worker_id: str, directive: WorkerState | None) -> Worker | None:
        return await self.around(self.inner.set_directive, worker_id, directive)

    async def remove_worker(self, worker_id: str, seen_before: int, event: Event) -> bool:
        return await self.around(self.inner.remove_worker, worker_id, seen_before, event)

    # Cron entries and workflows.

    async def get_cron(self, name: str) -> CronEntry | None:
        return await self.around(self.inner.get_cron, name)

    async def list_crons(self) -> list[CronEntry]:
        return await self.around(self.inner.list_crons)

    async def due_crons(self, now: int, limit: int) -> list[CronEntry]:
        return await self.around(self.inner.due_crons, now, limit)

    async def get_workflow(self, workflow_id: str) -> Workflow | None:
        return await self.around(self.inner.get_workflow, workflow_id)

    async def due_workflows(self, now: int, limit: int) -> list[Workflow]:
        return await self.around(self.inner.due_workflows, now, limit)

    # Events.

    async def list_events(self, query: EventQuery) -> EventPage:
        return await self.around(self.inner.list_events, query)

    async def prune_events(self, before: int, keep: int, limit: int) -> int:
        return await self.around(self.inner.prune_events, before, keep, limit)

    def listen(self, callback: WakeCallback) -> None:
        self.inner.listen(callback)
