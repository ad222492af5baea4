"""The event log (C-EP-26, section 19)."""

from __future__ import annotations

import pytest

from ojs_api import shapes
from ojs_core.testing.clock import SECOND

PATH = "/ojs/v1/events"
NOW_TEXT = "2026-02-12T10:30:00.000Z"
FAILED = {"message": "It failed.", "code": "E1"}


async def events(api, query: str = "") -> list[dict]:
    return (await api.ask("GET", PATH + query))["events"]


async def types(api, query: str = "") -> list[str]:
    return [event["type"] for event in await events(api, query)]


async def test_an_empty_log(api, check) -> None:
    body = check(await api.send("GET", PATH), 200, shapes.Events)
    assert body == {"events": [], "cursor": None, "has_more": False}


async def test_an_event_in_its_envelope(api, check) -> None:
    """C-EVT-01 to C-EVT-03, L0-EVT-001; the data holds the older flat form too (Q-28)."""
    job = await api.push("email.send", queue="mail", meta={"trace_id": "t-1"}, priority=3)
    body = check(await api.send("GET", PATH), 200, shapes.Events)
    (event,) = body["events"]
    assert body == {"events": [event], "cursor": event["id"], "has_more": False}
    assert {key: event[key] for key in event if key != "id"} == {
        "specversion": "1.0",
        "type": "job.enqueued",
        "source": "ojs://ojs-server/jobs",
        "time": NOW_TEXT,
        "subject": job["id"],
        "datacontenttype": "application/json",
        "data": {
            "job_id": job["id"],
            "job_type": "email.send",
            "type": "email.send",
            "queue": "mail",
            "state": "available",
            "attempt": 0,
            "priority": 3,
            "timestamp": NOW_TEXT,
            "trace_id": "t-1",
        },
    }


async def test_the_life_of_a_job(api) -> None:
    """C-EVT-06, C-EVT-10: what happened, in the order in which it did."""
    job = await api.push(options={"retry": {"max_attempts": 2}})
    for ms in (0, SECOND):
        await api.tick(ms)
        await api.fetch_one(worker_id="w")
        api.clock.advance(250)
        await api.ask("POST", "/ojs/v1/workers/nack", {"job_id": job["id"], "error": FAILED})
    found = await events(api)
    assert [event["type"] for event in found] == [
        "job.enqueued",
        "job.started",
        "job.failed",
        "job.retrying",
        "job.enqueued",
        "job.started",
        "job.failed",
        "job.discarded",
    ]
    started, failed, retrying, discarded = found[1], found[2], found[3], found[-1]
    assert (started["data"]["worker_id"], started["data"]["attempt"]) == ("w", 1)
    assert (failed["data"]["duration_ms"], failed["data"]["attempt"]) == (250, 1)
    assert failed["data"]["error"]["code"] == "E1"
    assert (retrying["data"]["max_attempts"], retrying["data"]["next_retry_at"]) == (2, "2026-02-12T10:30:01.250Z")
    assert (discarded["data"]["total_attempts"], discarded["data"]["last_error"]["code"]) == (2, "E1")
    assert len({event["id"] for event in found}) == len(found)
    assert [event["id"] for event in found] == sorted(event["id"] for event in found)


async def test_a_success_tells_how_long_it_took(api) -> None:
    """C-EVT-05, L0-EVT-002."""
    job = await api.push()
    await api.fetch_one()
    api.clock.advance(1234)
    await api.ask("POST", "/ojs/v1/workers/ack", {"job_id": job["id"]})
    (event,) = await events(api, "?types=job.completed")
    assert (event["data"]["attempt"], event["data"]["duration_ms"]) == (1, 1234)


async def test_the_other_events_of_jobs(api) -> None:
    """C-EVT-03."""
    await api.push(options={"delay_until": "+PT1H"})
    cancelled = await api.push()
    await api.ask("DELETE", f"/ojs/v1/jobs/{cancelled['id']}")
    await api.push(options={"expires_at": "+PT1S"})
    await api.tick(SECOND)
    await api.push()
    job = await api.fetch_one(worker_id="w")
    await api.ask("POST", "/ojs/v1/workers/heartbeat", {"worker_id": "w", "job_id": job["id"]})
    found = await types(api)
    for name in ("job.scheduled", "job.cancelled", "job.expired", "job.heartbeat", "worker.started"):
        assert found.count(name) == 1
    (expired,) = await events(api, "?types=job.expired")
    assert expired["data"]["ttl_ms"] == 1000


