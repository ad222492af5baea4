"""What happens to NATS, and what the backend makes of it: 503 in bounded time, nothing lost, and back by itself."""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import signal
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nats
import pytest
from tests.backends.nats.conftest import recovered
from tests.servers.nats import NatsServer
from tests.servers.nats_fixtures import NATSOpener
from tests.servers.proxy import proxy_to

from ojs_backend_nats.backend import NATSBackend
from ojs_backend_nats.config import NATSConfig
from ojs_core.backend import Backend
from ojs_core.errors import BackendUnavailableError
from ojs_core.job import Job, JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.contract.steps import apply, claim_ids, counts, insert, insert_one, read, snapshot
from ojs_core.testing.factories import make_claim, make_new, make_transition, raw

PATIENCE_S = 30
BOUND_S = 15
"""Every answer comes within this: the timeout of a request, 5 s, and room for a busy machine."""


async def refused(call: Awaitable[Any]) -> BackendUnavailableError:
    """Return the refusal of a call; it has to come soon."""
    begun = time.monotonic()
    with pytest.raises(BackendUnavailableError) as caught:
        await call
    assert time.monotonic() - begun < BOUND_S
    return caught.value


@pytest.fixture
async def backend(open_nats: NATSOpener, own_config: NATSConfig) -> NATSBackend:
    return await open_nats(own_config)


@pytest.fixture
async def second(open_nats: NATSOpener, own_config: NATSConfig, backend: NATSBackend) -> NATSBackend:  # noqa: ARG001
    return await open_nats(own_config)


@pytest.mark.parametrize("end", [NatsServer.stop, NatsServer.kill])
async def test_a_restart_loses_nothing_that_was_answered(
    backend: NATSBackend, second: NATSBackend, own_server: NatsServer, end: Callable[[NatsServer], None]
) -> None:
    jobs = await insert(backend, *(make_new() for _ in range(20)))
    claimed = await claim_ids(second, count=5)
    await apply(backend, make_transition(LifecycleEvent.ACK, claimed[0]))
    end(own_server)
    error = await refused(insert_one(backend))
    assert error.retryable
    await refused(backend.get_jobs([jobs[0].id]))
    await refused(backend.claim([make_claim()]))
    await refused(backend.ping())
    own_server.start()
    for server in (backend, second):
        assert await recovered(lambda server=server: counts(server)) == {"available": 15, "active": 4, "completed": 1}
    assert await claim_ids(backend) == [job.id for job in jobs[5:]]


async def test_a_restart_while_requests_are_under_way(backend: NATSBackend, own_server: NatsServer) -> None:
    """Each that was answered is there; each that was refused is there whole or not at all, and once."""
    answered: list[Job] = []
    tried: list[str] = []
    stop = asyncio.Event()

    async def enqueue() -> None:
        while not stop.is_set():
            new = make_new()
            tried.append(new.job.id)
            try:
                answered.extend(await insert(backend, new))
            except BackendUnavailableError:
                await asyncio.sleep(0)

    async def until(count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(answered) < count:
                await asyncio.sleep(0)

    clients = [asyncio.create_task(enqueue()) for _ in range(8)]
    for goal in (50, 100, 150):
        await until(goal)
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.start)
    await until(len(answered) + 50)
    stop.set()
    await asyncio.gather(*clients)
    found = await recovered(lambda: claim_ids(backend, count=100_000))
    assert len(set(found)) == len(found)
    assert {job.id for job in answered} <= set(found) <= set(tried)


async def test_a_server_that_does_not_answer(backend: NATSBackend, own_server: NatsServer) -> None:
    """A pause (a disk that hangs, a machine that swaps) is bounded waiting, and goes on as if nothing had been."""
    job = await insert_one(backend)
    own_server.pause()
    await refused(insert_one(backend, queue="late"))
    own_server.resume()
    assert (await recovered(lambda: read(backend, job.id))).state is JobState.AVAILABLE
    # Refused is not undone: that one waited in the server's socket.
    assert await recovered(lambda: counts(backend, "late")) == {"available": 1}


