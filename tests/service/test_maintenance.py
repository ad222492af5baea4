"""What the clock does."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest
from tests.service import flows

from ojs_core.backend import Backend, BeatRequest, Commit, CronWrite, JobQuery
from ojs_core.envelope import decode_object
from ojs_core.errors import BackendUnavailableError, NotFoundError
from ojs_core.failing import plan_failure
from ojs_core.job import Job
from ojs_core.records import CronEntry, Worker
from ojs_core.service import HeartbeatRequest, maintenance
from ojs_core.testing.clock import DAY, FakeClock

PATIENCE_S = 30


async def test_promotes_scheduled_and_retryable_jobs(server: Any, failure: Any) -> None:  # T04, T14, C-RTY-07
    scheduled = await server.push(scheduled_at="+PT5S")
    retryable = await server.push("other.job", queue="r")
    await server.fetch("r")
    await server.jobs.fail(retryable.id, failure)
    await server.tick(999)
    assert await server.state(retryable) == "retryable"
    await server.tick(1)
    assert await server.state(retryable) == "available"
    await server.tick(4000)
    assert await server.state(scheduled) == "available"


@pytest.mark.parametrize("options", [{}, {"pending": True}, {"scheduled_at": "+PT1H"}])
async def test_expires_what_was_not_started(server: Any, options: dict[str, Any]) -> None:  # T16, C-SCH-04
    job = await server.push(expires_at="+PT2S", options=options)
    await server.tick(2000)
    assert await server.state(job) == "discarded"
    assert "job.expired" in await server.event_types()


async def test_does_not_expire_an_active_job(server: Any) -> None:  # C-SCH-06
    job = await server.push(expires_at="+PT2S")
    await server.fetch()
    await server.tick(60_000)
    assert await server.state(job) == "active"


async def test_a_lapsed_lease_makes_the_job_available_at_once(server: Any) -> None:  # T12, C-VIS-02, -03
    job = await server.push()
    await server.fetch(lease_ms=3000, worker_id="w")
    await server.tick(3000)
    seen = await server.jobs.info(job.id)
    assert (seen.state, seen.attempt, seen.started_at, seen.worker_id) == ("available", 1, None, None)
    assert [error.type for error in seen.errors] == ["visibility_timeout"]


async def test_poison_pills_die(server: Any) -> None:  # T13
    job = await server.push(retry={"max_attempts": 2, "on_exhaustion": "dead_letter"})
    for _ in range(2):
        await server.fetch(lease_ms=1000)
        await server.tick(1000)
    seen = await server.jobs.info(job.id)
    assert (seen.state, seen.dead, len(seen.errors)) == ("discarded", True, 2)


async def test_an_execution_that_takes_too_long_has_failed(server: Any) -> None:  # T11, C-VIS-06, -07
    job = await server.push(timeout=2)
    await server.fetch(worker_id="w")
    beat = HeartbeatRequest(worker=Worker(id="w", first_seen_at=0, last_seen_at=0), job_ids=(job.id,))
    server.clock.advance(1000)
    await server.workers.beat(beat)
    await server.tick(1000)
    seen = await server.jobs.info(job.id)
    assert (seen.state, seen.error.type) == ("retryable", "timeout")
    details = msgspec.json.decode(seen.error.details)
    assert details == {"timeout_kind": "execution", "limit_seconds": 2.0, "elapsed_seconds": 2.0}


async def test_removes_finished_jobs_when_their_retention_ends(server: Any) -> None:
    job = await server.push()
    await server.fetch()
    await server.jobs.ack(job.id)
    await server.tick(DAY - 1)
    assert await server.state(job) == "completed"
    await server.tick(1)
    with pytest.raises(NotFoundError):
        await server.jobs.info(job.id)


async def test_a_look_is_bounded_and_says_that_there_is_more(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "DUE_PER_LOOK", 3)
    for _ in range(5):
        await server.push(scheduled_at="+PT1S")
    server.clock.advance(1000)
    assert await server.service.maintenance.look() is True
    assert await server.service.maintenance.look() is False
    assert len(await server.fetch(count=9)) == 5


def worker(worker_id: str) -> Worker:
    return Worker(id=worker_id, first_seen_at=0, last_seen_at=0)


async def test_a_dead_worker_loses_its_jobs(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # C-WRK-08
    monkeypatch.setattr("ojs_core.service.workers.LAPSED_PER_STEP", 2)
    jobs = [await server.push() for _ in range(3)]
    last = await server.push("other.job", retry={"max_attempts": 1})
    await server.fetch(worker_id="w", count=9)
    await server.workers.beat(HeartbeatRequest(worker=worker("w")))
    server.clock.advance(30_001)
    await server.service.maintenance.bury_dead_workers()
    assert [await server.state(job) for job in jobs] == ["available"] * 3
    assert await server.state(last) == "discarded"
    assert (await server.jobs.info(jobs[0].id)).error.type == "worker_death"
    assert await server.workers.list_workers() == []
    assert (await server.event_data("worker.stopped"))[0]["reason"] == "heartbeat_timeout"


async def test_many_dead_workers_do_not_wait_for_their_turn(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look is bounded; whoever is left over is seen to at once and not a second later."""
    monkeypatch.setattr(maintenance, "BURIED_PER_LOOK", 2)
    for name in "abc":
        await server.workers.beat(HeartbeatRequest(worker=worker(name)))
    server.clock.advance(30_001)
    assert await server.service.maintenance.bury_dead_workers()
    assert [left.id for left in await server.workers.list_workers()] == ["c"]
    assert not await server.service.maintenance.bury_dead_workers()
    assert await server.workers.list_workers() == []


