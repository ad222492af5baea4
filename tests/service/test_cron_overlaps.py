"""Cron occurrences that meet: instances of one entry, unique jobs, and steps that were cut off."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from ojs_core.backend import Backend, Commit, Conflict, CronWrite, NewJob, Refused
from ojs_core.errors import StateConflictError
from ojs_core.job import Job, JobState
from ojs_core.service import Service
from ojs_core.settings import Settings
from ojs_core.testing.clock import HOUR, MINUTE, NOW

UNIQUE = {"keys": ["type"]}

# Overlaps.


async def run_previous(server: Any, state: str, failure: Any) -> Job:
    """Bring the first instance into a state."""
    (job,) = await server.made()
    if state != "available":
        await server.fetch(lease_ms=HOUR)
    if state == "retryable":
        await server.jobs.fail(job.id, failure)
    if state == "completed":
        await server.jobs.ack(job.id)
    return job


SLOW_RETRY = {"retry": {"max_attempts": 3, "initial_interval": "PT1H", "max_interval": "PT1H"}}


@pytest.mark.parametrize("state", ["available", "active", "retryable"])
async def test_skip_passes_over_an_occurrence(server: Any, state: str, failure: Any) -> None:  # C-CRN-20
    await server.register(SLOW_RETRY)
    await server.tick(MINUTE)
    job = await run_previous(server, state, failure)
    await server.tick(MINUTE)
    assert await server.states() == [state]
    (skipped,) = await server.event_data("cron.skipped")
    assert (skipped["reason"], skipped["existing_job_id"]) == ("overlap_skip", job.id)
    entry = await server.crons.get("nightly")
    assert (entry.run_count, entry.last_job_id, entry.next_run_at) == (1, job.id, NOW + 3 * MINUTE)
    await server.jobs.cancel(job.id)
    await server.tick(MINUTE)
    assert await server.states() == ["cancelled", "available"]


@pytest.mark.parametrize("policy", ["skip", "allow", "cancel_previous", "enqueue"])
async def test_an_instance_that_ended_is_in_nobodys_way(server: Any, policy: str, failure: Any) -> None:
    await server.register(overlap_policy=policy)
    await server.tick(MINUTE)
    await run_previous(server, "completed", failure)
    await server.tick(MINUTE)
    assert await server.states() == ["completed", "available"]
    assert await server.event_data("cron.skipped") == []


async def test_allow_lets_instances_run_side_by_side(server: Any) -> None:
    await server.register(overlap_policy="allow")
    for _ in range(3):
        await server.tick(MINUTE)
    assert await server.states() == ["available"] * 3


@pytest.mark.parametrize("state", ["available", "active", "retryable"])
async def test_cancel_previous_makes_room(server: Any, state: str, failure: Any) -> None:  # C-CRN-21
    await server.register(SLOW_RETRY, overlap_policy="cancel_previous")
    await server.tick(MINUTE)
    previous = await run_previous(server, state, failure)
    await server.tick(MINUTE)
    assert await server.states() == ["cancelled", "available"]
    assert "job.cancelled" in await server.event_types()
    if state == "active":
        with pytest.raises(StateConflictError):
            await server.jobs.ack(previous.id)


async def test_cancel_previous_when_the_previous_one_ends_at_that_moment(server: Any) -> None:
    await server.register(overlap_policy="cancel_previous")
    await server.tick(MINUTE)
    (previous,) = await server.fetch()
    changes = ["beat", "ack"]

    async def end(store: Backend, commit: Commit) -> None:
        if commit.cron is not None and changes:
            ack = changes.pop(0) == "ack"
            await store.commit([server.ack_of(previous) if ack else server.touch_of(previous)])

    server.meddle(end)
    await server.tick(MINUTE)
    assert changes == []
    assert await server.states() == ["completed", "available"]
    assert (await server.crons.get("nightly")).run_count == 2


async def test_a_firing_that_loses_every_race_is_left_for_the_next_look(server: Any) -> None:
    await server.register(overlap_policy="cancel_previous")
    await server.tick(MINUTE)
    (previous,) = await server.made()
    troubled = True

    async def race(store: Backend, commit: Commit) -> None:
        if commit.cron is not None and troubled:
            await store.commit([server.touch_of(previous)])

    server.meddle(race)
    server.clock.advance(MINUTE)
    await server.service.maintenance.look()
    assert await server.states() == ["available"]
    troubled = False
    await server.tick()
    assert await server.states() == ["cancelled", "available"]


async def test_staged_instances_outlive_their_entry(server: Any) -> None:  # C-CRN-19
    """Without the entry nothing would release them once the one before has ended."""
    await server.register(overlap_policy="enqueue")
    for _ in range(3):
        await server.tick(MINUTE)
    assert await server.states() == ["available", "pending", "pending"]
    await server.jobs.cancel((await server.made())[2].id)
    await server.crons.delete("nightly")
    assert await server.states() == ["available", "available", "cancelled"]


async def test_enqueue_lets_one_run_after_the_other(server: Any, failure: Any) -> None:  # C-CRN-22
    await server.register(overlap_policy="enqueue")
    await server.tick(MINUTE)
    await server.tick(MINUTE)
    assert await server.states() == ["available", "pending"]
    (first,) = await server.fetch(count=9)
    await server.tick(MINUTE)
    assert await server.states() == ["active", "pending", "pending"]
    assert await server.fetch(count=9) == ()
    entry = await server.crons.get("nightly")
    assert (entry.last_job_id, len(entry.waiting_job_ids), entry.run_count) == (first.id, 2, 3)
    assert await server.event_data("cron.skipped") == []
    # A retry is not an end.
    await server.jobs.fail(first.id, failure)
    await server.tick(999)
    assert (await server.states())[1:] == ["pending", "pending"]
    await server.tick(1)
    await server.fetch(count=9)
    await server.jobs.ack(first.id)
    await server.tick(1000)
    assert await server.states() == ["completed", "available", "pending"]
    (second,) = await server.fetch(count=9)
    entry = await server.crons.get("nightly")
    assert (entry.last_job_id, len(entry.waiting_job_ids)) == (second.id, 1)
    assert second.enqueued_at == server.clock.now()


async def test_staged_instances_are_released_by_one_of_two_servers(server: Any) -> None:
    other = Service(server.backend, server.clock, Settings())
    await server.register(overlap_policy="enqueue")
    for _ in range(3):
        await server.tick(MINUTE)
    for left in (2, 1):
        (job,) = await server.fetch(count=9, lease_ms=HOUR)
        await server.jobs.ack(job.id)
        server.clock.advance(1000)
        await asyncio.gather(*(one.maintenance.look() for one in (server.service, other) * 2))
        assert (await server.states()).count("available") == 1
        assert (await server.states()).count("pending") == left - 1


@pytest.mark.parametrize("how", ["off", "again"])
async def test_staged_instances_are_released_whatever_becomes_of_the_entry(server: Any, how: str) -> None:
    await server.register(overlap_policy="enqueue", expression="@hourly")
    await server.tick(HOUR)
    await server.tick(HOUR)
    if how == "off":
        await server.crons.set_enabled("nightly", enabled=False)
    else:
        await server.register(overlap_policy="skip", expression="@daily")
    (first,) = await server.fetch()
    await server.jobs.ack(first.id)
    await server.tick(1000)
    assert await server.states() == ["completed", "available"]
    entry = await server.crons.get("nightly")
    assert entry.waiting_job_ids == ()
    assert entry.wake_at == entry.next_run_at


async def test_a_staged_instance_cancelled_by_hand_is_passed_over(server: Any) -> None:
    await server.register(overlap_policy="enqueue")
    for _ in range(3):
        await server.tick(MINUTE)
    first, second, third = await server.made()
    await server.jobs.cancel(second.id)
    await server.jobs.cancel(first.id)
    await server.tick(1000)
    assert await server.states() == ["cancelled", "cancelled", "available"]
    assert (await server.crons.get("nightly")).last_job_id == third.id


async def test_a_staged_instance_activated_by_hand_is_waited_for(server: Any) -> None:
    await server.register(overlap_policy="enqueue")
    for _ in range(3):
        await server.tick(MINUTE)
    first, second, third = await server.made()
    await server.jobs.activate(third.id)
    await server.fetch(count=9, lease_ms=HOUR)
    await server.jobs.ack(first.id)
    await server.tick(1000)
    assert await server.states() == ["completed", "pending", "active"]
    await server.jobs.ack(third.id)
    await server.tick(1000)
    assert await server.state(second) == "available"


async def test_a_staged_instance_activated_by_hand_at_that_moment(server: Any) -> None:
    await server.register(overlap_policy="enqueue")
    for _ in range(2):
        await server.tick(MINUTE)
    first, second = await server.made()
    await server.jobs.cancel(first.id)
    by_hand = [second]

    async def activate(store: Backend, commit: Commit) -> None:
        if commit.cron is not None and by_hand:
            by_hand.pop()
            await store.commit([Commit(transitions=commit.transitions)])

    server.meddle(activate)
    await server.tick(1000)
    assert await server.states() == ["cancelled", "available"]
    entry = await server.crons.get("nightly")
    assert (entry.last_job_id, entry.waiting_job_ids) == (second.id, ())


async def test_staged_instances_expire(server: Any) -> None:
    await server.register({"options": {"expires_at": "+PT90S"}}, overlap_policy="enqueue")
    await server.tick(MINUTE)
    await server.fetch(lease_ms=HOUR)
    await server.tick(MINUTE)
    await server.crons.set_enabled("nightly", enabled=False)
    await server.tick(90_000)
    assert await server.states() == ["active", "discarded"]


async def test_many_staged_instances_are_worth_a_warning(server: Any, caplog: pytest.LogCaptureFixture) -> None:
    await server.register(overlap_policy="enqueue")
    for _ in range(3):
        await server.tick(MINUTE)
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        await server.tick(MINUTE)
    assert "'nightly' has 3 staged instances" in caplog.text


# Unique templates.


@pytest.mark.parametrize("on_conflict", ["reject", "ignore"])
async def test_a_unique_job_in_the_way_suppresses_the_occurrence(server: Any, on_conflict: str) -> None:
    await server.register({"unique": {**UNIQUE, "on_conflict": on_conflict}}, overlap_policy="cancel_previous")
    await server.tick(MINUTE)
    (ours,) = await server.fetch()
    await server.jobs.ack(ours.id)
    by_hand = await server.push(unique=UNIQUE)
    await server.tick(MINUTE)
    assert await server.states() == ["completed", "available"]
    (skipped,) = await server.event_data("cron.skipped")
    assert (skipped["reason"], skipped["existing_job_id"]) == ("unique_conflict", by_hand.id)
    entry = await server.crons.get("nightly")
    assert (entry.run_count, entry.last_job_id, entry.next_run_at) == (1, ours.id, NOW + 3 * MINUTE)
    assert len(await server.event_types("cron.triggered")) == 1


async def test_a_suppressed_occurrence_cancels_nothing(server: Any) -> None:
    await server.register({"unique": UNIQUE}, overlap_policy="cancel_previous")
    await server.tick(MINUTE)
    ours = await server.push("other.job")
    entry = await server.crons.get("nightly")
    moved = msgspec.structs.replace(entry, last_job_id=ours.id)
    await server.backend.commit([Commit(cron=CronWrite("nightly", moved, entry.version))])
    await server.tick(MINUTE)
    assert await server.states() == ["available", "available"]


async def test_replace_ends_every_job_in_the_way(server: Any) -> None:
    only_active = {**UNIQUE, "states": ["active"]}
    await server.push(unique=only_active)
    await server.push(unique=only_active)
    await server.register({"unique": {**UNIQUE, "on_conflict": "replace"}})
    await server.tick(MINUTE)
    assert await server.states() == ["cancelled", "cancelled", "available"]
    assert (await server.crons.get("nightly")).run_count == 1


async def test_replace_when_the_job_in_the_way_ends_at_that_moment(server: Any) -> None:
    other = await server.push(unique=UNIQUE)
    await server.fetch()
    await server.register({"unique": {**UNIQUE, "on_conflict": "replace"}})
    ends = ["transition", "hold"]

    async def end(store: Backend, commit: Commit) -> None:
        if commit.cron is not None and ends and ends.pop() == "transition":
            await store.commit([server.ack_of(other)])

    server.meddle(end)
    await server.tick(MINUTE)
    assert await server.states() == ["completed", "available"]


async def test_what_has_ended_cannot_make_room(server: Any) -> None:
    other = await server.push(unique=UNIQUE)
    await server.fetch()
    await server.jobs.ack(other.id)
    unique = {**UNIQUE, "states": ["completed"], "on_conflict": "replace"}
    await server.register({"unique": unique})
    refused = Refused((Conflict(kind="hold", index=0, job=await server.jobs.info(other.id)),))

    async def holding(_: Backend, commit: Commit) -> Refused | None:
        # As a store answers that counts a job which ended.
        return refused if commit.inserts else None

    server.meddle(holding)
    await server.tick(MINUTE)
    (skipped,) = await server.event_data("cron.skipped")
    assert (skipped["reason"], skipped["existing_job_id"]) == ("unique_conflict", other.id)


# A step that was cut off after the insert, as a store leaves it that needs two.


async def cut_off(server: Any) -> NewJob:
    """Insert the job of the coming occurrence, as a firing would that got no further."""
    asked: list[Commit] = []
    store = server.backend.inner

    async def note(_: Backend, commit: Commit) -> Refused:
        asked.append(commit)
        return Refused((Conflict(kind="cron", index=0),))

    server.meddle(note)
    server.clock.advance(MINUTE)
    await server.service.maintenance.look()
    server.backend.inner = store
    (new,) = asked[-1].inserts
    await server.backend.commit([Commit(inserts=(new,))])
    return new


async def test_the_rest_of_a_step_that_was_cut_off(server: Any) -> None:
    await server.register()
    new = await cut_off(server)
    await server.tick()
    assert [job.id for job in await server.made()] == [new.job.id]
    entry = await server.crons.get("nightly")
    assert (entry.run_count, entry.last_job_id, entry.next_run_at) == (1, new.job.id, NOW + 2 * MINUTE)
    assert len(await server.event_types("cron.triggered")) == 1


async def test_the_rest_of_a_step_that_was_to_cancel(server: Any) -> None:
    await server.register(overlap_policy="cancel_previous")
    await server.tick(MINUTE)
    await cut_off(server)
    await server.tick()
    assert await server.states() == ["cancelled", "available"]


@pytest.mark.parametrize("ended", [False, True])
async def test_the_rest_of_a_step_that_was_to_stage(server: Any, *, ended: bool) -> None:
    await server.register(overlap_policy="enqueue")
    await server.tick(MINUTE)
    (first,) = await server.fetch()
    new = await cut_off(server)
    assert new.job.state is JobState.PENDING
    if ended:
        await server.jobs.ack(first.id)
    await server.tick()
    assert (await server.crons.get("nightly")).waiting_job_ids == (new.job.id,)
    await server.tick(1000)
    assert await server.states() == (["completed", "available"] if ended else ["active", "pending"])
