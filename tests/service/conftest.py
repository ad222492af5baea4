"""The services of one server over the reference backend, with a clock that tests move. No loops run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest

from ojs_core.backend import Backend, Beaten, Commit, Committed, EventQuery, JobQuery, Refused, WorkflowWrite
from ojs_core.envelope import decode_object, parse_job_request
from ojs_core.job import Job
from ojs_core.lifecycle import plan_ack, plan_cancel
from ojs_core.memory import MemoryBackend
from ojs_core.records import CronEntry, Worker
from ojs_core.service import FetchRequest, HeartbeatRequest, Service
from ojs_core.service.crons import parse_cron_request
from ojs_core.service.failure import Failure
from ojs_core.settings import Settings
from ojs_core.testing.clock import FakeClock
from ojs_core.testing.counting import CountingBackend
from ojs_core.testing.wrapper import BackendWrapper

Meddle = Callable[[Backend, Commit], Awaitable[Committed | Refused | None]]


class MeddlingBackend(BackendWrapper):
    """Lets something happen right before each commit, or answers in the store's place."""

    def __init__(self, inner: Backend, meddle: Meddle) -> None:
        super().__init__(inner)
        self.meddle = meddle

    async def commit(self, commits: Sequence[Commit]) -> list[Committed | Refused]:
        return [(await self.meddle(self.inner, one)) or (await self.inner.commit([one]))[0] for one in commits]


class Server:
    """The services, and short ways to use them."""

    def __init__(self, backend: Backend | None = None, **settings: Any) -> None:
        self.clock = FakeClock()
        self.backend = CountingBackend(backend or MemoryBackend())
        self.service = Service(self.backend, self.clock, Settings(**settings))
        self.jobs = self.service.jobs
        self.workflows = self.service.workflows
        self.crons = self.service.crons
        self.workers = self.service.workers

    def request(self, job_type: str = "test.job", **fields: Any) -> Any:
        fields = {"type": job_type, "args": [], **fields}
        return parse_job_request(msgspec.json.encode(fields), self.clock.now())

    async def push(self, job_type: str = "test.job", **fields: Any) -> Job:
        return (await self.jobs.push(self.request(job_type, **fields))).job

    async def fetch(self, *queues: str, count: int = 1, **rest: Any) -> tuple[Job, ...]:
        return await self.jobs.fetch(FetchRequest(queues=queues or ("default",), count=count, **rest))

    async def beat(
        self, worker_id: str, *job_ids: str, lease_ms: int | None = None, **report: Any
    ) -> tuple[Beaten, str]:
        worker = Worker(id=worker_id, first_seen_at=0, last_seen_at=0, **report)
        return await self.workers.beat(HeartbeatRequest(worker=worker, job_ids=job_ids, lease_ms=lease_ms))

    async def state(self, job: Job | str) -> str:
        return (await self.jobs.info(job if isinstance(job, str) else job.id)).state.value

    async def tick(self, ms: int = 0) -> None:
        """Let time pass, then let the clock do its work until nothing is due."""
        self.clock.advance(ms)
        for _ in range(10):
            await self.service.maintenance.look()

    async def register(self, template: dict[str, Any] | None = None, **fields: Any) -> CronEntry:
        """Register a cron entry, `nightly`; unless told otherwise it fires every minute."""
        template = {"type": "test.job", **(template or {})}
        envelope = {"name": "nightly", "expression": "* * * * *", "job_template": template, **fields}
        request = parse_cron_request(*decode_object(msgspec.json.encode(envelope)), self.clock.now())
        return (await self.crons.register(request)).entry

    async def made(self) -> list[Job]:
        """Return the jobs there are, oldest first."""
        return list(reversed((await self.backend.list_jobs(JobQuery(limit=100))).jobs))

    async def states(self) -> list[str]:
        return [job.state.value for job in await self.made()]

    def meddle(self, meddle: Meddle) -> None:
        """Call `meddle`, with the store and the commit, before each commit; what it returns is the answer."""
        self.backend.inner = MeddlingBackend(self.backend.inner, meddle)

    def ack_of(self, job: Job) -> Commit:
        """Return the commit of an ACK, to be made behind the services' back."""
        return Commit(transitions=(plan_ack(job.id, self.clock.now(), self.service.context.retention),))

    def touch_of(self, job: Job) -> Commit:
        """Return a commit that changes nothing of a job but its version."""
        plan = plan_cancel(job.id, self.clock.now(), self.service.context.retention)
        plan = msgspec.structs.replace(
            plan,
            to=job.state,
            expected=frozenset({job.state}),
            changes={},
            events=(),
            wake_at=job.wake_at,
            member_wake_at=job.wake_at,
        )
        return Commit(transitions=(plan,))

    async def put_workflow(self, store: Backend, workflow_id: str, *, gone: bool = False) -> None:
        """Write a workflow as it is, with a new version, or remove it; behind the services' back."""
        workflow = await store.get_workflow(workflow_id)
        assert workflow is not None
        write = WorkflowWrite(workflow_id, None if gone else workflow, workflow.version)
        await store.commit([Commit(workflows=(write,))])

    async def event_types(self, *types: str) -> list[str]:
        page = await self.service.events(EventQuery(types=types, limit=1000))
        return [event.type for event in page.events]

    async def event_data(self, event_type: str) -> list[dict[str, Any]]:
        page = await self.service.events(EventQuery(types=(event_type,), limit=1000))
        return [msgspec.json.decode(event.data) for event in page.events]


FAILURE = Failure(type="TestError", code="handler_error", message="It broke.")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.backend.open()
    yield server
    await server.service.stop()


@pytest.fixture
def failure() -> Failure:
    return FAILURE
