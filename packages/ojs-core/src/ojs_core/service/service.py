"""The services of one server process, put together over one backend."""

from __future__ import annotations

from ojs_core.backend import Backend, EventPage, EventQuery
from ojs_core.clock import Clock
from ojs_core.envelope import check_queue
from ojs_core.errors import NotFoundError
from ojs_core.records import Queue, QueueStats
from ojs_core.service.context import Context
from ojs_core.service.crons import CronService
from ojs_core.service.jobs import JobService
from ojs_core.service.maintenance import Maintenance
from ojs_core.service.workers import WorkerService
from ojs_core.service.workflows import WorkflowService
from ojs_core.settings import Settings

DEFAULT_QUEUE = "default"


class Service:
    """What the HTTP layer talks to. `start` opens the store and begins the background work; `stop` ends both."""

    def __init__(self, backend: Backend, clock: Clock, settings: Settings) -> None:
        context = Context(backend, clock, settings)
        self.context = context
        self.backend = backend
        self.settings = settings
        self.clock = clock
        self.started_at = clock.now()
        self.stopping = False
        self.workflows = WorkflowService(context)
        self.crons = CronService(context)
        self.workers = WorkerService(context)
        self.maintenance = Maintenance(context, self.workflows, self.crons, self.workers)
        self.jobs = JobService(context, self.workflows.note_ended, self.maintenance.catch_up)
        backend.listen(context.doorbell.ring)

    async def start(self) -> None:
        """Open the store and begin the background work. Raises `SettingsError` or `BackendUnavailableError`."""
        await self.backend.open()
        self.maintenance.start()

    def stop_waiting(self) -> None:
        """Answer waiting fetches at once: the server is about to stop."""
        self.stopping = True
        self.context.doorbell.close()

    async def stop(self) -> None:
        """End the background work, finish what is on its way to the store, and close it."""
        self.stop_waiting()
        await self.maintenance.stop()
        await self.context.drain()
        await self.backend.close()

    # Queues and events have no rules of their own.

    async def queues(self) -> list[Queue]:
        """Return all queues by name; `default` always exists (C-QOP-05)."""
        queues = await self.backend.list_queues()
        if all(queue.name != DEFAULT_QUEUE for queue in queues):
            queues = sorted(
                [*queues, Queue(name=DEFAULT_QUEUE, created_at=self.started_at)], key=lambda queue: queue.name
            )
        return queues

    async def queue_stats(self, name: str) -> QueueStats:
        """Return the numbers of a queue. Raises `NotFoundError` for one never seen."""
        stats = await self.backend.queue_stats(name, self.clock.now())
        if stats is None and name == DEFAULT_QUEUE:
            return QueueStats(queue=Queue(name=name, created_at=self.started_at), states={})
        if stats is None:
            raise NotFoundError(f"There is no queue '{name}'.", resource_type="queue", resource_id=name)
        return stats

    async def pause_queue(self, name: str) -> Queue:
        """Stop handing out jobs of a queue (C-QOP-01)."""
        return await self.backend.set_paused(check_queue(name, "name"), self.clock.now(), paused=True)

    async def resume_queue(self, name: str) -> Queue:
        """Hand out jobs of a queue again (C-QOP-02)."""
        return await self.backend.set_paused(check_queue(name, "name"), self.clock.now(), paused=False)

    async def events(self, query: EventQuery) -> EventPage:
        """Read the event log."""
        return await self.backend.list_events(query)

    async def reset(self) -> None:
        """Remove everything. For tests only."""
        await self.backend.reset()
        self.context.remembered.clear()
