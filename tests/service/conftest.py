"""The services of one server over the reference backend, with a clock that tests move. No loops run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from ojs_core.backend import EventQuery
from ojs_core.envelope import parse_job_request
from ojs_core.job import Job
from ojs_core.memory import MemoryBackend
from ojs_core.service import FetchRequest, Service
from ojs_core.service.failure import Failure
from ojs_core.settings import Settings
from ojs_core.testing.clock import FakeClock
from ojs_core.testing.counting import CountingBackend


class Server:
    """The services, and short ways to use them."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.backend = CountingBackend(MemoryBackend())
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

    async def state(self, job: Job | str) -> str:
        return (await self.jobs.info(job if isinstance(job, str) else job.id)).state.value

    async def tick(self, ms: int = 0) -> None:
        """Let time pass, then let the clock do its work until nothing is due."""
        self.clock.advance(ms)
        for _ in range(10):
            await self.service.maintenance.look()

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
