"""The moves of the model test: each draw becomes a request that makes sense in the situation."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_core.backend import Committed
from ojs_core.job import JobState
from ojs_core.lifecycle import TRANSITIONS, LifecycleEvent, guard_holds
from ojs_core.memory import MemoryBackend
from ojs_core.testing.clock import NOW
from ojs_core.testing.factories import make_cron, make_job, make_workflow
from ojs_core.testing.moves import CRONS, EVENTS, FLOWS, Beat, Insert, Situation, Swap, Write, population, sweep


def situation_with(*states: JobState) -> Situation:
    situation = Situation()
    situation.jobs = [make_job(state, version=3, fence=2, worker_id="w1") for state in states]
    return situation


def swap(**fields: Any) -> Swap:
    shape: dict[str, Any] = {"job": 0, "allowed": True, "event": 0, "guarded": True, "wrong": None, "wake_in": 5}
    return Swap(**{**shape, "queue": "b", **fields})


def insert(**fields: Any) -> Insert:
    shape: dict[str, Any] = {
        "state": JobState.AVAILABLE,
        "queue": "a",
        "priority": 0,
        "expires_in": None,
        "mark": "0" * 64,
        "hold": frozenset({JobState.ACTIVE}),
        "since": None,
        "limit": None,
        "member": False,
        "taken": None,
    }
    return Insert(**{**shape, **fields})


def write(**fields: Any) -> Write:
    shape: dict[str, Any] = {"inserts": (), "swaps": (), "removal": None, "cron": None, "flow": None}
    return Write(**{**shape, "stale": False, "delete": False, "logs": False, **fields})


@pytest.mark.parametrize("state", list(JobState))
def test_an_allowed_swap_is_one_the_state_allows(state: JobState) -> None:
    situation = situation_with(state)
    for number in range(10):
        transition = swap(event=number).build(situation)
        assert transition is not None
        assert guard_holds(transition, situation.jobs[0])


@pytest.mark.parametrize("event", EVENTS)
def test_any_swap_may_be_asked_for(event: LifecycleEvent) -> None:
    situation = situation_with(JobState.ACTIVE)
    transition = swap(allowed=False, event=EVENTS.index(event)).build(situation)
    assert transition is not None
    assert (transition.event, transition.to) == (event, TRANSITIONS[event][1])
    assert (transition.error is not None) is (event in ("retry", "discard", "lapse"))


@pytest.mark.parametrize("wrong", ["version", "fence", "worker_id"])
def test_a_spoilt_guard_does_not_hold(wrong: str) -> None:
    situation = situation_with(JobState.ACTIVE)
    transition = swap(wrong=wrong, guarded=False).build(situation)
    assert transition is not None
    assert not guard_holds(transition, situation.jobs[0])


def test_without_jobs_there_is_nothing_to_swap() -> None:
    assert swap().build(Situation()) is None
    assert write(swaps=[swap()], removal=3).build(Situation()).transitions == ()
    assert insert(taken=3).build(Situation()).job.id


@pytest.mark.parametrize("state", list(JobState))
def test_the_clock_does_what_the_state_allows(state: JobState) -> None:
    job = make_job(state)
    for wake_in in (None, 5):
        assert guard_holds(sweep(job, NOW, wake_in), job)


def test_an_insert_with_a_taken_id_holds_nothing() -> None:
    situation = situation_with(JobState.ACTIVE)
    new = insert(taken=7).build(situation)
    assert (new.job.id, new.hold) == (situation.jobs[0].id, None)
    assert insert().build(situation).hold is not None
    assert insert(hold=None).build(situation).hold is None


def test_a_job_inserted_at_its_end_is_kept_for_a_while() -> None:
    job = insert(state=JobState.CANCELLED, expires_in=5, member=True).build(Situation()).job
    assert job.wake_at is not None
    assert job.wake_at > NOW + 5
    assert job.workflow_id == FLOWS[0]


def test_a_write_may_have_every_part() -> None:
    situation = situation_with(JobState.ACTIVE, JobState.COMPLETED)
    situation.crons = {CRONS[0]: make_cron(CRONS[0], version=4)}
    situation.flows = {FLOWS[1]: make_workflow(id=FLOWS[1], version=6)}
    commit = write(inserts=[insert()], swaps=[swap()], removal=1, cron=0, flow=1, logs=True).build(situation)
    assert (len(commit.inserts), len(commit.transitions), len(commit.events)) == (1, 1, 1)
    assert commit.removals[0].job_id == situation.jobs[1].id
    assert commit.cron is not None
    assert (commit.cron.expected_version, commit.workflows[0].expected_version) == (4, 6)
    stale = write(removal=1, cron=1, flow=0, stale=True, delete=True).build(situation)
    assert stale.cron is not None
    assert (stale.cron.expected_version, stale.cron.entry) == (1, None)
    assert (stale.workflows[0].expected_version, stale.workflows[0].workflow) == (1, None)
    assert stale.removals[0].version == 4


def test_a_job_is_not_swapped_and_removed_in_one_commit() -> None:
    commit = write(swaps=[swap(), swap(event=1)], removal=0).build(situation_with(JobState.ACTIVE))
    assert (len(commit.transitions), commit.removals) == (1, ())


def test_a_beat_names_jobs_and_one_that_is_unknown() -> None:
    situation = situation_with(JobState.ACTIVE)
    assert Beat("w1", [5], None).build(situation).job_ids == (situation.jobs[0].id, "no-such-job")
    assert Beat("w1", [5], None).build(Situation()).job_ids == ("no-such-job",)


async def test_the_population_has_jobs_in_every_state() -> None:
    backend = MemoryBackend()
    for commits, requests in population(Situation()):
        assert all(isinstance(answer, Committed) for answer in await backend.commit(commits))
        await backend.claim(requests)
    found = {state for name in ("a", "b", "a.b") for state, number in (await stats(backend, name)).items() if number}
    assert found == set(JobState)


async def stats(backend: MemoryBackend, queue: str) -> dict[str, int]:
    found = await backend.queue_stats(queue, NOW)
    assert found is not None
    return found.states
