"""Workers: heartbeats, directives, and the burial of those that fell silent."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_core.backend import Backend, Commit, JobQuery
from ojs_core.errors import NotFoundError
from ojs_core.testing.clock import HOUR, NOW


async def test_a_heartbeat_notes_the_worker(server: Any) -> None:  # C-WRK-01
    beaten, directive = await server.beat("w", hostname="host", queues=("default",))
    assert (beaten.worker.first_seen_at, beaten.worker.beats, directive) == (NOW, 1, "running")
    server.clock.advance(5)
    await server.beat("w")
    (worker,) = await server.workers.list_workers()
    assert (worker.first_seen_at, worker.last_seen_at, worker.beats) == (NOW, NOW + 5, 2)
    assert await server.event_types("worker.*") == ["worker.started"]


async def test_workers_are_listed_longest_silent_first(server: Any) -> None:
    for name in ("a", "b"):
        await server.beat(name)
        server.clock.advance(1)
    await server.beat("a")
    assert [worker.id for worker in await server.workers.list_workers()] == ["b", "a"]


async def test_a_heartbeat_renews_leases(server: Any, failure: Any) -> None:  # C-VIS-05
    mine, other = await server.push(), await server.push()
    await server.fetch(worker_id="w", lease_ms=1000)
    await server.fetch(worker_id="v", lease_ms=1000)
    server.clock.advance(900)
    beaten, _ = await server.beat("w", mine.id, other.id, "nope", lease_ms=5000)
    assert [job.id for job in beaten.extended] == [mine.id]
    assert [job.id for job in beaten.others] == [other.id]
    assert beaten.extended[0].lease_expires_at == NOW + 900 + 5000
    # The memory of the claim is renewed too: a failure still needs no read.
    server.backend.calls.clear()
    assert (await server.jobs.fail(mine.id, failure, worker_id="w")).state == "retryable"
    assert server.backend.calls == {"commit": 1}


async def test_a_heartbeat_remembers_no_job_that_another_server_handed_out(server: Any) -> None:
    job = await server.push()
    await server.fetch(worker_id="w")
    server.service.context.remembered.clear()
    beaten, _ = await server.beat("w", job.id)
    assert beaten.extended
    assert server.service.context.remembered == {}


@pytest.mark.parametrize("directive", ["quiet", "terminate"])
async def test_a_directive_holds_until_it_is_changed(server: Any, directive: str) -> None:  # C-WRK-02, C-OPS-18
    await server.push()
    await server.beat("w")
    assert (await server.workers.direct("w", directive)).directive == directive
    for _ in range(2):
        assert (await server.beat("w"))[1] == directive
        assert await server.fetch(worker_id="w") == ()
    await server.workers.direct("w", "running")
    assert (await server.beat("w"))[1] == "running"
    assert len(await server.fetch(worker_id="w")) == 1


async def test_an_unknown_worker_cannot_be_directed(server: Any) -> None:
    with pytest.raises(NotFoundError) as caught:
        await server.workers.direct("nope", "quiet")
    assert caught.value.details["resource_id"] == "nope"


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"test_directive": "quiet"}, "quiet"),
        ({"test_directive": "terminate"}, "terminate"),
        ({"test_directive": "dance"}, "running"),
        ({"test_directive": 1}, "running"),
        ({}, "running"),
    ],
)
async def test_a_job_may_ask_for_a_directive_in_test_mode(server: Any, meta: Any, expected: str) -> None:  # C-WRK-03
    server = type(server)(test_mode=True)
    plain, job = await server.push(), await server.push(meta=meta)
    await server.fetch(worker_id="w", count=2)
    assert (await server.beat("w", plain.id, job.id))[1] == expected
    # A job that ended counts too: the suite's heartbeat may come late.
    await server.jobs.ack(job.id)
    assert (await server.beat("w", job.id))[1] == expected
    # What an operator said comes first.
    await server.workers.direct("w", "quiet")
    assert (await server.beat("w", job.id))[1] == "quiet"


async def test_client_data_directs_nobody_otherwise(server: Any) -> None:
    job = await server.push(meta={"test_directive": "terminate"})
    await server.fetch(worker_id="w")
    assert (await server.beat("w", job.id))[1] == "running"


async def silent(server: Any) -> Any:
    server.clock.advance(30_001)
    (worker,) = await server.workers.list_workers()
    return worker


async def test_a_worker_heard_of_meanwhile_is_not_forgotten(server: Any) -> None:
    await server.beat("w")
    worker = await silent(server)
    await server.beat("w")
    assert await server.workers.bury(worker, server.clock.now() - 30_000) == []
    assert [one.id for one in await server.workers.list_workers()] == ["w"]
    assert await server.event_types("worker.stopped") == []


async def test_a_job_that_ends_meanwhile_is_left_alone(server: Any) -> None:
    job = await server.push()
    await server.beat("w")
    (claimed,) = await server.fetch(worker_id="w", lease_ms=HOUR)
    worker = await silent(server)
    late = [claimed]

    async def ack(store: Backend, _: Commit) -> None:
        if late:
            await store.commit([server.ack_of(late.pop())])

    server.meddle(ack)
    assert await server.workers.bury(worker, server.clock.now() - 30_000) == []
    assert await server.state(job) == "completed"


async def test_a_burial_returns_what_ended_with_the_worker(server: Any) -> None:
    last = await server.push(retry={"max_attempts": 1})
    again = await server.push()
    await server.beat("w")
    await server.fetch(worker_id="w", lease_ms=HOUR, count=9)
    worker = await silent(server)
    (ended,) = await server.workers.bury(worker, server.clock.now() - 30_000)
    assert (ended.id, ended.state) == (last.id, "discarded")
    (lapsed,) = (await server.jobs.list_jobs(JobQuery(states=frozenset({"available"})))).jobs
    assert lapsed.id == again.id
    assert lapsed.error.message == "Worker 'w' was last heard of 30.0 s ago."
    (event,) = await server.event_data("worker.stopped")
    assert (event["worker_id"], event["reason"]) == ("w", "heartbeat_timeout")


async def test_a_worker_that_only_fetched_is_forgotten(server: Any) -> None:  # C-WRK-09
    job = await server.push()
    await server.fetch(worker_id="w", lease_ms=HOUR)
    assert await server.workers.bury(await silent(server), server.clock.now()) == []
    assert await server.state(job) == "active"
    assert (await server.event_data("worker.stopped"))[0]["reason"] == "silent"
