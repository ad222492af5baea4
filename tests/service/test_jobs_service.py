"""Jobs from push to their end, through the service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from ojs_api.wire import job_view
from ojs_core.backend import Backend, Claimed, ClaimRequest, Commit, Conflict, Refused
from ojs_core.errors import (
    BackendUnavailableError,
    DuplicateJobError,
    InvalidRequestError,
    NotFoundError,
    StateConflictError,
)
from ojs_core.job import encode_record
from ojs_core.lifecycle import plan_cancel
from ojs_core.service import jobs as service_jobs
from ojs_core.service.failure import Failure
from ojs_core.service.revival import parse_revival
from ojs_core.testing.wrapper import BackendWrapper
from ojs_core.timestamps import format_ms

PATIENCE_S = 30
UNIQUE = {"keys": ["type"]}


async def test_push_then_fetch_then_ack(server: Any) -> None:
    job = await server.push(args=[1.0])
    (fetched,) = await server.fetch(worker_id="w")
    assert (fetched.id, fetched.attempt, fetched.worker_id) == (job.id, 1, "w")
    done = await server.jobs.ack(job.id, result=msgspec.Raw(b"7"), worker_id="w")
    assert (done.state, bytes(done.result)) == ("completed", b"7")


async def test_a_push_a_fetch_and_an_ack_cost_one_call_each(server: Any) -> None:
    job = await server.push()
    await server.fetch()
    await server.jobs.ack(job.id)
    assert server.backend.calls["commit"] == 2
    assert server.backend.calls["claim"] == 1
    assert server.backend.calls["get_jobs"] == 0


async def test_a_claim_is_answered_even_if_the_expired_cannot_be_seen_to(server: Any) -> None:
    """What was claimed would be nobody's until its lease lapses. An empty fetch is refused instead (C-SCH-03)."""
    expired = await server.push(expires_at="+PT1S")
    job = await server.push()
    server.clock.advance(1000)

    async def fail(store: Backend, commit: Commit) -> None:  # noqa: ARG001 - as it is called
        raise BackendUnavailableError("away")

    server.meddle(fail)
    assert [taken.id for taken in await server.fetch(count=2)] == [job.id]
    with pytest.raises(BackendUnavailableError):
        await server.fetch()
    server.backend.inner = server.backend.inner.inner
    await server.tick()
    assert await server.state(expired) == "discarded"


async def test_what_is_remembered_is_small(server: Any) -> None:
    """However large the jobs are, and wherever they end."""
    job = await server.push(args=["x" * 10_000], meta={"a": "x" * 10_000}, tags=["x" * 10_000], other="x" * 10_000)
    await server.fetch()
    await server.beat("w", job.id)
    assert len(encode_record(server.service.context.remembered[job.id])) < 1000


async def test_a_failure_is_decided_from_the_remembered_claim(server: Any, failure: Failure) -> None:
    job = await server.push()
    await server.fetch()
    failed = await server.jobs.fail(job.id, failure)
    assert (failed.state, failed.retry_delay_ms) == ("retryable", 1000)
    assert server.backend.calls["get_jobs"] == 0


async def test_a_failure_reported_to_another_server_is_read_first(server: Any, failure: Failure) -> None:
    job = await server.push()
    await server.fetch()
    server.service.context.remembered.clear()
    assert (await server.jobs.fail(job.id, failure)).state == "retryable"
    assert server.backend.calls["get_jobs"] == 1


async def test_a_stale_memory_costs_a_second_try(server: Any, failure: Failure) -> None:
    job = await server.push()
    (claimed,) = await server.fetch(worker_id="w")
    # Another server renews the lease: the version moves on.
    await server.backend.commit([Commit()])
    server.service.context.remembered[job.id] = msgspec.structs.replace(claimed, version=claimed.version - 1)
    assert (await server.jobs.fail(job.id, failure, worker_id="w")).state == "retryable"


async def test_group_commit_answers_each_caller(server: Any) -> None:
    jobs = await asyncio.gather(*(server.push() for _ in range(50)))
    assert len({job.id for job in jobs}) == 50
    assert server.backend.calls["commit"] == 1


async def test_duplicate_ids_are_refused_whatever_the_state(server: Any) -> None:  # C-ENV-04
    job = await server.push()
    await server.jobs.cancel(job.id)
    with pytest.raises(DuplicateJobError) as caught:
        await server.push(id=job.id)
    assert caught.value.details["existing_job_id"] == job.id
    assert await server.state(job) == "cancelled"