async def test_the_stream_is_deleted(backend: NATSBackend, second: NATSBackend, own_server: NatsServer) -> None:
    """Whoever asks is refused until there is a stream again; then the store is empty, on every server."""
    job = await insert_one(backend, max_per_second=1)
    await manage(own_server, lambda manager: manager.delete_stream(backend_stream(backend)))
    for call in (insert_one(backend), second.get_jobs([job.id]), second.claim([make_claim()])):
        try:
            await call
        except BackendUnavailableError:
            continue
    assert await recovered(lambda: backend.get_jobs([job.id])) == [None]
    assert await recovered(lambda: second.get_jobs([job.id])) == [None]
    new = await recovered(lambda: insert_one(second))
    assert await recovered(lambda: claim_ids(backend)) == [new.id]


async def test_the_stream_is_made_anew_by_another(
    backend: NATSBackend, second: NATSBackend, own_server: NatsServer
) -> None:
    """A server that did not see it happen notices that its index is of another stream."""
    for _ in range(3):
        await insert_one(backend)
    assert await counts(second) == {"available": 3}
    await manage(own_server, lambda manager: manager.delete_stream(backend_stream(backend)))
    for _ in range(5):
        await recovered(lambda: insert_one(backend, queue="new"))
    assert await recovered(lambda: counts(second, "new")) == {"available": 5}
    assert await snapshot(second) == await snapshot(backend)


async def test_a_store_that_lost_its_last_moments(backend: NATSBackend, own_server: NatsServer, tmp_path: Path) -> None:
    """A machine that lost power comes back with less than it answered: what is gone is gone on the index too."""
    kept = await insert_one(backend)
    own_server.stop()
    shutil.copytree(own_server.folder / "data", tmp_path / "copy")
    own_server.start()
    lost = await recovered(lambda: insert_one(backend))
    await recovered(lambda: claim_ids(backend))
    own_server.kill()
    shutil.rmtree(own_server.folder / "data")
    shutil.move(tmp_path / "copy", own_server.folder / "data")
    own_server.start()
    assert await recovered(lambda: backend.get_jobs([lost.id, kept.id])) == [None, kept]
    new = await insert_one(backend)
    assert await claim_ids(backend) == [kept.id, new.id]


async def test_a_stream_that_is_full(backend: NATSBackend, own_server: NatsServer, own_config: NATSConfig) -> None:
    """Writes are refused, reads go on; with more room everything does."""
    job = await insert_one(backend)
    await limit(own_server, own_config, 20_000)
    error = await refused(insert_all(backend, 100))
    assert "full" in error.message
    assert await read(backend, job.id) == job
    await limit(own_server, own_config, -1)
    assert await claim_ids(backend, count=1) == [job.id]


async def test_a_stream_that_somebody_changed(
    backend: NATSBackend, own_server: NatsServer, own_config: NATSConfig
) -> None:
    """A limit that removes jobs is refused while serving too, as soon as there is a reason to look."""

    async def set_age(max_age: int) -> None:
        async def update(manager: Any) -> None:
            found = (await manager.stream_info(own_config.stream)).config
            found.max_age = max_age
            await manager.update_stream(found)

        await manage(own_server, update)

    job = await insert_one(backend)
    await set_age(3600)
    own_server.kill()
    own_server.start()
    async with asyncio.timeout(PATIENCE_S):
        while "would remove jobs" not in (await refused(read(backend, job.id))).message:
            await asyncio.sleep(0)
    await set_age(0)
    assert await recovered(lambda: read(backend, job.id)) == job


async def test_lame_duck(backend: NATSBackend, own_server: NatsServer) -> None:
    """A server that says goodbye takes its clients' connections with it; the next one finds them all back."""
    job = await insert_one(backend)
    await asyncio.to_thread(own_server.signal, signal.SIGUSR2)
    await asyncio.to_thread(own_server.stop)
    await asyncio.to_thread(own_server.start)
    assert await recovered(lambda: claim_ids(backend)) == [job.id]


