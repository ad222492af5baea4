"""Queues: which there are, what is in them, pause and resume (C-EP-12 to C-EP-15)."""

from __future__ import annotations

import pytest

from ojs_api import shapes
from ojs_core.testing.clock import HOUR, SECOND

NOW_TEXT = "2026-02-12T10:30:00.000Z"
EMPTY = {
    "scheduled": 0,
    "available": 0,
    "pending": 0,
    "active": 0,
    "completed": 0,
    "retryable": 0,
    "cancelled": 0,
    "discarded": 0,
}


async def test_default_always_exists(api, check) -> None:
    """C-ENV-08, C-QOP-05."""
    (queue,) = check(await api.send("GET", "/ojs/v1/queues"), 200, shapes.Queues)["queues"]
    assert (queue["name"], queue["status"], queue["paused"]) == ("default", "active", False)
    stats = check(await api.send("GET", "/ojs/v1/queues/default/stats"), 200, shapes.QueueStats)
    assert stats["stats"]["total"] == 0


async def test_queues_are_listed_by_name(api, check) -> None:
    for name in ("b", "a.x", "a-x", "9", "a"):
        await api.push(queue=name, options={"rate_limit": {"max_per_second": 3} if name == "9" else None})
    await api.ask("POST", "/ojs/v1/queues/paused/pause")
    body = check(await api.send("GET", "/ojs/v1/queues"), 200, shapes.Queues)
    assert [queue["name"] for queue in body["queues"]] == ["9", "a", "a-x", "a.x", "b", "default", "paused"]
    assert body["queues"][0]["rate_limit"] == {"max_per_second": 3}
    assert body["queues"][-1]["status"] == "paused"
    assert body["pagination"] == {"total": 7, "has_more": False, "limit": 50, "offset": 0, "count": 7}


async def test_numbers_are_exact_after_each_operation(api, check) -> None:
    """C-QOP-04, L4-STATS-001: as object, as `stats`, and beside both (Q-05)."""

    async def numbers() -> dict[str, int]:
        body = check(await api.send("GET", "/ojs/v1/queues/q/stats"), 200, shapes.QueueStats)
        in_queue = {state: body["queue"][state] for state in EMPTY}
        assert in_queue == {state: body["stats"][state] for state in EMPTY} == {state: body[state] for state in EMPTY}
        assert body["queue"]["total"] == body["stats"]["total"] == sum(in_queue.values())
        assert (body["queue"]["name"], body["name"], body["status"], body["paused"]) == ("q", "q", "active", False)
        assert body["computed_at"] == NOW_TEXT
        return {state: count for state, count in in_queue.items() if count}

    for options in ({}, {}, {}, {"delay_until": "+PT1H"}, {"pending": True}):
        await api.push(queue="q", options={"retry": {"max_attempts": 2}, **options})
    assert await numbers() == {"available": 3, "scheduled": 1, "pending": 1}
    one, two, three = await api.fetch("q", count=3)
    assert await numbers() == {"active": 3, "scheduled": 1, "pending": 1}
    await api.ask("POST", f"/ojs/v1/jobs/{one['id']}/ack")
    await api.ask("POST", f"/ojs/v1/jobs/{two['id']}/nack", {"error": {"message": "no"}})
    await api.ask("POST", f"/ojs/v1/jobs/{three['id']}/nack", {"error": {"message": "no", "retryable": False}})
    assert await numbers() == {"completed": 1, "retryable": 1, "discarded": 1, "scheduled": 1, "pending": 1}
    await api.ask("DELETE", f"/ojs/v1/jobs/{two['id']}")
    assert await numbers() == {"completed": 1, "cancelled": 1, "discarded": 1, "scheduled": 1, "pending": 1}