@pytest.mark.parametrize("policy", ["reject", "ignore", "replace"])
async def test_unique_policies(server: Any, policy: str) -> None:  # C-UNQ-07..09
    first = await server.push(unique=UNIQUE)
    request = server.request(unique={**UNIQUE, "on_conflict": policy})
    if policy == "reject":
        with pytest.raises(DuplicateJobError):
            await server.jobs.push(request)
        return
    pushed = await server.jobs.push(request)
    assert pushed.deduplicated == (policy == "ignore")
    assert (pushed.job.id == first.id) == (policy == "ignore")
    assert await server.state(first) == ("available" if policy == "ignore" else "cancelled")


async def test_replace_except_schedule_keeps_the_schedule(server: Any) -> None:  # C-UNQ-10
    first = await server.push(unique=UNIQUE, scheduled_at="+PT1H")
    unique = {**UNIQUE, "on_conflict": "replace_except_schedule"}
    pushed = await server.jobs.push(server.request(args=[2], unique=unique))
    assert (pushed.job.state, pushed.job.scheduled_at) == ("scheduled", first.scheduled_at)
    assert await server.state(first) == "cancelled"
    await server.tick(3_600_000)
    assert await server.state(pushed.job) == "available"


async def test_the_kept_schedule_is_the_one_shown(server: Any) -> None:  # C-UNQ-10
    """Not the one that the client sent with the new job, and lost."""
    unique = {**UNIQUE, "on_conflict": "replace_except_schedule"}
    first = await server.push(unique=unique, scheduled_at="+PT1H")
    second = (await server.jobs.push(server.request(unique=unique, scheduled_at="+PT2H"))).job
    assert second.scheduled_at == first.scheduled_at
    assert job_view(second)["scheduled_at"] == format_ms(first.scheduled_at)
    assert "unique" in job_view(second)


async def test_a_schedule_is_kept_within_a_batch_too(server: Any) -> None:  # C-UNQ-10
    unique = {**UNIQUE, "on_conflict": "replace_except_schedule"}
    requests = [server.request(unique=unique, scheduled_at="+PT1H"), server.request(unique=unique)]
    first, second = (pushed.job for pushed in await server.jobs.push_batch(requests))
    assert (first.state, second.state) == ("cancelled", "scheduled")
    assert second.scheduled_at == first.scheduled_at


async def test_a_schedule_is_not_kept_of_a_job_that_ended_meanwhile(server: Any) -> None:
    """Nothing was replaced then, so the new job runs when its client wanted it to."""
    first = await server.push(unique=UNIQUE, scheduled_at="+PT1H")

    async def cancel(store: Backend, commit: Commit) -> None:
        if commit.transitions:
            ended = plan_cancel(first.id, server.clock.now(), server.service.context.retention)
            await store.commit([Commit(transitions=(ended,))])

    server.meddle(cancel)
    unique = {**UNIQUE, "on_conflict": "replace_except_schedule"}
    assert (await server.jobs.push(server.request(unique=unique))).job.state == "available"


@pytest.mark.parametrize("policy", ["reject", "ignore", "replace"])
async def test_a_batch_looks_at_all_its_earlier_jobs(server: Any, policy: str) -> None:
    """Not only at the last one of the same fingerprint, which may be in a state that does not count."""
    available = {**UNIQUE, "states": ["available"]}
    scheduled = {**UNIQUE, "states": ["scheduled"]}
    requests = [
        server.request(unique=available),
        server.request(unique=scheduled, scheduled_at="+PT1H"),
        server.request(unique={**available, "on_conflict": policy}),
    ]
    if policy == "reject":
        with pytest.raises(DuplicateJobError) as caught:
            await server.jobs.push_batch(requests)
        assert caught.value.details["index"] == 2
        return
    first, _, third = await server.jobs.push_batch(requests)
    assert third.deduplicated == (policy == "ignore")
    assert (third.job.id == first.job.id) == (policy == "ignore")
    assert (
        await server.states()
        == {
            "ignore": ["available", "scheduled"],
            "replace": ["cancelled", "scheduled", "available"],
        }[policy]
    )