async def test_a_worker_that_only_fetches_keeps_its_jobs(server: Any) -> None:  # C-WRK-09
    job = await server.push()
    await server.fetch(worker_id="w")
    server.clock.advance(60_000)
    await server.service.maintenance.bury_dead_workers()
    assert await server.state(job) == "active"
    assert await server.workers.list_workers() == []


async def test_a_worker_that_beats_lives(server: Any) -> None:
    await server.workers.beat(HeartbeatRequest(worker=worker("w")))
    server.clock.advance(29_999)
    await server.service.maintenance.bury_dead_workers()
    assert len(await server.workers.list_workers()) == 1


async def test_prunes_events_and_dead_letters(server: Any, failure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "DUE_PER_LOOK", 2)
    server = type(server)(dead_letter_max=1, events_max=4)
    for _ in range(4):
        job = await server.push(retry={"max_attempts": 1, "on_exhaustion": "dead_letter"})
        await server.fetch()
        await server.jobs.fail(job.id, failure)
        server.clock.advance(1)
    while await server.service.maintenance.prune():
        pass
    left = (await server.jobs.list_jobs(JobQuery(dead=True))).jobs
    assert [found.id for found in left] == [job.id]
    assert len(await server.event_types()) == 4


async def test_a_dead_letter_is_not_pruned_before_its_workflow_knows(server: Any, failure: Any) -> None:
    """A server may die between the end of a member and the next step of its workflow."""
    server = type(server)(dead_letter_max=1)
    flow = await flows.create(server, flows.chain(flows.job(options=flows.DEAD), flows.job()))
    member = await flows.take(server)
    now = server.clock.now()
    died = plan_failure(member, now, server.service.context.retention, failure.at(1, now), 0.0)
    await server.backend.commit([Commit(transitions=(died,))])
    server.clock.advance(1)
    newer = await server.push(retry=flows.DEAD["retry"])
    await server.fetch()
    await server.jobs.fail(newer.id, failure)
    for _ in range(2):
        await server.service.maintenance.prune()
    assert await flows.state(server, flow) == "failed"
    left = (await server.jobs.list_jobs(JobQuery(dead=True))).jobs
    assert [found.id for found in left] == [newer.id]


async def test_one_record_that_cannot_be_woken_does_not_keep_the_others_asleep(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken = CronEntry(
        name="broken", expression="no cron", timezone="UTC", job=msgspec.Raw(b'{"type":"a","args":["data"]}'),
        created_at=0, wake_at=0, next_run_at=0,
    )  # fmt: skip
    await server.backend.commit([Commit(cron=CronWrite("broken", broken, 0))])
    job = await server.push(scheduled_at="+PT1S")
    with caplog.at_level(logging.ERROR):
        await server.tick(1000)
    assert await server.state(job) == "available"
    assert "What is due for cron entry 'broken' failed; it is tried again." in caplog.messages
    assert "data" not in caplog.text


async def test_the_loops_do_their_work_and_stop(server: Any) -> None:
    await server.service.start()
    job = await server.push(scheduled_at="+PT1S")
    server.clock.advance(1000)
    async with asyncio.timeout(PATIENCE_S):
        while await server.state(job) != "available":
            await asyncio.sleep(0)
    await server.service.stop()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("ojs-")]


