"""Servers on Redis: whatever is killed, the servers or Redis itself, what was answered holds and happens once."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections import Counter
from functools import partial

import msgspec
import pytest
from tests.backends.redis.integrity import check_integrity, shards_of
from tests.crash.history import Store, summary, violations
from tests.crash.load import CRON, Load
from tests.servers.redis import RedisServer

from ojs_backend_redis.backend import RedisBackend
from ojs_backend_redis.config import RedisConfig, parse_url
from ojs_backend_redis.spread import SpreadBackend
from ojs_core.job import encode_record

SEED = 7
PREFIX = "ojs"


def read_store(redis, shards, events, stats):
    """Return what Redis has, having checked that its indexes say what its records say."""
    config = RedisConfig(target=parse_url(redis.url), prefix=PREFIX, shards=shards)
    roots = [config.of_shard(n).root for n in range(shards)]

    async def read_jobs():
        backend = RedisBackend(config) if shards == 1 else SpreadBackend(config)
        await backend.open()
        jobs = [job for shard in shards_of(backend) for job in await check_integrity(shard)]
        await backend.close()
        return jobs

    jobs = asyncio.run(read_jobs())
    return Store(
        jobs={job.id: json.loads(encode_record(job)) for job in jobs},
        workflows={
            name.decode(): json.loads(msgspec.msgpack.decode(packed)[1])
            for root in roots
            for name, packed in redis.ask("HGETALL", f"{root}flows").items()
        },
        counted=Counter((job.queue, job.state.value) for job in jobs),
        integrity="ok",
        events=events,
        stats=stats,
    )


def kill_a_server(servers, redis, load, rng):  # noqa: ARG001 - as the others
    victim = rng.choice(servers)
    load.await_answers(rng.randint(30, 150), lambda: victim.signal(signal.SIGKILL))
    assert victim.await_end() == -signal.SIGKILL
    victim.start()


def kill_redis(servers, redis, load, rng):  # noqa: ARG001 - as the others
    load.await_answers(rng.randint(30, 150), redis.kill)
    redis.start()


def forget_scripts_and_connections(servers, redis, load, rng):  # noqa: ARG001 - as the others
    def forget():
        redis.ask("SCRIPT", "FLUSH")
        redis.ask("CLIENT", "KILL", "SKIPME", "yes", "TYPE", "normal")

    load.await_answers(rng.randint(30, 150), forget)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shards", [1, 3])
def test_audit(make_server, make_client, shards):
    with RedisServer("valkey", ("--appendonly", "yes", "--appendfsync", "always")) as redis:
        environ = {
            "OJS_BACKEND": "redis",
            "REDIS_URL": redis.url,
            "OJS_REDIS_TIMEOUT_MS": 2000,
            "OJS_REDIS_SHARDS": shards,
        }
        servers = [make_server(**environ), make_server(**environ)]
        for server in servers:
            server.start()
        client = make_client(servers[0])
        client.ask("POST", "/ojs/v1/cron", {"name": "tick", **CRON})
        rng = random.Random(SEED)  # noqa: S311 - nothing secret
        with Load(servers, SEED * 1000).running() as load:
            for fault in (kill_a_server, kill_redis, forget_scripts_and_connections, kill_redis, kill_a_server):
                fault(servers, redis, load, rng)
            load.await_answers(100)
        client.close()
        client.ask("DELETE", "/ojs/v1/cron/tick")
        servers[1].stop()
        servers[0].read_store = partial(read_store, redis, shards)
        store = load.settle(servers[0])
        print(summary(load.history, store))  # noqa: T201 - shown with -s, and when it fails
        assert violations(load.history, store) == []