async def test_replace_takes_over_from_every_job_in_the_way(server: Any) -> None:
    only_active = {**UNIQUE, "states": ["active"]}
    first = await server.push(unique=only_active)
    second = await server.push(unique=only_active)
    pushed = await server.jobs.push(server.request(unique={**UNIQUE, "on_conflict": "replace"}))
    states = [await server.state(job) for job in (first, second, pushed.job)]
    assert states == ["cancelled", "cancelled", "available"]


async def test_replace_gives_up_when_the_other_job_changes_for_ever(server: Any) -> None:
    job = await server.push(unique=UNIQUE)

    async def touch(store: Backend, commit: Commit) -> None:
        if commit.transitions:
            await store.commit([server.touch_of(job)])

    server.meddle(touch)
    with pytest.raises(StateConflictError, match="keep changing"):
        await server.jobs.push(server.request(unique={**UNIQUE, "on_conflict": "replace"}))


async def test_a_batch_is_all_or_nothing(server: Any) -> None:  # C-BLK-01, C-BLK-03
    job = await server.push()
    with pytest.raises(DuplicateJobError) as caught:
        await server.jobs.push_batch([server.request(), server.request(id=job.id)])
    assert caught.value.details["index"] == 1
    assert caught.value.message.startswith("jobs[1]: ")
    assert len(await server.fetch(count=10)) == 1


async def test_a_batch_with_an_id_twice_is_refused(server: Any) -> None:
    request = server.request(id="019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f")
    with pytest.raises(DuplicateJobError) as caught:
        await server.jobs.push_batch([request, request])
    assert caught.value.details["index"] == 1


async def test_a_batch_that_cannot_be_fingerprinted_names_the_element(server: Any) -> None:
    bad = server.request(args=[{"a": 1}], unique={"keys": ["type", "args"], "args_keys": ["b"]})
    with pytest.raises(InvalidRequestError) as caught:
        await server.jobs.push_batch([server.request(), bad])
    assert caught.value.details["index"] == 1


@pytest.mark.parametrize("policy", ["reject", "ignore", "replace"])
async def test_unique_jobs_within_a_batch(server: Any, policy: str) -> None:
    requests = [server.request(args=[n], unique={**UNIQUE, "on_conflict": policy}) for n in range(2)]
    if policy == "reject":
        with pytest.raises(DuplicateJobError):
            await server.jobs.push_batch(requests)
        return
    first, second = await server.jobs.push_batch(requests)
    if policy == "ignore":
        assert (second.job.id, second.deduplicated) == (first.job.id, True)
    else:
        assert (first.job.state, second.job.state) == ("cancelled", "available")
    assert len(await server.fetch(count=10)) == 1


async def test_a_batch_answers_existing_jobs_in_place(server: Any) -> None:  # C-BLK-04
    job = await server.push("other.job", unique=UNIQUE)
    ignoring = server.request("other.job", unique={**UNIQUE, "on_conflict": "ignore"})
    first, second = await server.jobs.push_batch([server.request(), ignoring])
    assert (first.deduplicated, second.deduplicated, second.job.id) == (False, True, job.id)


async def test_unknown_jobs_are_not_found(server: Any, failure: Failure) -> None:
    for call in (
        server.jobs.info("nope"),
        server.jobs.ack("nope"),
        server.jobs.fail("nope", failure),
        server.jobs.requeue("nope"),
        server.jobs.cancel("nope"),
        server.jobs.activate("nope"),
        server.jobs.dead_letter("nope"),
    ):
        with pytest.raises(NotFoundError):
            await call


async def test_a_job_that_vanishes_under_a_failure_is_not_found(server: Any, failure: Failure) -> None:
    await server.push()
    (claimed,) = await server.fetch()
    await server.backend.reset()
    with pytest.raises(NotFoundError):
        await server.jobs.fail(claimed.id, failure)


async def test_only_the_holder_ends_a_job(server: Any, failure: Failure) -> None:  # C-OPS-21
    job = await server.push()
    (claimed,) = await server.fetch(worker_id="a")
    for call in (
        server.jobs.ack(job.id, worker_id="b"),
        server.jobs.fail(job.id, failure, worker_id="b"),
        server.jobs.requeue(job.id, worker_id="b"),
        server.jobs.ack(job.id, lease_id="99"),
        server.jobs.ack(job.id, lease_id="not a lease"),
    ):
        with pytest.raises(StateConflictError):
            await call
    assert (await server.jobs.ack(job.id, worker_id="a", lease_id=claimed.lease_id)).state == "completed"


