"""The end of a workflow by cancellation (C-WF-18, Q-23f), through the services."""

from __future__ import annotations

from typing import Any

import pytest
from tests.service.flows import (
    ONCE,
    UNIQUE,
    ack,
    batch,
    callbacks,
    chain,
    create,
    group,
    job,
    members,
    state,
    states,
    take,
    types,
)

from ojs_core.backend import Backend, Commit
from ojs_core.errors import BackendUnavailableError, StateConflictError
from ojs_core.failing import plan_failure
from ojs_core.testing.clock import HOUR, NOW
from ojs_core.testing.contract.steps import accept


async def test_cancelling_ends_what_waits_and_lets_run_what_runs(server: Any) -> None:  # C-WF-18
    workflow_id = await create(server, group(job("one"), job("two"), job("three", scheduled_at="+PT1H"), job("four")))
    one, two = await server.fetch(count=2, lease_ms=HOUR)
    await ack(server, one)
    view = await server.workflows.cancel(workflow_id)
    assert view["state"] == "cancelled"
    assert (view["steps_cancelled"], view["steps_already_completed"]) == (2, 1)
    left = {"one": "completed", "two": "active", "three": "cancelled", "four": "cancelled"}
    assert await states(server) == left
    assert await server.fetch(count=9) == ()
    await ack(server, two)
    await server.tick(1000)
    assert await state(server, workflow_id) == "cancelled"
    assert all(found.advanced for found in await server.made())
    with pytest.raises(StateConflictError):
        await server.workflows.cancel(workflow_id)
    assert (await server.event_types()).count("workflow.cancelled") == 1


async def test_a_cancelled_chain_goes_no_further(server: Any) -> None:
    workflow_id = await create(server, chain(job("one"), job("two")))
    one = await take(server)
    await server.workflows.cancel(workflow_id)
    await ack(server, one)
    assert await types(server) == ["one"]
    assert await state(server, workflow_id) == "cancelled"


async def test_cancelling_reaches_every_depth(server: Any) -> None:
    ended = chain(job("ended"))
    workflow_id = await create(server, group(ended, chain(group(job("deep"), job("deeper")), job("never"))))
    (first,) = [found for found in await server.made() if found.type == "ended"]
    await server.fetch(count=1)
    await ack(server, first)
    await server.workflows.cancel(workflow_id)
    assert await states(server) == {"ended": "completed", "deep": "cancelled", "deeper": "cancelled"}
    for found in await server.made():
        assert await state(server, found.workflow_id) == found.state
    await server.tick(HOUR)
    assert await state(server, workflow_id) == "cancelled"


async def test_cancelling_a_nested_workflow_moves_its_parent(server: Any) -> None:
    workflow_id = await create(server, batch(chain(job("deep")), job("beside"), **callbacks()))
    deep, beside = await server.fetch(count=9)
    await ack(server, beside)
    await server.workflows.cancel(deep.workflow_id)
    assert await members(server, workflow_id) == ["cancelled", "completed"]
    called = await server.fetch(count=9)
    assert [found.type for found in called] == ["call.on_complete", "call.on_failure"]
    for found in called:
        await ack(server, found)
    assert await state(server, workflow_id) == "completed"


async def test_cancelling_a_nested_workflow_when_the_next_step_is_taken(server: Any) -> None:
    workflow_id = await create(server, batch(chain(job("deep")), on_complete=job("call", **UNIQUE)))
    await server.push("call", **UNIQUE)
    (deep,) = [found for found in await server.made() if found.type == "deep"]
    await server.workflows.cancel(deep.workflow_id)
    assert await state(server, workflow_id) == "failed"


async def test_a_job_claimed_while_its_workflow_is_cancelled_may_finish(server: Any) -> None:
    workflow_id = await create(server, chain(job()))
    claimed = []

    async def claim(_: Backend, commit: Commit) -> None:
        if commit.transitions and not claimed:
            claimed.extend(await server.fetch(lease_ms=HOUR))

    server.meddle(claim)
    await server.workflows.cancel(workflow_id)
    assert await server.states() == ["active"]
    await ack(server, claimed[0])
    assert await state(server, workflow_id) == "cancelled"


async def test_the_clock_finishes_a_cancellation_that_was_cut_off(server: Any) -> None:
    workflow_id = await create(server, group(job("one"), chain(job("two"), job("three"))))

    async def crash(_: Backend, commit: Commit) -> None:
        if not commit.workflows:
            raise BackendUnavailableError("gone")

    store = server.backend.inner
    server.meddle(crash)
    with pytest.raises(BackendUnavailableError):
        await server.workflows.cancel(workflow_id)
    server.backend.inner = store
    assert await server.states() == ["available", "available"]
    assert await state(server, workflow_id) == "cancelled"
    await server.tick(1000)
    assert await server.states() == ["cancelled", "cancelled"]
    assert await server.fetch(count=9) == ()


