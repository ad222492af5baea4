"""Faults of Redis: each is one kind of error, within the time that is set, and over when its cause is gone."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from msgspec import Raw
from tests.backends.redis.conftest import MakeBackend
from tests.backends.redis.integrity import check_integrity
from tests.servers.redis import PATIENCE_S, RedisServer

from ojs_backend_redis.backend import RedisBackend
from ojs_backend_redis.config import Durability, RedisConfig, parse_url
from ojs_backend_redis.lane import LARGE_BYTES, Lane
from ojs_backend_redis.route import Route
from ojs_core.backend import Commit, EventQuery, JobQuery, Removal
from ojs_core.errors import BackendUnavailableError
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.doorbell import Bell
from ojs_core.testing.contract.steps import accept, apply, claim_ids, counts, insert, insert_one, read
from ojs_core.testing.factories import make_beat, make_claim, make_event, make_id, make_new, make_transition

MakeServer = Callable[..., RedisServer]
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
TIMEOUT_MS = 1000
SOON_S = 10
"""The operations of `every_operation` are asked at once; if one waited behind the other, it would be twice as long."""


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def every_operation(backend: RedisBackend) -> dict[str, Any]:
    """Return a call of each operation that asks the store something."""
    return {
        "ping": backend.ping(),
        "commit": backend.commit([Commit(inserts=(make_new(),))]),
        "claim": backend.claim([make_claim()]),
        "get_jobs": backend.get_jobs([make_id()]),
        "due_jobs": backend.due_jobs(NOW, 1),
        "next_wake_at": backend.next_wake_at(),
        "list_jobs": backend.list_jobs(JobQuery()),
        "list_queues": backend.list_queues(),
        "queue_stats": backend.queue_stats("default", NOW),
        "set_paused": backend.set_paused("p", NOW, paused=True),
        "beat": backend.beat(make_beat()),
        "list_workers": backend.list_workers(),
        "set_directive": backend.set_directive("w", "quiet"),
        "remove_worker": backend.remove_worker("w", NOW, make_event()),
        "get_cron": backend.get_cron("c"),
        "list_crons": backend.list_crons(),
        "due_crons": backend.due_crons(NOW, 1),
        "get_workflow": backend.get_workflow("w"),
        "due_workflows": backend.due_workflows(NOW, 1),
        "list_events": backend.list_events(EventQuery()),
        "prune_events": backend.prune_events(NOW, 1, 1),
    }


async def failures(backend: RedisBackend) -> dict[str, BaseException | Any]:
    """Ask everything at once; return what each operation raised, or answered."""
    calls = every_operation(backend)
    return dict(zip(calls, await asyncio.gather(*calls.values(), return_exceptions=True), strict=True))


async def until_it_works(backend: RedisBackend) -> None:
    """Ask until the store answers again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await backend.ping()
                await backend.queue_stats("default", NOW)
                await backend.set_paused("back", NOW, paused=True)
            except BackendUnavailableError:
                await asyncio.sleep(0)
            else:
                return


async def test_a_redis_that_is_gone(make_server: MakeServer, make_backend: MakeBackend) -> None:
    """Every operation says so, none as if there were nothing; it recovers by itself, with all that was answered."""
    server = make_server("valkey", *DURABLE)
    backend = await make_backend(server.url)
    jobs = await insert(backend, *(make_new() for _ in range(20)))
    await claim_ids(backend, count=5)
    server.kill()
    for _ in range(2):
        found = await failures(backend)
        assert {name: type(error) for name, error in found.items()} == dict.fromkeys(found, BackendUnavailableError)
        assert all(error.__cause__ is not None for error in found.values()), "the driver's error is chained"
        assert not any(str(server.port) in str(error) for error in found.values()), "no address in an answer"
    server.start()
    await until_it_works(backend)
    assert await counts(backend) == {"available": 15, "active": 5}
    assert await claim_ids(backend) == [job.id for job in jobs[5:]]


@pytest.mark.parametrize("how", ["stopped", "paused"])
async def test_a_redis_that_hangs(make_server: MakeServer, make_backend: MakeBackend, how: str) -> None:
    """Nobody waits for longer than the time set, not even behind others; and it recovers by itself."""
    server = make_server()
    backend = await make_backend(server.url, timeout_ms=TIMEOUT_MS)
    await until_it_works(backend)
    if how == "stopped":
        server.signal(signal.SIGSTOP)
    else:
        server.ask("CLIENT", "PAUSE", 600_000, "ALL")
    for _ in range(2):
        began = monotonic()
        found = await failures(backend)
        assert {type(error) for error in found.values()} == {BackendUnavailableError}
        assert monotonic() - began < SOON_S
    if how == "stopped":
        server.signal(signal.SIGCONT)
    else:
        # Redis takes no word of anybody's in such a pause, not even that it is over.
        server.kill()
        server.start()
    await until_it_works(backend)


