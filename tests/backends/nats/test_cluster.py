"""Three servers, three copies: one dies in the middle of the work, and nothing that was answered is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.backends.nats.conftest import recovered
from tests.servers.nats import NatsServer, running_cluster, start_together
from tests.servers.nats_fixtures import NATSOpener

from ojs_backend_nats.backend import NATSBackend
from ojs_backend_nats.config import NATSConfig
from ojs_core.errors import BackendUnavailableError
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.contract.steps import apply, claim_ids, counts, insert_one, read
from ojs_core.testing.factories import make_transition

PATIENCE_S = 60


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[NatsServer]]:
    with running_cluster(tmp_path) as servers:
        yield servers


async def check_claimable(backend: NATSBackend, job_id: str) -> None:
    """Claim until the job is taken: by a claim that was answered, or by one whose answer was lost."""
    await recovered(lambda: claim_ids(backend))
    assert (await recovered(lambda: read(backend, job_id))).state is JobState.ACTIVE


class Work:
    """Clients that enqueue, fetch and acknowledge, and remember what they were told."""

    def __init__(self, backends: list[NATSBackend]) -> None:
        self.backends = backends
        self.enqueued: set[str] = set()
        self.fetched: list[str] = []
        self.acked: set[str] = set()
        self.refused = 0
        self.stopped = False
        self._changed = asyncio.Event()

    async def _forever(self, backend: NATSBackend, *, enqueues: bool) -> None:
        while not self.stopped:
            try:
                if enqueues:
                    self.enqueued.add((await insert_one(backend)).id)
                    continue
                for job_id in await claim_ids(backend, count=3):
                    self.fetched.append(job_id)
                    await apply(backend, make_transition(LifecycleEvent.ACK, job_id))
                    self.acked.add(job_id)
            except BackendUnavailableError:
                self.refused += 1
            self._changed.set()
            await asyncio.sleep(0)

    async def until_acked(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.acked) < count:
                self._changed.clear()
                await self._changed.wait()

    def start(self) -> list[asyncio.Task[None]]:
        return [
            asyncio.create_task(self._forever(backend, enqueues=enqueues))
            for backend in self.backends
            for enqueues in (True, True, False, False)
        ]


async def test_one_of_three_servers_dies(
    cluster: list[NatsServer], open_nats: NATSOpener, nats_config: NATSConfig
) -> None:
    """Each of them in turn, so the stream's leader too; it comes back and another one goes."""
    config = msgspec.structs.replace(nats_config, replicas=3)
    backends = []
    for first in (0, 1):
        urls = tuple(server.url for server in (*cluster[first:], *cluster[:first]))
        backends.append(await open_nats(config, servers=urls))
    work = Work(backends)
    tasks = work.start()
    for server in cluster:
        await work.until_acked(len(work.acked) + 100)
        await asyncio.to_thread(server.kill)
        await work.until_acked(len(work.acked) + 100)
        await asyncio.to_thread(server.start)
    work.stopped = True
    await asyncio.gather(*tasks)
    for backend in backends:
        found = await recovered(lambda backend=backend: backend.get_jobs(sorted(work.enqueued)))
        assert all(job is not None for job in found), "a job that was answered is lost"
    acked = await recovered(lambda: backends[0].get_jobs(sorted(work.acked)))
    assert {job.state for job in acked if job is not None} == {"completed"}
    assert len(work.fetched) == len(set(work.fetched)), "a job was handed out twice"
    assert await counts(backends[0]) == await counts(backends[1])


async def test_copies_are_added_to_a_stream_that_is_there(
    cluster: list[NatsServer], open_nats: NATSOpener, nats_config: NATSConfig
) -> None:
    """OJS_NATS_REPLICAS may be raised later; nothing moves by hand."""
    config = msgspec.structs.replace(nats_config, servers=tuple(server.url for server in cluster))
    backend = await open_nats(config)
    job = await insert_one(backend)
    second = await open_nats(config, replicas=3)
    parts = second._parts  # noqa: SLF001 - the number of copies is nothing a backend tells
    assert parts is not None
    assert (await parts.stream.info()).config.num_replicas == 3
    await check_claimable(second, job.id)


async def test_servers_may_start_together(
    cluster: list[NatsServer], open_nats: NATSOpener, nats_config: NATSConfig
) -> None:
    """Also if some are told to keep more copies than others: whichever makes the stream, all begin."""
    config = msgspec.structs.replace(nats_config, servers=tuple(server.url for server in cluster))
    for replicas in ((3, 3, 3, 3), (1, 3, 3)):
        named = msgspec.structs.replace(config, stream=f"{config.stream}-{len(replicas)}")
        backends = await asyncio.gather(*(open_nats(named, replicas=number) for number in replicas))
        job = await recovered(lambda backends=backends: insert_one(backends[0]))
        await check_claimable(backends[-1], job.id)


async def test_without_most_of_them_nothing_is_answered(
    cluster: list[NatsServer], open_nats: NATSOpener, nats_config: NATSConfig
) -> None:
    """Neither a success nor an empty queue."""
    urls = tuple(server.url for server in cluster)
    backend = await open_nats(nats_config, servers=urls, replicas=3)
    job = await insert_one(backend)
    for server in cluster[1:]:
        await asyncio.to_thread(server.kill)
    with pytest.raises(BackendUnavailableError):
        await insert_one(backend)
    start_together(cluster[1:])
    await check_claimable(backend, job.id)
