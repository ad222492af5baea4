"""Wake-ups: how soon a server hears of work that another one made available."""

from __future__ import annotations

import asyncio
from time import perf_counter

from tests.backends.redis.conftest import MakeBackend
from tests.servers.redis import RedisServer

from ojs_core.testing.contract.doorbell import Bell
from ojs_core.testing.contract.steps import insert_one

SOON_S = 0.02
"""A fetch that waits wakes within this after an enqueue on another server."""


async def test_others_hear_of_work_at_once(shared: RedisServer, make_backend: MakeBackend) -> None:
    """The best of fifty counts: on a busy machine many may be late."""
    here = await make_backend(shared.url, prefix="wake")
    there = await make_backend(shared.url, prefix="wake")
    took_s = []
    for n in range(50):
        bell = Bell(there)
        began = perf_counter()
        inserting = asyncio.ensure_future(insert_one(here, queue=f"q{n}"))
        await bell.expect(f"q{n}")
        took_s.append(perf_counter() - began)
        await inserting
    assert min(took_s) < SOON_S


async def test_a_server_is_told_once_of_its_own_work(shared: RedisServer, make_backend: MakeBackend) -> None:
    """It rings its own bell when it has the answer, and passes over the message that Redis sends it all the same."""
    backend = await make_backend(shared.url, prefix="own")
    other = await make_backend(shared.url, prefix="own")
    bell, last = Bell(backend), Bell(backend)
    for n in range(20):
        await insert_one(backend, queue=f"q{n}")
    await insert_one(other, queue="from the other")
    await last.expect("from the other")  # what was published before has come before
    assert bell.rings == [*(frozenset({f"q{n}"}) for n in range(20)), frozenset({"from the other"})]