async def test_a_script_that_was_forgotten(shared: RedisServer, backend: RedisBackend) -> None:
    """Nobody notices."""
    await insert_one(backend)
    shared.ask("SCRIPT", "FLUSH")
    assert len(await claim_ids(backend)) == 1


async def test_a_full_memory(make_server: MakeServer, make_backend: MakeBackend) -> None:
    """New jobs are refused and nothing of them is there; what frees memory still works, and then all does."""
    server = make_server()
    backend = await make_backend(server.url)
    ended = await insert(
        backend, *(make_new(JobState.CANCELLED, args=Raw(b'["' + b"x" * 50_000 + b'"]')) for _ in range(50))
    )
    server.ask("CONFIG", "SET", "maxmemory", 1_000_000)
    with pytest.raises(BackendUnavailableError, match=r"^Redis is out of memory \(maxmemory is reached\)\.$"):
        await insert(backend, make_new(queue="new"), make_new(queue="new", max_per_second=5))
    assert await counts(backend) == {"cancelled": 50}
    assert await backend.queue_stats("new", NOW) is None
    # A server that is not ready gets no acknowledgements, which are what makes room.
    await backend.ping()
    await accept(backend, removals=tuple(Removal(job.id, job.version) for job in ended))
    server.ask("CONFIG", "SET", "maxmemory", 0)
    await insert_one(backend)


async def test_a_redis_that_became_a_replica(
    shared: RedisServer, make_server: MakeServer, make_backend: MakeBackend
) -> None:
    """Writes are refused, and accepted again when it is the master."""
    server = make_server()
    backend = await make_backend(server.url)
    server.ask("REPLICAOF", "127.0.0.1", shared.port)
    with pytest.raises(BackendUnavailableError, match="is a replica, which takes no writes"):
        await insert_one(backend)
    with pytest.raises(BackendUnavailableError, match="is a replica, which takes no writes"):
        await backend.ping()
    server.ask("REPLICAOF", "NO", "ONE")
    await until_it_works(backend)


async def test_a_disk_that_is_full(make_server: MakeServer, make_backend: MakeBackend) -> None:
    """Redis stops taking writes when it cannot save; so do we."""
    server = make_server("valkey", "--save", "3600 1000000", "--dbfilename", "dump.rdb")
    backend = await make_backend(server.url)
    await insert_one(backend)
    server.ask("CONFIG", "SET", "rdb-key-save-delay", "0")
    (server.folder / "dump.rdb").mkdir()
    with server.client() as client:
        client.execute_command("BGSAVE")
        async with asyncio.timeout(PATIENCE_S):
            while client.info("persistence")["rdb_last_bgsave_status"] == "ok":
                await asyncio.sleep(0)
    with pytest.raises(BackendUnavailableError, match="cannot save to its disk"):
        await insert_one(backend)
    with pytest.raises(BackendUnavailableError, match="cannot save to its disk"):
        await backend.ping()
    (server.folder / "dump.rdb").rmdir()
    server.ask("BGSAVE")
    await until_it_works(backend)


async def test_a_lost_subscription(shared: RedisServer, backend: RedisBackend, make_backend: MakeBackend) -> None:
    """Everybody is called when it is back, since a call may have been missed; and from then on as before."""
    other = await make_backend(shared.url, prefix=backend._config.prefix)  # noqa: SLF001 - the same store
    bell = Bell(backend)
    assert shared.ask("CLIENT", "KILL", "TYPE", "pubsub") == 2
    async with asyncio.timeout(PATIENCE_S):
        while None not in bell.rings:
            await asyncio.sleep(0)
    bell.rings.clear()
    await insert_one(other, queue="q")
    await bell.expect("q")
    assert None not in bell.rings


async def test_a_caller_who_leaves_takes_nothing_from_the_others(backend: RedisBackend) -> None:
    """What it asked for happens all the same, and the answers behind it go to those who asked."""
    await insert_one(backend)
    new, other = make_new(), make_new()
    first = asyncio.ensure_future(backend.commit([Commit(inserts=(new,))]))
    second = asyncio.ensure_future(backend.commit([Commit(inserts=(other,))]))
    third = asyncio.ensure_future(backend.commit([Commit(removals=(Removal(make_id(), 1),))]))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second)[0].inserted[0].id == other.job.id
    assert [conflict.kind for conflict in (await third)[0].conflicts] == ["removal"]
    assert (await read(backend, new.job.id)).version == 1


