"""When another server takes over: sentinels promote a replica, a cluster moves the store, a node dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from tests.backends.redis.conftest import MakeBackend
from tests.servers.proxy import proxy_to
from tests.servers.redis import RedisCluster, RedisServer

from ojs_backend_redis.backend import RedisBackend
from ojs_backend_redis.client import Client
from ojs_backend_redis.config import RedisConfig, parse_url
from ojs_core.errors import BackendUnavailableError
from ojs_core.testing.contract.doorbell import Bell
from ojs_core.testing.contract.steps import claim_ids, insert, insert_one, read
from ojs_core.testing.factories import make_new

MakeServer = Callable[..., RedisServer]
FAILOVER_S = 90
"""Longest wait for a new master: sentinels that find that they were held up do nothing for half a minute."""


async def until_stored(backend: RedisBackend) -> str:
    """Insert jobs until one is stored; return its id."""
    async with asyncio.timeout(FAILOVER_S):
        while True:
            try:
                return (await insert_one(backend, queue="after")).id
            except BackendUnavailableError:
                await asyncio.sleep(0)


def until_synced(master: RedisServer) -> None:
    """Wait until the replica has everything."""
    with master.client(single_connection_client=True) as client:
        client.set("last", "write")  # what WAIT waits for is the last write of its own connection
        while client.execute_command("WAIT", 1, 1000) != 1:
            pass


@pytest.fixture
def sentinels(make_server: MakeServer) -> tuple[RedisServer, RedisServer, RedisServer]:
    """A master, its replica, and a sentinel that watches them."""
    quick = ("--repl-diskless-sync-delay", "0")
    master = make_server("valkey", *quick)
    replica = make_server("valkey", *quick, "--replicaof", f"127.0.0.1 {master.port}")
    sentinel = make_server("valkey", sentinel=True)
    sentinel.ask("SENTINEL", "MONITOR", "jobs", "127.0.0.1", master.port, 1)
    # Nobody is taken for dead before it was killed; a failover that finds no replica ready is tried again soon.
    sentinel.ask("SENTINEL", "SET", "jobs", "down-after-milliseconds", 600_000)
    sentinel.ask("SENTINEL", "SET", "jobs", "failover-timeout", 5000)
    until_synced(master)
    with sentinel.client() as client:
        while int(client.sentinel_master("jobs")["num-slaves"]) < 1:
            pass
    return master, replica, sentinel


async def test_sentinels_promote_a_replica(
    sentinels: tuple[RedisServer, RedisServer, RedisServer], make_backend: MakeBackend
) -> None:
    """The server finds the new master by itself, and goes on hearing of work."""
    master, replica, sentinel = sentinels
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/jobs"
    backend, other = [await make_backend(url, prefix="s") for _ in range(2)]
    before = await insert(backend, *(make_new() for _ in range(5)))
    until_synced(master)
    bell = Bell(other)
    sentinel.ask("SENTINEL", "SET", "jobs", "down-after-milliseconds", 500)
    master.kill()
    with pytest.raises(BackendUnavailableError):
        await insert_one(backend)
    after = await until_stored(backend)
    assert replica.ask("ROLE")[0] in (b"master", "master")
    assert await claim_ids(backend, count=5) == [job.id for job in before]
    assert await claim_ids(other, "after") == [after]
    await bell.expect("after")


async def test_sentinels_that_know_no_such_master(
    sentinels: tuple[RedisServer, RedisServer, RedisServer], make_backend: MakeBackend
) -> None:
    with pytest.raises(BackendUnavailableError, match="cannot be reached"):
        await make_backend(f"redis+sentinel://127.0.0.1:{sentinels[2].port}/others")


@asynccontextmanager
async def held_proxies(port: int, count: int) -> AsyncIterator[str]:
    """Yield addresses, with commas between them, that take connections and never say a word."""
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(proxy_to(port)) for _ in range(count)]
        for proxy in proxies:
            proxy.hold()
        yield ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)


async def test_sentinels_that_hang(
    sentinels: tuple[RedisServer, RedisServer, RedisServer], make_backend: MakeBackend
) -> None:
    """Those named first may take connections and say nothing: the others are asked in time."""
    async with held_proxies(sentinels[2].port, 2) as hanging:
        backend = await make_backend(f"redis+sentinel://{hanging},127.0.0.1:{sentinels[2].port}/jobs")
        await insert_one(backend)


async def test_nodes_that_hang(shared_cluster: RedisCluster) -> None:
    """If the time ends before a node that answers was asked, the next request begins with another one."""
    node = shared_cluster.nodes[0]
    async with held_proxies(node.port, 5) as hanging:
        url = f"redis+cluster://{hanging},127.0.0.1:{node.port}"
        client = Client(RedisConfig(target=parse_url(url), timeout_ms=1000))
        client.open()
        with pytest.raises(BackendUnavailableError):
            await client.ask(("PING",))
        assert await client.ask(("PING",)) == [b"PONG"]
        await client.close()


async def test_a_slot_moves_to_another_node(shared_cluster: RedisCluster, make_backend: MakeBackend) -> None:
    """The next request follows it; nobody is told of an error, and nothing is lost."""
    backend = await make_backend(shared_cluster.url, prefix="moving")
    other = await make_backend(shared_cluster.url, prefix="moving")
    jobs = await insert(backend, *(make_new() for _ in range(30)))
    await claim_ids(backend, count=3)
    owner = shared_cluster.owner("{moving}:store")
    target = next(node for node in shared_cluster.nodes if node is not owner)
    shared_cluster.move_slot("{moving}:store", target)
    assert shared_cluster.owner("{moving}:store") is target
    for job in jobs:
        assert (await read(backend, job.id)).id == job.id
    bell = Bell(other)
    # Many at once, on connections that still go to the old node.
    reads = asyncio.gather(*(other.get_jobs([job.id]) for job in jobs))
    assert await claim_ids(other) == [job.id for job in jobs[3:]]
    assert [found[0].id for found in await reads] == [job.id for job in jobs]
    await insert_one(backend, queue="heard")
    await bell.expect("heard")
    shared_cluster.move_slot("{moving}:store", owner)
    await insert_one(backend)
    shared_cluster.flush()


async def test_only_the_node_that_is_down_is_missed(make_backend: MakeBackend) -> None:
    """A store on another node is served on, from whatever node the URL names first."""
    with RedisCluster() as cluster:
        for node in cluster.nodes:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        prefixes = {}
        for n in range(100):
            prefixes.setdefault(cluster.owner(f"{{p{n}}}:store").port, f"p{n}")
        first, second, _ = cluster.nodes
        there = await make_backend(cluster.url, prefix=prefixes[second.port])
        gone = await make_backend(cluster.url, prefix=prefixes[first.port])
        first.kill()
        with pytest.raises(BackendUnavailableError):
            await insert_one(gone)
        job = await insert_one(there)
        late = await make_backend(cluster.url, prefix=prefixes[second.port])
        assert await claim_ids(late) == [job.id]