async def test_a_lapsed_lease_cannot_end_a_job_claimed_again_by_the_same_worker(server: Any) -> None:
    job = await server.push()
    (first,) = await server.fetch(worker_id="w", lease_ms=1000)
    await server.tick(1000)
    (second,) = await server.fetch(worker_id="w")
    with pytest.raises(StateConflictError):
        await server.jobs.ack(job.id, worker_id="w", lease_id=first.lease_id)
    assert (await server.jobs.ack(job.id, worker_id="w", lease_id=second.lease_id)).attempt == 2


async def test_requeue_does_not_count_as_a_failure(server: Any, failure: Failure) -> None:  # C-OPS-34
    job = await server.push(retry={"max_attempts": 1})
    for _ in range(3):
        await server.fetch()
        assert (await server.jobs.requeue(job.id)).state == "available"
    await server.fetch()
    assert (await server.jobs.fail(job.id, failure)).state == "discarded"


async def test_expired_jobs_are_discarded_by_the_fetch_that_meets_them(server: Any) -> None:  # C-SCH-03
    job = await server.push(expires_at="+PT1S")
    server.clock.advance(1000)
    assert await server.fetch() == ()
    seen = await server.jobs.info(job.id)
    assert (seen.state, seen.completed_at) == ("discarded", None)


async def test_cancel_and_activate(server: Any) -> None:
    job = await server.push(options={"pending": True})
    assert await server.fetch() == ()
    assert (await server.jobs.activate(job.id)).previous == "pending"
    with pytest.raises(StateConflictError):
        await server.jobs.activate(job.id)
    await server.fetch()
    assert (await server.jobs.cancel(job.id)).previous == "active"
    with pytest.raises(StateConflictError):
        await server.jobs.ack(job.id)
    with pytest.raises(StateConflictError):
        await server.jobs.cancel(job.id)


async def dead(server: Any, failure: Failure, **fields: Any) -> Any:
    job = await server.push(retry={"max_attempts": 1, "on_exhaustion": "dead_letter"}, **fields)
    await server.fetch(job.queue)
    return await server.jobs.fail(job.id, failure)


async def test_dead_letters(server: Any, failure: Failure) -> None:  # C-DLQ-01..07
    job = await dead(server, failure)
    assert (await server.jobs.dead_letter(job.id)).state == "discarded"
    revived = (await server.jobs.revive(job.id)).job
    assert (revived.state, revived.attempt, revived.error, len(revived.errors)) == ("available", 0, None, 1)
    with pytest.raises(NotFoundError):
        await server.jobs.revive(job.id)
    await server.fetch()
    await server.jobs.fail(job.id, failure)
    await server.jobs.delete_dead_letter(job.id)
    with pytest.raises(NotFoundError):
        await server.jobs.info(job.id)


async def test_a_revival_may_change_the_job(server: Any, failure: Failure) -> None:  # C-EP-18
    job = await dead(server, failure)
    override = {"queue": "other", "args": [1.50], "meta": {"a": 1}, "retry": {"max_attempts": 9}}
    raw = msgspec.json.decode(msgspec.json.encode(override), type=dict[str, msgspec.Raw])
    revived = (await server.jobs.revive(job.id, parse_revival(override, raw))).job
    assert (revived.queue, bytes(revived.args), bytes(revived.meta)) == ("other", b"[1.5]", b'{"a":1}')
    assert revived.retry.max_attempts == 9
    assert b'"retry":{"max_attempts":9}' in bytes(revived.as_sent)
    assert [found.id for found in await server.fetch("other")] == [job.id]


async def test_a_long_poll_wakes_when_a_job_arrives(server: Any) -> None:
    waiting = asyncio.ensure_future(server.fetch(wait_ms=30_000))
    while not server.backend.calls["claim"]:
        await asyncio.sleep(0)
    job = await server.push()
    assert [found.id for found in await asyncio.wait_for(waiting, PATIENCE_S)] == [job.id]


async def test_all_who_wait_are_served_though_a_ring_wakes_a_few(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_jobs, "POLL_MS", 60_000)
    waiting = [asyncio.ensure_future(server.fetch(wait_ms=60_000)) for _ in range(30)]
    while server.backend.calls["claim"] < 1 or not server.service.context.claims.idle:
        await asyncio.sleep(0)
    requests = [server.request("test.job") for _ in waiting]
    pushed = await server.jobs.push_batch(requests)
    served = await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S)
    assert sorted(job.id for jobs in served for job in jobs) == sorted(item.job.id for item in pushed)