async def start_with_one_due(server: Any) -> Job:
    """Start the loops; when they know of a scheduled job, its time comes. No loop has looked since."""
    job = await server.push(scheduled_at="+PT1S")
    await server.service.start()
    async with asyncio.timeout(PATIENCE_S):
        while not server.backend.calls["next_wake_at"]:
            await asyncio.sleep(0)
    server.clock.advance(1000)
    return job


@pytest.mark.parametrize("wait_ms", [0, 1])
async def test_what_was_due_when_a_fetch_came_is_handed_to_it(server: Any, wait_ms: int) -> None:  # C-SCH-01, C-OPS-16
    job = await start_with_one_due(server)
    assert [job.id for job in await server.fetch(wait_ms=wait_ms)] == [job.id]


async def test_a_fetch_does_not_wait_for_a_failing_promotion(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "CATCH_UP_S", 10 * PATIENCE_S)

    async def away(_: Backend, __: Commit) -> None:
        raise BackendUnavailableError("away")

    await start_with_one_due(server)
    server.meddle(away)
    async with asyncio.timeout(PATIENCE_S):
        assert await server.fetch() == ()
        assert await server.fetch() == ()


async def test_a_fetch_does_not_wait_long_for_a_slow_promotion(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "CATCH_UP_S", 0)
    answered = asyncio.Event()

    async def slow(_: Backend, __: Commit) -> None:
        await answered.wait()

    job = await start_with_one_due(server)
    server.meddle(slow)
    assert await server.fetch() == ()
    answered.set()
    monkeypatch.setattr(maintenance, "CATCH_UP_S", PATIENCE_S)
    assert [job.id for job in await server.fetch()] == [job.id]


async def test_the_loops_survive_an_outage_and_a_bug(
    server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(maintenance, "FAILED_PAUSE_S", 0)
    troubles: list[Exception] = [*(BackendUnavailableError("away") for _ in range(3)), RuntimeError("bug")]
    look = server.service.maintenance.look
    more = [True]
    done = asyncio.Event()

    async def troubled() -> bool:
        if troubles:
            raise troubles.pop(0)
        if more:
            return more.pop()
        done.set()
        return await look()

    monkeypatch.setattr(server.service.maintenance, "look", troubled)
    await server.service.start()
    await asyncio.wait_for(done.wait(), PATIENCE_S)
    await server.service.stop()
    assert caplog.text.count("waits for the store: away") == caplog.text.count("goes on") == 1
    assert "Background work failed" in caplog.text


async def test_an_outage_ends_a_look(server: Any) -> None:
    await server.register()
    server.clock.advance(60_000)

    async def away(_: Backend, __: Commit) -> None:
        raise BackendUnavailableError("away")

    server.meddle(away)
    with pytest.raises(BackendUnavailableError):
        await server.service.maintenance.look()


@pytest.mark.parametrize("trouble", [BackendUnavailableError("away"), RuntimeError("bug")])
async def test_what_keeps_a_workflow_from_going_on(
    server: Any, trouble: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    definition = {"type": "chain", "steps": [{"type": "one", "args": []}, {"type": "two", "args": []}]}
    await server.workflows.create(*decode_object(msgspec.json.encode(definition)))
    (one,) = await server.fetch()
    await server.backend.commit([server.ack_of(one)])
    server.clock.advance(1000)
    troubles = [trouble]

    async def stand_in_the_way(_: Backend, commit: Commit) -> None:
        if commit.workflows and troubles:
            raise troubles.pop()

    server.meddle(stand_in_the_way)
    if isinstance(trouble, BackendUnavailableError):
        # The store being away ends the look: the loop waits before the next one.
        with pytest.raises(BackendUnavailableError):
            await server.service.maintenance.look()
    else:
        await server.service.maintenance.look()
        assert "A workflow could not go on" in caplog.text
    await server.tick()
    assert len(await server.fetch()) == 1


async def test_beats_are_noted_by_the_store(server: Any) -> None:
    beaten = await server.backend.beat(BeatRequest(worker=worker("w"), job_ids=(), now=FakeClock().now()))
    assert beaten.worker.beats == 1