async def test_a_cancellation_whose_workflow_vanishes(server: Any) -> None:
    workflow_id = await create(server, chain(job()))

    async def vanish(store: Backend, commit: Commit) -> None:
        if commit.transitions and await store.get_workflow(workflow_id) is not None:
            await server.put_workflow(store, workflow_id, gone=True)

    server.meddle(vanish)
    assert (await server.workflows.cancel(workflow_id))["state"] == "cancelled"
    assert await server.states() == ["cancelled"]


async def test_a_running_workflow_has_nothing_due(server: Any) -> None:
    workflow_id = await create(server, chain(job()))
    workflow = await server.backend.get_workflow(workflow_id)
    assert workflow.wake_at is None
    await server.workflows.wake(workflow)
    assert await state(server, workflow_id) == "running"


async def test_a_job_whose_workflow_was_cancelled_is_not_retried(server: Any, failure: Any) -> None:  # C-WF-18
    workflow_id = await create(server, group(job("one"), job("two", **ONCE)))
    one, two = await server.fetch(count=2, lease_ms=HOUR)
    await server.workflows.cancel(workflow_id)
    assert (await server.jobs.fail(one.id, failure)).state == "cancelled"
    assert (await server.jobs.fail(two.id, failure)).state == "discarded"
    assert await members(server, workflow_id) == ["cancelled", "failed"]
    server.backend.calls.clear()
    await server.tick(HOUR)
    assert await states(server) == {"one": "cancelled", "two": "discarded"}
    assert [found.attempt for found in await server.made()] == [1, 1]
    (cancelled,) = await server.event_data("job.cancelled")
    assert cancelled["reason"] == "workflow_cancelled"


@pytest.mark.parametrize("how", ["requeue", "lapse", "timeout", "worker", "elsewhere"])
async def test_no_end_of_a_last_run_leads_to_another(server: Any, failure: Any, how: str) -> None:  # C-WF-18
    workflow_id = await create(server, chain(job(timeout=2) if how == "timeout" else job(expires_at="+PT2S")))
    await server.beat("w")
    (found,) = await server.fetch(worker_id="w", lease_ms=1000 if how == "lapse" else HOUR)
    await server.workflows.cancel(workflow_id)
    match how:
        case "requeue":
            await server.jobs.requeue(found.id, worker_id="w")
        case "elsewhere":  # a process that remembers the job as it handed it out
            server.service.context.remember(found)
            await server.jobs.fail(found.id, failure)
        case "lapse":
            await server.tick(999)
            assert await server.states() == ["active"]
            await server.tick(1)
        case "timeout":
            await server.tick(2000)
        case _:
            server.clock.advance(30_001)
            await server.service.maintenance.bury_dead_workers()
    assert await server.states() == ["cancelled"]
    assert await server.fetch() == ()


async def test_a_last_run_does_not_expire(server: Any) -> None:
    workflow_id = await create(server, chain(job(expires_at="+PT2S")))
    one = await take(server)
    await server.workflows.cancel(workflow_id)
    await server.tick(2000)
    await ack(server, one)
    assert await server.states() == ["completed"]


async def test_a_job_that_fails_while_its_workflow_is_cancelled_is_not_retried(server: Any, failure: Any) -> None:
    workflow_id = await create(server, chain(job()))
    one = await take(server)
    plans = [plan_failure(one, NOW, server.service.context.retention, failure.at(1, NOW), 0.5)]

    async def fail(store: Backend, commit: Commit) -> None:
        if commit.transitions and plans:
            await accept(store, transitions=(plans.pop(),))
            assert await server.states() == ["retryable"]

    server.meddle(fail)
    await server.workflows.cancel(workflow_id)
    assert await server.states() == ["cancelled"]


async def test_a_job_that_keeps_changing_is_left_to_the_clock(server: Any, failure: Any) -> None:
    workflow_id = await create(server, chain(job()))
    one = await take(server)

    async def touch(store: Backend, commit: Commit) -> None:
        if commit.transitions:
            await store.commit([server.touch_of((await store.get_jobs([one.id]))[0])])

    store = server.backend.inner
    server.meddle(touch)
    assert (await server.workflows.cancel(workflow_id))["state"] == "cancelled"
    assert not (await server.jobs.info(one.id)).last_run
    server.backend.inner = store
    await server.tick(1000)
    assert (await server.jobs.fail(one.id, failure)).state == "cancelled"


async def test_a_nested_workflow_cancelled_alone_runs_no_job_again(server: Any, failure: Any) -> None:
    workflow_id = await create(server, group(chain(job("deep")), job("beside")))
    deep, beside = await server.fetch(count=9)
    await server.workflows.cancel(deep.workflow_id)
    assert (await server.jobs.fail(deep.id, failure)).state == "cancelled"
    assert (await server.jobs.fail(beside.id, failure)).state == "retryable"
    assert await state(server, workflow_id) == "running"
