"""Workflows: from creation to the end of the last member, through the services."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from tests.service.flows import (
    DEAD,
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
    results,
    state,
    take,
    types,
)

from ojs_core.backend import Backend, Commit, Removal
from ojs_core.errors import (
    DuplicateJobError,
    InvalidRequestError,
    NotFoundError,
    StateConflictError,
)
from ojs_core.failing import plan_failure
from ojs_core.lifecycle import plan_revive
from ojs_core.service import Service
from ojs_core.service.workflows import RACES_MAX, RETENTION_MS
from ojs_core.settings import Settings
from ojs_core.testing.clock import DAY, NOW

# The forms.


async def test_a_chain_runs_step_by_step(server: Any) -> None:  # C-WF-07, C-WF-10
    workflow_id = await create(server, chain(job("one"), job("two"), job("three")))
    assert await types(server) == ["one"]
    first = await take(server, "one")
    assert results(first) == []
    assert await state(server, workflow_id) == "running"
    await ack(server, first, {"n": 1})
    second = await take(server, "two")
    assert (results(second), second.workflow_id, second.workflow_step) == ([{"n": 1}], workflow_id, 1)
    await ack(server, second, 2)
    third = await take(server, "three")
    assert results(third) == [{"n": 1}, 2]
    await ack(server, third)
    assert await state(server, workflow_id) == "completed"
    assert await members(server, workflow_id) == ["completed"] * 3
    steps = ["workflow.step_completed"] * 3
    begun = ["workflow.created", "workflow.started"]
    assert await server.event_types("workflow.*") == [*begun, *steps, "workflow.completed"]


async def test_a_group_runs_at_once(server: Any) -> None:  # C-WF-11
    workflow_id = await create(server, group(*(job(f"job-{n}") for n in range(3))))
    found = await server.fetch(count=9)
    assert [one.type for one in found] == ["job-0", "job-1", "job-2"]
    for one in reversed(found):
        assert await state(server, workflow_id) == "running"
        await ack(server, one)
    assert await state(server, workflow_id) == "completed"


async def test_a_dag_waits_for_what_it_depends_on(server: Any) -> None:  # C-WF-21
    steps = {"a": [], "b": [], "c": ["a", "b"], "d": ["a"]}
    definition = {"steps": [{"id": name, **job(name), "depends_on": before} for name, before in steps.items()]}
    workflow_id = await create(server, definition)
    a, b = await server.fetch(count=9)
    await ack(server, a, "A")
    d = await take(server, "d")
    assert results(d) == ["A"]
    await ack(server, b, "B")
    c = await take(server, "c")
    assert results(c) == ["A", "B"]
    await ack(server, d)
    await ack(server, c)
    assert await state(server, workflow_id) == "completed"


@pytest.mark.parametrize("fails", [False, True])
async def test_a_batch_calls_back(server: Any, failure: Any, *, fails: bool) -> None:  # C-WF-13, C-WF-14
    workflow_id = await create(server, batch(job("one", **ONCE), job("two"), **callbacks()))
    one, two = await server.fetch(count=9)
    await ack(server, two, 2)
    if fails:
        await server.jobs.fail(one.id, failure)
    else:
        await ack(server, one, 1)
    called = await server.fetch(count=9)
    assert [found.type for found in called] == ["call.on_complete", f"call.on_{'failure' if fails else 'success'}"]
    assert [results(found) for found in called] == [[None if fails else 1, 2]] * 2
    for found in called:
        assert await state(server, workflow_id) == "running"
        await ack(server, found)
    assert await state(server, workflow_id) == "completed"


async def test_workflows_nest(server: Any) -> None:  # C-WF-16, C-WF-17
    inner = chain(group(job("a"), job("b")), job("c"))
    workflow_id = await create(server, chain(job("first"), inner, job("last")))
    await ack(server, await take(server, "first"), 0)
    a, b = await server.fetch(count=9)
    assert results(a) == results(b) == [0]
    await ack(server, b, "B")
    await ack(server, a, "A")
    c = await take(server, "c")
    assert results(c) == [["A", "B"]]
    assert await members(server, workflow_id) == ["completed", "active", "waiting"]
    await ack(server, c, "C")
    last = await take(server, "last")
    assert results(last) == [0, "C"]
    await ack(server, last)
    view = await server.workflows.get(workflow_id)
    assert (view["state"], view["metadata"]["completed_count"]) == ("completed", 5)
    assert (await server.event_types("workflow.*")).count("workflow.completed") == 3


# How members end.


async def test_a_failure_ends_a_chain(server: Any, failure: Any) -> None:  # C-WF-08
    workflow_id = await create(server, chain(job("one"), job("two"), options={"retry": {"max_attempts": 2}}))
    found = await take(server)
    await server.jobs.fail(found.id, failure)
    # A retry is no failure yet (C-WF-06).
    assert await state(server, workflow_id) == "running"
    await server.tick(1000)
    await server.jobs.fail((await take(server)).id, failure)
    view = await server.workflows.get(workflow_id)
    assert view["state"] == "failed"
    assert await members(server, workflow_id) == ["failed", "cancelled"]
    assert await types(server) == ["one"]
    assert "workflow.failed" in await server.event_types()


async def test_a_failure_lets_the_rest_of_a_group_finish(server: Any, failure: Any) -> None:
    workflow_id = await create(server, group(job("one", **ONCE), job("two")))
    one, two = await server.fetch(count=9)
    await server.jobs.fail(one.id, failure)
    assert await state(server, workflow_id) == "running"
    await ack(server, two)
    assert await state(server, workflow_id) == "failed"


async def test_a_member_that_becomes_a_dead_letter_has_failed(server: Any, failure: Any) -> None:
    workflow_id = await create(server, chain(job(**DEAD), job("two")))
    found = await take(server)
    await server.jobs.fail(found.id, failure)
    assert await state(server, workflow_id) == "failed"
    # Alive again, it no longer concerns the workflow.
    await server.jobs.revive(found.id)
    await ack(server, await take(server, "a.b"))
    await server.tick(1000)
    assert await state(server, workflow_id) == "failed"
    assert await types(server) == ["a.b"]


@pytest.mark.parametrize("how", ["cancel", "expire", "fetch", "lapse", "worker", "replace"])
async def test_members_that_end_without_a_report_end_the_chain(server: Any, how: str) -> None:  # Q-23f
    attributes: dict[str, Any] = {**ONCE, **UNIQUE}
    if how in ("expire", "fetch"):
        attributes["expires_at"] = "+PT2S"
    workflow_id = await create(server, chain(job(**attributes), job("two")))
    (found,) = await server.made()
    match how:
        case "cancel":
            await server.jobs.cancel(found.id)
        case "expire":
            await server.tick(2000)
        case "fetch":
            server.clock.advance(2000)
            assert await server.fetch() == ()
        case "lapse":
            await server.fetch(lease_ms=1000)
            await server.tick(1000)
        case "worker":
            await server.beat("w")
            await server.fetch(worker_id="w")
            server.clock.advance(30_001)
            await server.service.maintenance.bury_dead_workers()
        case _:
            unique = {**UNIQUE["unique"], "on_conflict": "replace"}
            await server.push("a.b", unique=unique)
    assert await state(server, workflow_id) == "failed"
    shown = "cancelled" if how in ("cancel", "replace") else "failed"
    assert await members(server, workflow_id) == [shown, "cancelled"]
    assert "two" not in await types(server)


# Creation.


async def test_a_bad_definition_is_refused(server: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await create(server, chain(job(), {"args": []}))
    assert caught.value.details["validation_errors"][0]["path"].startswith("steps[1]")
    assert await server.made() == []


@pytest.mark.parametrize("taken", ["id", "fingerprint"])
async def test_a_new_workflow_that_meets_a_duplicate_is_refused_as_a_whole(server: Any, taken: str) -> None:
    other = await server.push("a.b", **UNIQUE)
    attributes = {"id": other.id} if taken == "id" else UNIQUE
    with pytest.raises(DuplicateJobError) as caught:
        await create(server, group(job("first"), job(**attributes)))
    assert caught.value.details["existing_job_id"] == other.id
    assert await types(server) == ["a.b"]
    assert await server.event_types("workflow.*") == []


async def test_unknown_workflows_are_not_found(server: Any) -> None:
    for call in (server.workflows.get("nope"), server.workflows.cancel("nope")):
        with pytest.raises(NotFoundError):
            await call


async def test_a_view_costs_the_same_however_long_the_workflow(server: Any) -> None:
    workflow_id = await create(server, group(*(job() for _ in range(50))))
    server.backend.calls.clear()
    await server.workflows.get(workflow_id)
    assert server.backend.calls == {"get_workflow": 1, "get_jobs": 1}


# Later steps that cannot be enqueued.


async def test_a_later_step_whose_fingerprint_is_taken_fails(server: Any) -> None:
    workflow_id = await create(server, batch(chain(job("one"), job("two", **UNIQUE)), **callbacks()))
    other = await server.push("two", queue="elsewhere", **UNIQUE)
    await ack(server, await take(server, "one"))
    called = await server.fetch(count=9)
    assert [found.type for found in called] == ["call.on_complete", "call.on_failure"]
    view = await server.workflows.get(workflow_id)
    assert other.id in str(view["jobs"][0])
    assert await server.state(other) == "available"
    for found in called:
        await ack(server, found)
    assert await state(server, workflow_id) == "completed"


async def test_a_later_step_that_is_there_already_is_not_made_again(server: Any) -> None:
    workflow_id = await create(server, chain(job("one"), job("two"), job("three")))
    one = await take(server, "one")
    inserted = []

    async def cut_off(store: Backend, commit: Commit) -> None:
        # As a store leaves it that writes jobs and workflows in two steps, and was stopped in between.
        if commit.workflows and not inserted:
            inserted.append(await store.commit([Commit(inserts=commit.inserts)]))

    server.meddle(cut_off)
    await ack(server, one)
    assert inserted
    assert await types(server) == ["one", "two"]
    await ack(server, await take(server, "two"))
    await ack(server, await take(server, "three"))
    assert await state(server, workflow_id) == "completed"


# Once, whatever happens at the same time.


async def test_many_acks_at_once_call_back_once(server: Any) -> None:  # C-WF-13
    workflow_id = await create(server, batch(*(job() for _ in range(64)), **callbacks()))
    found = await server.fetch(count=64)
    server.backend.calls.clear()
    await asyncio.gather(*(ack(server, one, n) for n, one in enumerate(found)))
    # One trip for all acks, one for all that follows from them.
    assert server.backend.calls["commit"] == 2
    called = await server.fetch(count=9)
    assert [one.type for one in called] == ["call.on_complete", "call.on_success"]
    assert results(called[0]) == list(range(64))
    await asyncio.gather(*(ack(server, one) for one in called))
    assert await state(server, workflow_id) == "completed"
    assert (await server.event_types()).count("workflow.completed") == 1
    assert (await server.event_types()).count("workflow.step_completed") == 66


async def test_many_acks_at_two_servers_call_back_once(server: Any) -> None:
    other = Service(server.backend, server.clock, Settings())
    workflow_id = await create(server, batch(*(job() for _ in range(64)), **callbacks()))
    found = await server.fetch(count=64)
    both = [server.service, other]
    await asyncio.gather(*(both[n % 2].jobs.ack(one.id) for n, one in enumerate(found)))
    called = await server.fetch(count=9)
    assert [one.type for one in called] == ["call.on_complete", "call.on_success"]
    await asyncio.gather(server.jobs.ack(called[0].id), other.jobs.ack(called[1].id))
    assert await state(server, workflow_id) == "completed"
    assert (await server.event_types()).count("workflow.completed") == 1


async def test_an_end_that_comes_while_the_workflow_moves_is_taken_next(server: Any) -> None:
    workflow_id = await create(server, group(job("one"), job("two")))
    one, two = await server.fetch(count=9)
    await server.backend.commit([server.ack_of(two)])
    late: list[asyncio.Future[Any]] = []

    async def arrive(_: Backend, commit: Commit) -> None:
        if commit.workflows and not late:
            ended = await server.jobs.info(two.id)
            late.append(asyncio.ensure_future(server.workflows.note_ended([ended])))
            await asyncio.wait(late, timeout=0)

    server.meddle(arrive)
    await ack(server, one)
    assert await late[0] == []
    assert await state(server, workflow_id) == "completed"


async def test_two_servers_repair_a_workflow_once(server: Any) -> None:
    other = Service(server.backend, server.clock, Settings())
    await create(server, batch(job(), job(), **callbacks()))
    for found in await server.fetch(count=9):
        await server.backend.commit([server.ack_of(found)])
    server.clock.advance(1000)
    await asyncio.gather(*(one.maintenance.look() for one in (server.service, other) * 2))
    assert (await types(server))[2:] == ["call.on_complete", "call.on_success"]


async def test_progress_that_loses_a_race_is_decided_anew(server: Any) -> None:
    workflow_id = await create(server, chain(job("one"), job("two")))
    one = await take(server)
    races = [1, 2, 3]

    async def race(store: Backend, commit: Commit) -> None:
        if commit.workflows and races:
            races.pop()
            await server.put_workflow(store, workflow_id)

    server.meddle(race)
    await ack(server, one)
    assert races == []
    assert await types(server) == ["one", "two"]
    assert (await server.jobs.info(one.id)).advanced


async def test_progress_that_loses_every_race_is_made_up_for(server: Any, caplog: pytest.LogCaptureFixture) -> None:
    workflow_id = await create(server, chain(job("one"), job("two")))
    one = await take(server)
    races = list(range(RACES_MAX))

    async def race(store: Backend, commit: Commit) -> None:
        if commit.workflows and races:
            races.pop()
            await server.put_workflow(store, workflow_id)

    server.meddle(race)
    await ack(server, one)
    assert "keeps changing" in caplog.text
    assert await types(server) == ["one"]
    await server.tick(1000)
    assert await types(server) == ["one", "two"]


async def test_a_cancel_that_loses_every_race_ends(server: Any) -> None:
    workflow_id = await create(server, chain(job()))

    async def race(store: Backend, _: Commit) -> None:
        await server.put_workflow(store, workflow_id)

    server.meddle(race)
    with pytest.raises(StateConflictError, match="keeps changing"):
        await server.workflows.cancel(workflow_id)


@pytest.mark.parametrize("what", ["note", "revive", "vanish"])
async def test_a_member_that_changes_under_its_workflow(server: Any, what: str, failure: Any) -> None:
    workflow_id = await create(server, chain(job("one", **DEAD), job("two")))
    one = await take(server)
    changes = [what]

    async def change(store: Backend, commit: Commit) -> None:
        if commit.workflows and changes:
            (dead,) = await store.get_jobs([one.id])
            assert dead is not None
            match changes.pop():
                case "note":  # another server was faster
                    await store.commit([Commit(transitions=commit.transitions)])
                case "revive":
                    await store.commit([Commit(transitions=(plan_revive(dead, server.clock.now()),))])
                case _:
                    await store.commit([Commit(removals=(Removal(dead.id, dead.version),))])

    server.meddle(change)
    await server.jobs.fail(one.id, failure)
    assert changes == []
    # The services let nobody revive or delete what was not noted; should it happen, it is as if it had never ended.
    assert await state(server, workflow_id) == ("failed" if what == "note" else "running")


# Crashes between a member's end and the workflow's step.


async def test_the_clock_repairs_what_a_crash_left(server: Any) -> None:
    workflow_id = await create(server, chain(job("one"), job("two")))
    one = await take(server)
    await server.backend.commit([server.ack_of(one)])
    # The view knows before the workflow does.
    assert await members(server, workflow_id) == ["completed", "waiting"]
    await server.tick(999)
    assert await types(server) == ["one"]
    await server.tick(1)
    assert await types(server) == ["one", "two"]
    noted = await server.jobs.info(one.id)
    assert (noted.advanced, noted.wake_at) == (True, NOW + 1000 + DAY)
    await server.tick(DAY)
    assert "one" not in await types(server)


async def test_a_member_that_was_noted_is_left_to_its_retention(server: Any) -> None:
    await create(server, chain(job("one"), job("two")))
    one = await take(server)
    await ack(server, one)
    noted = await server.jobs.info(one.id)
    assert (noted.advanced, noted.wake_at) == (True, NOW + DAY)
    server.backend.calls.clear()
    await server.service.maintenance.look()
    assert server.backend.calls["commit"] == 0


async def test_a_member_noted_twice_counts_once(server: Any) -> None:
    workflow_id = await create(server, chain(job("one"), job("two")))
    one = await take(server)
    await ack(server, one)
    noted = await server.jobs.info(one.id)
    stale = msgspec.structs.replace(noted, advanced=False, version=noted.version - 1)
    for found in (noted, stale):
        assert await server.workflows.note_ended([found]) == []
    assert await types(server) == ["one", "two"]
    assert await state(server, workflow_id) == "running"


@pytest.mark.parametrize("operation", ["revive", "delete"])
async def test_a_dead_letter_is_noted_before_it_changes(server: Any, failure: Any, operation: str) -> None:
    workflow_id = await create(server, chain(job("one", **DEAD), job("two")))
    one = await take(server)
    plan = plan_failure(one, NOW, server.service.context.retention, failure.at(1, NOW), 0.5)
    await server.backend.commit([Commit(transitions=(plan,))])
    assert await state(server, workflow_id) == "running"
    if operation == "revive":
        assert (await server.jobs.revive(one.id)).job.state == "available"
    else:
        await server.jobs.delete_dead_letter(one.id)
    assert await state(server, workflow_id) == "failed"


async def test_a_dead_letter_that_cannot_be_noted_stays(server: Any, failure: Any) -> None:
    workflow_id = await create(server, chain(job("one", **DEAD), job("two")))
    one = await take(server)

    async def race(store: Backend, commit: Commit) -> None:
        if commit.workflows:
            await server.put_workflow(store, workflow_id)

    server.meddle(race)
    await server.jobs.fail(one.id, failure)
    with pytest.raises(StateConflictError, match="keeps changing"):
        await server.jobs.revive(one.id)
    assert (await server.jobs.dead_letter(one.id)).advanced is False


async def test_jobs_of_no_workflow_concern_nobody(server: Any) -> None:
    found = await server.push()
    assert await server.workflows.note_ended([found]) == []


async def test_members_of_a_workflow_that_is_gone_are_noted(server: Any) -> None:
    workflow_id = await create(server, chain(job()))
    one = await take(server)
    await server.put_workflow(server.backend, workflow_id, gone=True)
    await ack(server, one)
    assert (await server.jobs.info(one.id)).advanced


async def test_a_nested_end_is_repaired_up_to_the_root(server: Any) -> None:
    workflow_id = await create(server, chain(chain(chain(job("deep"))), job("last")))
    await server.backend.commit([server.ack_of(await take(server, "deep"))])
    await server.tick(1000)
    assert await members(server, workflow_id) == ["completed", "pending"]
    await ack(server, await take(server, "last"))
    assert await state(server, workflow_id) == "completed"


async def test_a_nested_end_whose_parent_is_gone(server: Any) -> None:
    workflow_id = await create(server, chain(chain(job("deep")), job("last")))
    deep = await take(server)
    await server.put_workflow(server.backend, workflow_id, gone=True)
    await ack(server, deep)
    assert await state(server, deep.workflow_id) == "completed"


# Retention.


@pytest.mark.parametrize("end", ["completed", "cancelled"])
async def test_a_workflow_is_removed_when_its_retention_ends(server: Any, end: str) -> None:
    workflow_id = await create(server, group(job(), chain(job())))
    if end == "completed":
        for found in await server.fetch(count=9):
            await ack(server, found)
    else:
        await server.workflows.cancel(workflow_id)
    both = {found.workflow_id for found in await server.made()}
    assert len(both | {workflow_id}) == 2
    await server.tick(RETENTION_MS - 1)
    assert [await state(server, one) for one in both] == [end, end]
    await server.tick(1)
    for one in both:
        with pytest.raises(NotFoundError):
            await server.workflows.get(one)


async def test_a_view_does_without_jobs_and_nested_workflows_that_are_gone(server: Any) -> None:
    workflow_id = await create(server, group(chain(job())))
    (found,) = await server.made()
    await server.put_workflow(server.backend, found.workflow_id, gone=True)
    assert await members(server, workflow_id) == ["active"]