async def test_a_long_poll_ends_empty(server: Any) -> None:
    assert await server.fetch(wait_ms=1) == ()


async def test_a_long_poll_ends_when_the_server_stops(server: Any) -> None:
    waiting = asyncio.ensure_future(server.fetch(wait_ms=30_000))
    while not server.backend.calls["claim"]:
        await asyncio.sleep(0)
    server.service.stop_waiting()
    assert await asyncio.wait_for(waiting, PATIENCE_S) == ()


async def test_a_lease_begins_when_the_store_is_asked(server: Any) -> None:  # C-VIS-01
    """A fetch that waited behind a slow store would else get a job whose lease is over already."""
    started, go_on = asyncio.Event(), asyncio.Event()

    class SlowBackend(BackendWrapper):
        async def claim(self, requests: Sequence[ClaimRequest]) -> list[Claimed]:
            started.set()
            await go_on.wait()
            return await self.inner.claim(requests)

    await server.push()
    server.backend.inner = SlowBackend(server.backend.inner)
    first = asyncio.ensure_future(server.fetch("empty"))
    await started.wait()
    second = asyncio.ensure_future(server.fetch(lease_ms=1500))
    await asyncio.sleep(0)
    server.clock.advance(4000)
    go_on.set()
    assert await first == ()
    [job] = await second
    assert job.lease_expires_at == server.clock.now() + 1500


@pytest.mark.parametrize("stopping", [False, True])
async def test_jobs_claimed_for_a_client_that_left_are_given_back(server: Any, stopping: bool) -> None:  # noqa: FBT001
    ended, job = await server.push(), await server.push()
    started, go_on = asyncio.Event(), asyncio.Event()

    class SlowBackend(BackendWrapper):
        async def claim(self, requests: Sequence[ClaimRequest]) -> list[Claimed]:
            answer = await self.inner.claim(requests)
            started.set()
            await go_on.wait()
            return answer

    server.backend.inner = SlowBackend(server.backend.inner)
    waiting = asyncio.ensure_future(server.fetch(count=2, wait_ms=1000))
    await started.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await server.state(job) == "active"
    # One that cannot be given back does not keep the others.
    await server.jobs.cancel(ended.id)
    go_on.set()
    if stopping:
        await server.service.stop()
        assert await server.state(job) == "available"
    while await server.state(job) != "available":
        await asyncio.sleep(0)


async def test_the_memory_of_claims_is_bounded(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ojs_core.service.context.REMEMBERED_MAX", 3)
    for _ in range(5):
        await server.push()
    await server.fetch(count=5)
    assert len(server.service.context.remembered) == 3


@pytest.mark.parametrize("operation", ["fail", "revive", "delete"])
async def test_decisions_that_lose_every_race_end(server: Any, failure: Failure, operation: str) -> None:
    job = await dead(server, failure) if operation != "fail" else await server.push()
    if operation == "fail":
        await server.fetch()

    async def race(store: Backend, _: Commit) -> None:
        (record,) = await store.get_jobs([job.id])
        assert record is not None
        await store.commit([server.touch_of(record)])

    server.meddle(race)
    calls = {
        "fail": lambda: server.jobs.fail(job.id, failure),
        "revive": lambda: server.jobs.revive(job.id),
        "delete": lambda: server.jobs.delete_dead_letter(job.id),
    }
    with pytest.raises(StateConflictError, match="keeps changing"):
        await calls[operation]()


async def test_a_refusal_that_cannot_be_explained_is_a_lost_race(server: Any) -> None:
    await server.push()
    (job,) = await server.fetch()

    async def refuse(_: Backend, __: Commit) -> Refused:
        return Refused((Conflict(kind="transition", index=0, job=job),))

    server.meddle(refuse)
    with pytest.raises(StateConflictError, match="keeps changing"):
        await server.jobs.ack(job.id)


async def test_a_job_that_has_ended_is_not_in_the_way_of_a_replacement(server: Any) -> None:
    unique = {"keys": ["type"], "states": ["completed", "available"], "on_conflict": "replace"}
    first = await server.push(unique=unique)
    await server.fetch()
    await server.jobs.ack(first.id)
    assert (await server.push(unique=unique)).state == "available"
    assert await server.state(first) == "completed"
