"""Results that the record of a workflow has no room for, on every store: it stays bounded, and nothing gets stuck."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.service.conftest import Server
from tests.service.flows import ack, create, group, job, members, results, state, take

from ojs_backend_nats.backend import NATSBackend
from ojs_backend_nats.config import NATSConfig
from ojs_backend_postgres.backend import PostgresBackend
from ojs_backend_postgres.config import PostgresConfig
from ojs_backend_redis.backend import RedisBackend
from ojs_backend_redis.config import RedisConfig, parse_url
from ojs_backend_sqlite.backend import SQLiteBackend
from ojs_backend_sqlite.config import SQLiteConfig
from ojs_core.backend import Backend, Commit, Removal, WorkflowWrite
from ojs_core.memory import MemoryBackend
from ojs_core.records import encode
from ojs_core.testing.clock import HOUR
from ojs_core.workflow import RESULTS_MAX_BYTES
from ojs_core.workflow import step as step_module

MEBIBYTE = "x" * (2**20 - 2)


@pytest.fixture(params=["memory", "sqlite", "valkey", "postgres", "nats"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    """The services on each store, which may take its time."""
    backend: Backend
    match request.param:
        case "memory":
            backend = MemoryBackend()
        case "sqlite":
            backend = SQLiteBackend(SQLiteConfig(path=str(tmp_path / "ojs.db")))
        case "valkey":
            valkey = request.getfixturevalue("shared_redis")("valkey")
            backend = RedisBackend(RedisConfig(target=parse_url(valkey.url), prefix="results", timeout_ms=60_000))
        case "postgres":
            postgres_config: PostgresConfig = request.getfixturevalue("postgres_config")
            backend = PostgresBackend(postgres_config)
        case _:
            nats_config: NATSConfig = request.getfixturevalue("nats_config")
            backend = NATSBackend(msgspec.structs.replace(nats_config, timeout_ms=60_000))
    server = Server(backend)
    await backend.open()
    await backend.reset()
    yield server
    await backend.reset()
    await server.service.stop()


def steps(**steps: list[str]) -> dict[str, Any]:
    return {"steps": [{"id": name, **job(name), "depends_on": before} for name, before in steps.items()]}


async def test_the_record_of_a_large_workflow_is_bounded(server: Server) -> None:
    """By the real limit: 18 members with the largest results that jobs may have."""
    workflow_id = await create(server, group(*[job()] * 18))
    taken = await server.fetch(count=18, lease_ms=HOUR)
    for first in range(0, 18, 6):
        # Those that end together are noted together.
        await asyncio.gather(*(ack(server, found, MEBIBYTE) for found in taken[first : first + 6]))
    assert await state(server, workflow_id) == "completed"
    record = await server.backend.get_workflow(workflow_id)
    assert record is not None
    assert RESULTS_MAX_BYTES <= len(encode(record)) < RESULTS_MAX_BYTES + 100_000
    left = [member for member in record.members if member.result_bytes is not None]
    assert [member.result_bytes for member in left] == [2**20] * 2
    found = await server.jobs.info(left[0].job_id or "")
    assert msgspec.json.decode(found.result or b"") == MEBIBYTE


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a record keep four bytes of results."""
    monkeypatch.setattr(step_module, "RESULTS_MAX_BYTES", 4)


async def start_two(server: Server) -> str:
    """Start a workflow whose step `last` needs `first`, the result of which is left with the job, and `second`."""
    workflow_id = await create(server, steps(first=[], second=[], last=["first", "second"]))
    taken = {found.type: found for found in await server.fetch(count=9, lease_ms=HOUR)}
    await ack(server, taken["first"], "more than four bytes")
    view = await server.workflows.get(workflow_id)
    assert view["steps"][0]["result_bytes"] == len('"more than four bytes"')
    await ack(server, taken["second"], 2)
    return workflow_id


@pytest.mark.usefixtures("little_room")
async def test_what_was_left_with_a_job_is_handed_on(server: Server) -> None:
    workflow_id = await start_two(server)
    last = await take(server, "last")
    assert results(last) == ["more than four bytes", 2]
    await ack(server, last)
    assert await state(server, workflow_id) == "completed"


@pytest.mark.usefixtures("little_room")
async def test_a_crash_before_it_is_handed_on_is_repaired(server: Server) -> None:
    """The last end is acknowledged, and nobody notes it but the sweeper."""
    workflow_id = await create(server, steps(first=[], second=[], last=["first", "second"]))
    taken = {found.type: found for found in await server.fetch(count=9, lease_ms=HOUR)}
    await ack(server, taken["first"], "more than four bytes")
    await server.backend.commit([server.ack_of(taken["second"])])
    assert await members(server, workflow_id) == ["completed", "completed", "waiting"]
    await server.tick(1000)
    assert results(await take(server, "last")) == ["more than four bytes", None]


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("found", ["there", "gone", "behind"])
async def test_what_was_left_with_a_nested_workflow_is_handed_on(server: Server, found: str) -> None:
    """Unless it is gone, or a store that lost its newest writes has it as it was before its end."""
    definition = steps(second=[], last=["inner", "second"])
    definition["steps"].append({"id": "inner", **group(job("one"), job("two")), "depends_on": []})
    workflow_id = await create(server, definition)
    taken = {one.type: one for one in await server.fetch(count=9, lease_ms=HOUR)}
    for name, result in (("one", 1), ("two", 2)):
        await ack(server, taken[name], result)
    inner = (await server.workflows.get(workflow_id))["steps"][2]
    assert (inner["state"], inner["result_bytes"]) == ("completed", len("[1,2]"))
    if found == "gone":
        await server.put_workflow(server.backend, inner["workflow_id"], gone=True)
    elif found == "behind":
        record = await server.backend.get_workflow(inner["workflow_id"])
        assert record is not None
        record = msgspec.structs.replace(record, state="running")
        await server.backend.commit([Commit(workflows=(WorkflowWrite(record.id, record, record.version),))])
    await ack(server, taken["second"], 3)
    if found == "there":
        assert results(await take(server, "last")) == [3, None, [1, 2]]
    else:
        assert await members(server, workflow_id) == ["completed", "failed", "completed"]


@pytest.mark.usefixtures("little_room")
async def test_a_step_whose_result_is_gone_fails(server: Server) -> None:
    """The job it was left with was removed before; the workflow ends."""

    async def remove_first(store: Backend, commit: Commit) -> None:
        for change in commit.transitions:
            second, first = [*await store.get_jobs([change.job_id]), None]
            if second is not None and second.type == "second":
                workflow = await store.get_workflow(second.workflow_id or "")
                assert workflow is not None
                (first,) = await store.get_jobs([workflow.members[0].job_id or ""])
            if first is not None:
                await store.commit([Commit(removals=(Removal(first.id, first.version),))])

    server.meddle(remove_first)
    workflow_id = await start_two(server)
    assert await members(server, workflow_id) == ["completed", "completed", "failed"]
    view = await server.workflows.get(workflow_id)
    assert (view["state"], view["steps"][2]["error"]["code"]) == ("failed", "not_found")
    assert await server.fetch(count=9) == ()