async def test_the_last_hour(api) -> None:
    """C-EP-13: averages over what completed."""
    for duration in (1000, 3000):
        await api.push(queue="q")
        api.clock.advance(500)
        job = await api.fetch_one("q")
        api.clock.advance(duration)
        await api.ask("POST", f"/ojs/v1/jobs/{job['id']}/ack")
    await api.push(queue="q")
    job = await api.fetch_one("q")
    await api.ask("POST", f"/ojs/v1/jobs/{job['id']}/nack", {"error": {"message": "no"}})
    stats = (await api.ask("GET", "/ojs/v1/queues/q/stats"))["stats"]
    names = ("completed_last_hour", "failed_last_hour", "avg_duration_ms", "avg_wait_ms", "throughput_per_second")
    assert [stats[name] for name in names] == [2, 1, 2000, 500, 2 / 3600]
    api.clock.advance(2 * HOUR)
    stats = (await api.ask("GET", "/ojs/v1/queues/q/stats"))["stats"]
    assert [stats[name] for name in names] == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("name", ["never-seen", "NOT-A-NAME", "a" * 200, "%00"])
async def test_a_queue_never_seen_has_no_numbers(api, refused, name) -> None:
    """C-EP-13, Q-05."""
    response = await api.send("GET", f"/ojs/v1/queues/{name}/stats")
    refused(response, 404, "not_found", resource_type="queue")


async def test_a_paused_queue_takes_jobs_and_gives_none(api, check) -> None:
    """C-QOP-01, C-QOP-02, Q-07; what runs goes on, what is due becomes available, other queues are not affected."""
    await api.push("running", queue="q")
    running = await api.fetch_one("q")
    await api.push("later", queue="q", options={"delay_until": "+PT1S"})
    body = check(await api.send("POST", "/ojs/v1/queues/q/pause"), 200, shapes.PausedQueue)
    assert (body["status"], body["paused_at"]) == ("paused", NOW_TEXT)
    assert (body["queue"]["paused"], body["queue"]["status"], body["queue"]["paused_at"]) == (True, "paused", NOW_TEXT)
    job = await api.push("new", queue="q", priority=5)
    assert job["state"] == "available"
    await api.push("elsewhere", queue="other")
    await api.tick(SECOND)
    assert [job["type"] for job in await api.fetch("q", "other", count=10)] == ["elsewhere"]
    assert (await api.send("POST", f"/ojs/v1/jobs/{running['id']}/ack")).status_code == 200
    stats = await api.ask("GET", "/ojs/v1/queues/q/stats")
    assert (stats["status"], stats["paused"], stats["available"]) == ("paused", True, 2)
    body = check(await api.send("POST", "/ojs/v1/queues/q/resume"), 200, shapes.ResumedQueue)
    assert (body["status"], body["resumed_at"]) == ("active", "2026-02-12T10:30:01.000Z")
    assert "paused_at" not in body["queue"]
    assert [job["type"] for job in await api.fetch("q", count=10)] == ["new", "later"]


async def test_pausing_twice_is_pausing_once(api) -> None:
    first = await api.ask("POST", "/ojs/v1/queues/q/pause")
    api.clock.advance(SECOND)
    assert await api.ask("POST", "/ojs/v1/queues/q/pause") == first
    for _ in range(2):
        await api.ask("POST", "/ojs/v1/queues/q/resume")
    events = await api.ask("GET", "/ojs/v1/events?types=queue.*")
    assert [event["type"] for event in events["events"]] == ["queue.paused", "queue.resumed"]


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_a_queue_never_seen_is_made(api, verb) -> None:
    """C-QOP-05."""
    await api.ask("POST", f"/ojs/v1/queues/new/{verb}")
    assert (await api.send("GET", "/ojs/v1/queues/new/stats")).status_code == 200


@pytest.mark.parametrize("verb", ["pause", "resume"])
@pytest.mark.parametrize("name", ["A", "_", "-a", "a" * 129, "a%20b", "%C3%A9", "%00"])
async def test_but_only_under_a_legal_name(api, refused, verb, name) -> None:
    refused(await api.send("POST", f"/ojs/v1/queues/{name}/{verb}"), 400, "invalid_request", field="name")
    assert await api.stored() == (0, 1, 0, 0)
