"""Starting: what stops it, with what to do about it, and what an operator is warned of."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest
from tests.backends.redis.conftest import MakeBackend
from tests.servers.redis import RedisServer

from ojs_backend_redis.checking import WAITAOF_LEAST
from ojs_backend_redis.config import Durability
from ojs_core.errors import BackendUnavailableError, SettingsError
from ojs_core.testing.conformance.servers import free_ports
from ojs_core.testing.contract.steps import insert_one, read

MakeServer = Callable[..., RedisServer]
SAFE = ("--appendonly", "yes", "--maxmemory-policy", "noeviction")


async def test_nobody_there(make_backend: MakeBackend) -> None:
    port = free_ports(1)[0]
    expected = f"Redis cannot be reached. REDIS_URL names 127.0.0.1:{port}."
    with pytest.raises(BackendUnavailableError, match=f"^{re.escape(expected)}$"):
        await make_backend(f"redis://somebody:secret@127.0.0.1:{port}")


async def test_a_wrong_password(make_server: MakeServer, make_backend: MakeBackend) -> None:
    server = make_server("valkey", "--requirepass", "right")
    for credentials, message in (
        (":wrong@", "Redis refused the user name or password"),
        ("", "Redis wants a password"),
    ):
        with pytest.raises(SettingsError, match=f"^REDIS_URL: {message}"):
            await make_backend(f"redis://{credentials}127.0.0.1:{server.port}")
    backend = await make_backend(f"redis://:right@127.0.0.1:{server.port}")
    await backend.ping()


async def test_a_password_where_none_is_set(shared: RedisServer, make_backend: MakeBackend) -> None:
    with pytest.raises(SettingsError, match=r"^REDIS_URL: Redis refused the user name or password"):
        await make_backend(f"redis://:any@127.0.0.1:{shared.port}")


async def test_a_user_who_may_do_too_little(shared: RedisServer, make_backend: MakeBackend) -> None:
    """An ACL user needs its keys, its channel and these commands, and nothing else."""
    shared.ask("ACL", "SETUSER", "poor", "on", ">p", "~{poor}:*", "&{poor}:*", "+@read", "+info")
    url = f"redis://poor:p@127.0.0.1:{shared.port}"
    with pytest.raises(SettingsError, match="does not allow this user what a store needs"):
        await make_backend(url, prefix="poor")
    shared.ask("ACL", "SETUSER", "poor", "+@write", "+@scripting", "+@connection", "+subscribe", "+publish")
    backend = await make_backend(url, prefix="poor")
    job = await insert_one(backend)
    assert await read(backend, job.id) == job
    assert all("Persistence" not in line for line in await backend.warnings()), "it may not ask, so it does not know"
    shared.ask("ACL", "DELUSER", "poor")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="no package brings Redis 6 to this Python")
async def test_an_old_redis(make_server: MakeServer, make_backend: MakeBackend) -> None:
    server = make_server("redis-6")
    with pytest.raises(SettingsError, match=r"^This is Redis 6\.2\.\d+; ojs-server needs Redis 7\.0 or newer"):
        await make_backend(server.url)


async def test_a_replica(shared: RedisServer, make_server: MakeServer, make_backend: MakeBackend) -> None:
    replica = make_server("valkey", "--replicaof", f"127.0.0.1 {shared.port}")
    with pytest.raises(BackendUnavailableError, match=r"is a replica, which takes no writes\. Name its master"):
        await make_backend(replica.url)


async def test_a_store_of_a_newer_server(shared: RedisServer, make_backend: MakeBackend) -> None:
    shared.ask("HSET", "{later}:store", "schema", 99)
    with pytest.raises(SettingsError, match=r"'later' was written by a newer ojs-backend-redis \(schema 99"):
        await make_backend(shared.url, prefix="later")


async def test_keys_of_somebody_else(shared: RedisServer, make_backend: MakeBackend) -> None:
    shared.ask("SET", "{other}:store", "something")
    with pytest.raises(SettingsError, match=r"OJS_REDIS_PREFIX=other: .* keys of another application"):
        await make_backend(shared.url, prefix="other")


async def test_waiting_for_the_disk_needs_a_redis_that_can(make_server: MakeServer, make_backend: MakeBackend) -> None:
    old = make_server("redis", "--appendonly", "yes")
    if [int(number) for number in old.ask("INFO")["redis_version"].split(".")] >= list(WAITAOF_LEAST):
        pytest.skip("needs a Redis older than 7.2: the one here can wait")
    with pytest.raises(SettingsError, match=r"OJS_REDIS_DURABILITY=aof needs Redis 7\.2 .*'appendfsync always'"):
        await make_backend(old.url, durability=Durability(aof=True))


async def test_waiting_for_the_disk_needs_a_file(make_server: MakeServer, make_backend: MakeBackend) -> None:
    forgetful = make_server("valkey")
    with pytest.raises(SettingsError, match=r"has no append-only file.*Set 'appendonly yes'"):
        await make_backend(forgetful.url, durability=Durability(aof=True))


@pytest.mark.parametrize(
    ("options", "warnings"),
    [
        (SAFE, []),
        ((), ["Persistence is off: a restart of Redis loses every job."]),
        (("--save", "60 1"), ["Only snapshots are on: a crash of Redis loses every change since the last one"]),
        (
            (*SAFE[:2], "--maxmemory-policy", "allkeys-lru"),
            ["maxmemory-policy is 'allkeys-lru': Redis will delete jobs"],
        ),
    ],
    ids=["safe", "nothing is saved", "snapshots", "eviction"],
)
async def test_what_an_operator_is_warned_of(
    make_server: MakeServer, make_backend: MakeBackend, options: tuple[str, ...], warnings: list[str]
) -> None:
    backend = await make_backend(make_server("valkey", *options).url)
    found = await backend.warnings()
    assert len(found) == len(warnings)
    for line, expected in zip(found, warnings, strict=True):
        assert line.startswith(expected)


async def test_too_few_replicas_are_a_warning(shared: RedisServer, make_backend: MakeBackend) -> None:
    backend = await make_backend(shared.url, durability=Durability(replicas=2))
    assert any(line.startswith("OJS_REDIS_DURABILITY=wait:2, but 0 replicas") for line in await backend.warnings())


async def test_a_server_that_came_too_early_can_try_again(make_server: MakeServer, make_backend: MakeBackend) -> None:
    server = make_server()
    backend = await make_backend(server.url)
    await backend.close()
    server.stop()
    with pytest.raises(BackendUnavailableError):
        await backend.open()
    server.start()
    await backend.open()
    await backend.ping()