async def test_a_consumer_that_is_deleted(
    backend: NATSBackend, second: NATSBackend, own_server: NatsServer, own_config: NATSConfig
) -> None:
    """What is asked for is refused or found, never missed: the index goes on from where it was."""
    await insert_one(backend)

    async def delete_all(manager: Any) -> None:
        for consumer in await manager.consumers_info(own_config.stream):
            await manager.delete_consumer(own_config.stream, consumer.name)

    await manage(own_server, delete_all)
    await insert_one(backend)
    assert await recovered(lambda: counts(second)) == {"available": 2}


async def test_a_slow_consumer(
    backend: NATSBackend, open_nats: NATSOpener, own_config: NATSConfig, own_server: NatsServer
) -> None:
    """A server that does not get what it is sent keeps nobody else waiting; flow control holds the rest back for it."""
    async with proxy_to(own_server.port) as proxy:
        slow = await open_nats(own_config, servers=(f"nats://127.0.0.1:{proxy.port}",))
        proxy.hold()
        for _ in range(30):
            await insert_one(backend, args=raw(["x" * 900_000]))
        await refused(slow.ping())
        proxy.release()
        assert await recovered(lambda: counts(slow)) == {"available": 30}
        assert len(await claim_ids(slow, count=2)) == 2
        await slow.close()
    assert "Slow Consumer" not in (own_server.folder / "log").read_text(encoding="utf-8")


async def test_attempts_to_connect_leave_nothing_open(
    open_nats: NATSOpener, own_server: NatsServer, own_config: NATSConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """Also those that a server takes and does not answer."""
    caplog.set_level(logging.DEBUG, "ojs.nats")

    def attempts() -> int:
        return sum(record.getMessage() == "NATS: TimeoutError" for record in caplog.records)

    with warnings.catch_warnings(record=True, action="always", category=ResourceWarning) as caught:
        async with proxy_to(own_server.port) as proxy:
            backend = await open_nats(own_config, servers=(f"nats://127.0.0.1:{proxy.port}",), timeout_ms=300)
            proxy.hold()
            await proxy.cut()
            await proxy.mend()
            async with asyncio.timeout(PATIENCE_S):
                while attempts() < 2:
                    await asyncio.sleep(0)
            proxy.release()
            await recovered(backend.ping)
            await backend.close()
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


async def test_closing_while_nats_is_away_ends_everything(
    open_nats: NATSOpener, own_server: NatsServer, own_config: NATSConfig
) -> None:
    """Whatever the connection was about to do: nothing goes on trying."""
    before = asyncio.all_tasks()
    for turns in range(20):
        backend = await open_nats(own_config)
        await asyncio.to_thread(own_server.kill)
        for _ in range(turns):
            await asyncio.sleep(0)
        await backend.close()
        async with asyncio.timeout(PATIENCE_S):
            while asyncio.all_tasks() - before:
                await asyncio.sleep(0)
        await asyncio.to_thread(own_server.start)


async def test_a_large_change_is_whole_or_absent(backend: NATSBackend, own_server: NatsServer) -> None:
    """A batch over `max_payload` goes in several messages; a crash between them leaves nothing of it."""
    big = [make_new(args=raw(["x" * 100_000])) for _ in range(50)]
    writing = asyncio.create_task(insert(backend, *big))
    await asyncio.sleep(0)
    own_server.kill()
    with pytest.raises(BackendUnavailableError):
        await writing
    own_server.start()
    found = await recovered(lambda: backend.get_jobs([new.job.id for new in big]))
    assert len({job is None for job in found}) == 1


async def insert_all(backend: Backend, count: int) -> None:
    for _ in range(count):
        await insert_one(backend, args=raw(["x" * 1000]))


async def manage(server: NatsServer, work: Callable[[Any], Awaitable[Any]]) -> None:
    """Do something to JetStream as an operator would."""
    client = await nats.connect(server.url)
    try:
        await work(client.jsm())
    finally:
        await client.close()


async def limit(server: NatsServer, config: NATSConfig, max_bytes: int) -> None:
    async def update(manager: Any) -> None:
        found = (await manager.stream_info(config.stream)).config
        found.max_bytes = max_bytes
        await manager.update_stream(found)

    await manage(server, update)


def backend_stream(backend: NATSBackend) -> str:
    return backend._config.stream  # noqa: SLF001 - the test has it from the same fixture