async def test_a_write_cut_off_happened_or_not(make_server: MakeServer, make_backend: MakeBackend) -> None:
    """Killed at any instant, the store has each commit whole or not at all, and every one that was answered."""
    server = make_server("valkey", *DURABLE)
    backend = await make_backend(server.url, prefix="cut")
    answered: list[list[str]] = []
    asked: list[list[str]] = []

    async def enqueue() -> None:
        while True:
            news = tuple(make_new(queue=f"q{n}") for n in range(4))
            ids = [new.job.id for new in news]
            asked.append(ids)
            try:
                await backend.commit([Commit(inserts=news)])
            except BackendUnavailableError:
                return
            answered.append(ids)
            if len(answered) == 200:
                server.kill()

    await asyncio.gather(*(enqueue() for _ in range(8)))
    server.start()
    await until_it_works(backend)
    stored = 0
    for ids in asked:
        found = [job is not None for job in await backend.get_jobs(ids)]
        assert len(set(found)) == 1, "a commit in part"
        assert found[0] or ids not in answered, "lost what was answered"
        stored += found[0]
    for n in range(4):
        assert await counts(backend, f"q{n}") == {"available": stored}
        assert len(await claim_ids(backend, f"q{n}", count=1000)) == stored
    assert len(await check_integrity(backend)) == 4 * stored


# What an answer waits for.


async def test_waiting_for_replicas(make_server: MakeServer, make_backend: MakeBackend) -> None:
    """An answer comes when as many have the change as asked for; without them it is no success."""
    server = make_server("valkey", "--repl-diskless-sync-delay", "0")
    make_server("valkey", "--replicaof", f"127.0.0.1 {server.port}")
    backend = await make_backend(server.url, durability=Durability(replicas=1), timeout_ms=20_000)
    job = await insert_one(backend)
    await claim_ids(backend)
    await apply(backend, make_transition(LifecycleEvent.ACK, job.id))
    alone = await make_backend(server.url, durability=Durability(replicas=2), timeout_ms=6000)
    with pytest.raises(BackendUnavailableError, match="but not on enough replicas in time"):
        await insert_one(alone)


async def test_waiting_for_the_disk(make_server: MakeServer, make_backend: MakeBackend) -> None:
    """What was answered survives a kill, although Redis syncs its file once a second only."""
    server = make_server("valkey", "--appendonly", "yes", "--appendfsync", "everysec")
    backend = await make_backend(server.url, durability=Durability(aof=True), prefix="disk")
    job = await insert_one(backend)
    server.kill()
    server.start()
    await until_it_works(backend)
    assert await read(backend, job.id) == job


async def test_a_caller_who_leaves_amid_a_large_request(backend: RedisBackend) -> None:
    """The request is sent whole all the same: the others share the connection."""
    await insert_one(backend)
    large = make_new(args=Raw(b'["' + b"x" * 5_000_000 + b'"]'))
    first = asyncio.ensure_future(backend.commit([Commit(inserts=(large,))]))
    others = [asyncio.ensure_future(backend.commit([Commit(inserts=(make_new(),))])) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    assert all(len(answers[0].inserted) == 1 for answers in await asyncio.gather(*others))
    await insert_one(backend)  # behind it on the same connection
    assert (await read(backend, large.job.id)).version == 1


async def test_what_a_hanging_redis_does_not_take_is_thrown_away(
    make_server: MakeServer, make_backend: MakeBackend
) -> None:
    """A connection with something left to send is closed all the same, and not left to be found by the collector."""
    server = make_server("valkey")
    before = open_files()
    backend = await make_backend(server.url, timeout_ms=300)
    await backend.commit([Commit(inserts=(make_new(),))])
    server.signal(signal.SIGSTOP)
    large = make_new(args=Raw(b'["' + b"x" * 32_000_000 + b'"]'))
    with pytest.raises(BackendUnavailableError):
        await backend.commit([Commit(inserts=(large,))])
    await backend.close()
    assert open_files() == before


class RememberingRoute(Route):
    """Knows the last connection."""

    async def connect(self) -> Any:
        self.last = await super().connect()
        return self.last


async def test_a_connection_that_ends_while_a_large_request_is_about_to_be_sent(shared: RedisServer) -> None:
    """It is sent on the next one. It must not wait for ever."""
    route = RememberingRoute(RedisConfig(target=parse_url(shared.url)))
    lane = Lane(route, PATIENCE_S)
    await lane.ask([("PING",)])
    asking = asyncio.create_task(lane.ask([("ECHO", "x" * 2 * LARGE_BYTES)]))
    # Its end is read after the request was made, and before it is its turn to be sent.
    route.last._reader.feed_eof()  # noqa: SLF001 - Redis cannot be made to hang up at that moment
    await asyncio.wait({asking}, timeout=SOON_S)
    assert asking.done()
    assert asking.result() == [b"x" * 2 * LARGE_BYTES]
    await lane.close()
