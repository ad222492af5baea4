"""The services of a process as one: queues, events, start and stop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ojs_core.backend import EventQuery
from ojs_core.errors import BackendUnavailableError, InvalidRequestError, NotFoundError
from ojs_core.memory import MemoryBackend
from ojs_core.service import Service
from ojs_core.settings import Settings
from ojs_core.testing.clock import NOW, FakeClock
from ojs_core.testing.faults import FaultyBackend

PATIENCE_S = 30


async def test_the_default_queue_is_always_there(server: Any) -> None:  # C-QOP-05
    assert [(queue.name, queue.created_at) for queue in await server.service.queues()] == [("default", NOW)]
    stats = await server.service.queue_stats("default")
    assert (stats.queue.name, stats.states) == ("default", {})
    await server.push(queue="a")
    await server.push(queue="z")
    assert [queue.name for queue in await server.service.queues()] == ["a", "default", "z"]
    await server.push()
    assert [queue.name for queue in await server.service.queues()] == ["a", "default", "z"]
    assert (await server.service.queue_stats("default")).states["available"] == 1


async def test_a_queue_never_seen_is_not_found(server: Any) -> None:
    with pytest.raises(NotFoundError) as caught:
        await server.service.queue_stats("nope")
    assert caught.value.details["resource_id"] == "nope"


async def test_a_paused_queue_hands_out_nothing(server: Any) -> None:  # C-QOP-01, C-QOP-02
    job = await server.push()
    assert (await server.service.pause_queue("default")).paused
    assert await server.fetch() == ()
    waiting = asyncio.ensure_future(server.fetch(wait_ms=30_000))
    assert not (await server.service.resume_queue("default")).paused
    assert [found.id for found in await asyncio.wait_for(waiting, PATIENCE_S)] == [job.id]
    assert await server.event_types("queue.*") == ["queue.paused", "queue.resumed"]


async def test_a_bad_queue_name_is_refused(server: Any) -> None:
    for call in (server.service.pause_queue("NO"), server.service.resume_queue("NO")):
        with pytest.raises(InvalidRequestError):
            await call


async def test_events_are_read_as_the_store_has_them(server: Any) -> None:
    await server.push()
    page = await server.service.events(EventQuery(limit=1))
    assert ([event.type for event in page.events], page.has_more) == (["job.enqueued"], False)


async def test_a_reset_forgets_everything(server: Any) -> None:
    await server.push()
    await server.fetch()
    await server.service.reset()
    assert await server.made() == []
    assert server.service.context.remembered == {}


async def test_a_store_that_cannot_be_opened_ends_the_start() -> None:
    backend = FaultyBackend(MemoryBackend())
    backend.fail("open", "before")
    service = Service(backend, FakeClock(), Settings())
    with pytest.raises(BackendUnavailableError):
        await service.start()
    await service.stop()


async def test_what_is_on_its_way_is_finished_before_the_store_is_closed(server: Any) -> None:
    pushing = asyncio.ensure_future(server.push())
    fetching = asyncio.ensure_future(server.fetch(wait_ms=30_000))
    await asyncio.wait({pushing}, timeout=0)
    await server.service.stop()
    assert server.service.stopping
    assert (await asyncio.wait_for(pushing, PATIENCE_S)).state == "available"
    await asyncio.wait_for(fetching, PATIENCE_S)
    assert server.backend.calls["close"] == 1