async def test_filters(api) -> None:
    """C-EVT-04: within a parameter any will do, across parameters all must hold; an empty one is none."""
    for name, queue in (("a", "q1"), ("b", "q1"), ("a", "q2")):
        await api.push(name, queue=queue)
    await api.ask("POST", "/ojs/v1/queues/q1/pause")
    await api.fetch("q2")
    whole = await types(api)
    assert whole == ["job.enqueued", "job.enqueued", "job.enqueued", "queue.paused", "job.started"]
    assert await types(api, "?types=job.*") == [name for name in whole if name.startswith("job.")]
    assert await types(api, "?types=job.started,queue.*") == ["queue.paused", "job.started"]
    assert await types(api, "?types=%20job.started%20,,%20") == ["job.started"]
    assert await types(api, "?types=job") == []
    assert await types(api, "?types=*") == []
    assert await types(api, "?queues=q1") == ["job.enqueued", "job.enqueued", "queue.paused"]
    assert await types(api, "?queues=q1,q2&job_types=a") == ["job.enqueued", "job.enqueued", "job.started"]
    assert await types(api, "?queues=q1&job_types=a&types=job.enqueued") == ["job.enqueued"]
    assert await types(api, "?types=&queues=,&job_types=&after=") == whole
    assert await types(api, "?types=nothing.like.it") == []


async def test_reading_on_from_where_one_was(api) -> None:
    """C-EVT-07: `after` is exclusive; at the end the cursor stays."""
    for index in range(5):
        await api.push(f"t{index}")
    seen: list[str] = []
    query = "?limit=2"
    for has_more in (True, True, False):
        body = await api.ask("GET", PATH + query)
        assert body["has_more"] is has_more
        assert body["cursor"] == body["events"][-1]["id"]
        seen += [event["data"]["job_type"] for event in body["events"]]
        query = f"?limit=2&after={body['cursor']}"
    assert seen == [f"t{index}" for index in range(5)]
    cursor = query.partition("after=")[2]
    assert await api.ask("GET", PATH + query) == {"events": [], "cursor": cursor, "has_more": False}
    await api.push("late")
    (event,) = await events(api, query)
    assert event["data"]["job_type"] == "late"


async def test_a_limit_has_a_default_and_a_maximum(api) -> None:
    """C-EP-26."""
    await api.ask("POST", "/ojs/v1/jobs/batch", {"jobs": [{"type": "a", "args": []}] * 1100})
    for query, shown in (("", 100), ("?limit=1", 1), ("?limit=1000", 1000), ("?limit=5000", 1000)):
        assert len(await events(api, query)) == shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("limit", bad) for bad in ("0", "-1", "x", "", "1.0", "9" * 20)),
        *(("after", bad) for bad in ("x", "evt_", "019c5166-8840-7000-8000-000000000001", "%00", "9" * 3000)),
        ("after", "evt_019c5166-8840-7001-8000-000000000001"),
        ("after", "EVT_019C5166-8840-7000-8000-000000000001"),
    ],
)
async def test_what_makes_no_sense_is_refused(api, refused, name, value) -> None:
    refused(await api.send("GET", f"{PATH}?{name}={value}"), 400, "invalid_request", field=name)


async def test_a_place_beyond_the_end_is_no_error(api) -> None:
    await api.push()
    assert await events(api, "?after=evt_019c5166-8840-7000-bfff-ffffffffffff") == []


@pytest.mark.parametrize("meta", [{"trace_id": 5}, {"trace_id": None}, {"trace_id": ["x"]}, {"traceparent": {}}])
async def test_a_trace_id_that_is_no_text_is_left_out(api, meta) -> None:
    """C-EVT-09: `meta` is the client's."""
    await api.push(meta=meta)
    (event,) = await events(api)
    assert "trace_id" not in event["data"]
