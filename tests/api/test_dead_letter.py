"""Dead letters: list, read, retry, delete (C-EP-16 to C-EP-19, section 10)."""

from __future__ import annotations

import pytest

from ojs_api import shapes
from ojs_core.testing.clock import MINUTE, SECOND

PATH = "/ojs/v1/dead-letter"
ABSENT = "019c5166-8840-7000-8000-000000000000"


async def types(api, query: str = "") -> list[str]:
    return [job["type"] for job in (await api.ask("GET", PATH + query))["jobs"]]


async def test_a_dead_letter_keeps_everything(api, check) -> None:
    """C-DLQ-02, L1-DLQ-001."""
    dead = await api.dead("a.b", meta={"m": 1.0}, mine=[1])
    body = check(await api.send("GET", PATH), 200, shapes.DeadLetters, extra=True)
    assert body["jobs"] == [dead]
    assert (dead["state"], len(dead["errors"])) == ("discarded", 1)
    assert dead["discarded_at"] == dead["completed_at"]
    assert body["pagination"] == {"total": 1, "has_more": False, "limit": 50, "offset": 0, "count": 1}
    one = check(await api.send("GET", f"{PATH}/{dead['id']}"), 200, shapes.JobAnswer, extra=True)
    assert one == {"job": dead}
    assert dead["mine"] == [1]
    assert await api.job(dead["id"]) == dead


async def test_the_newest_comes_first(api) -> None:
    """C-PAG-04."""
    for name in ("one", "two", "three"):
        await api.dead(name)
        api.clock.advance(1)
    assert await types(api) == ["three", "two", "one"]


async def test_filters(api) -> None:
    """C-DLQ-03; joined by AND, and an empty one is none."""
    for name, queue, kind in (("a", "q1", "T1"), ("b", "q1", "T2"), ("a", "q2", "T2")):
        await api.dead(name, queue=queue, error={"message": "x", "type": kind})
        api.clock.advance(MINUTE)
    assert await types(api, "?queue=q1") == ["b", "a"]
    assert await types(api, "?type=a") == ["a", "a"]
    assert await types(api, "?error_type=T2") == ["a", "b"]
    assert await types(api, "?queue=q1&type=a&error_type=T1") == ["a"]
    assert await types(api, "?queue=q1&error_type=T3") == []
    assert await types(api, "?since=2026-02-12T10:31:00Z") == ["a", "b"]
    assert await types(api, "?until=2026-02-12T10:31:00Z") == ["a"]
    assert await types(api, "?since=2026-02-12T11:31:00%2B01:00&until=2026-02-12T10:32:00.000Z") == ["b"]
    assert await types(api, "?queue=&type=&error_type=&since=&until=&cursor=") == ["a", "b", "a"]
    assert (await api.ask("GET", f"{PATH}?queue=q1&limit=1"))["pagination"]["total"] == 2


@pytest.mark.parametrize("name", ["since", "until"])
@pytest.mark.parametrize("bad", ["yesterday", "2026-02-12", "2026-02-12T10:30:00", "+PT1H", "1770892200000", "%00"])
async def test_a_time_must_be_one(api, refused, name, bad) -> None:
    refused(await api.send("GET", f"{PATH}?{name}={bad}"), 400, "invalid_request", field=name)


async def test_a_retry_starts_afresh(api, check) -> None:
    """C-EP-18, T17, C-DLQ-04, C-DLQ-05: same job, new attempts, the history stays."""
    dead = await api.dead("a.b", meta={"m": 1}, priority=7)
    api.clock.advance(SECOND)
    job = check(await api.send("POST", f"{PATH}/{dead['id']}/retry"), 200, shapes.RevivedAnswer)["job"]
    later = "2026-02-12T10:30:01.000Z"
    assert (job["id"], job["state"], job["attempt"], job["max_attempts"]) == (dead["id"], "available", 0, 1)
    assert job["re_enqueued_at"] == job["enqueued_at"] == later
    assert not {"error", "completed_at", "discarded_at", "retry_delay_ms", "started_at"} & job.keys()
    assert job["errors"] == dead["errors"]
    assert await types(api) == []
    taken = await api.fetch_one()
    assert (taken["id"], taken["attempt"], taken["priority"], taken["meta"]) == (dead["id"], 1, 7, {"m": 1})
    await api.ask("POST", f"/ojs/v1/jobs/{taken['id']}/nack", {"error": {"message": "Again."}})
    assert await types(api) == ["a.b"]


async def test_what_was_revived_shows_no_expiry(api) -> None:
    """It has none any more, and a worker that believed in it would throw the job away."""
    dead = await api.dead(options={"expires_at": "+PT1H", "tags": ["kept"]})
    assert "expires_at" in dead
    answer = await api.ask("POST", f"/ojs/v1/dead-letter/{dead['id']}/retry")
    assert "expires_at" not in answer["job"]
    await api.tick(2 * 3_600_000)
    job = await api.fetch_one()
    assert "expires_at" not in job
    assert (job["retry"], job["tags"]) == (dead["retry"], ["kept"])


async def test_a_retry_can_change_the_job(api, check) -> None:
    """C-EP-18."""
    dead = await api.dead()
    override = {"queue": "other", "args": [1.0], "meta": {"new": True}, "retry": {"max_attempts": 9}, "unknown": 1}
    response = await api.send("POST", f"{PATH}/{dead['id']}/retry", {"override": override})
    job = check(response, 200, shapes.RevivedAnswer)["job"]
    assert (job["queue"], job["args"], job["meta"], job["max_attempts"]) == ("other", [1.0], {"new": True}, 9)
    assert b"[1.0]" in response.content
    assert await api.fetch("default") == []
    assert (await api.fetch_one("other"))["id"] == dead["id"]


@pytest.mark.parametrize("override", [None, {}, {"queue": None, "args": None, "meta": None, "retry": None}])
async def test_a_retry_need_not_change_anything(api, override) -> None:
    dead = await api.dead()
    job = (await api.ask("POST", f"{PATH}/{dead['id']}/retry", {"override": override}))["job"]
    assert (job["queue"], job["args"], job["meta"]) == (dead["queue"], dead["args"], dead["meta"])


@pytest.mark.parametrize(
    ("status", "code", "field", "override"),
    [
        *((400, "invalid_request", "override", bad) for bad in ([], "x", 1, True)),
        *((400, "invalid_request", "override.queue", {"queue": bad}) for bad in ("A", "", 1, [])),
        *((400, "invalid_request", "override.args", {"args": bad}) for bad in ({}, "x", 1)),
        *((400, "invalid_request", "meta", {"meta": bad}) for bad in ([], "x", 1)),
        *((422, "validation_error", "retry.max_attempts", {"retry": {"max_attempts": bad}}) for bad in (-1, "x", 1.5)),
        (422, "validation_error", "retry", {"retry": 1}),
        (413, "metadata_too_large", None, {"meta": {"k": "x" * 70_000}}),
    ],
)
async def test_a_change_that_makes_no_sense_is_refused(api, refused, status, code, field, override) -> None:
    dead = await api.dead()
    refused(await api.send("POST", f"{PATH}/{dead['id']}/retry", {"override": override}), status, code, field=field)
    assert await api.job(dead["id"]) == dead


async def test_a_deleted_one_is_gone(api, check, refused) -> None:
    """C-EP-19, C-DLQ-06: from the list, and for good."""
    dead = await api.dead()
    body = check(await api.send("DELETE", f"{PATH}/{dead['id']}"), 200, shapes.DeletedDeadLetter)
    assert body == {"deleted": True, "id": dead["id"], "job_id": dead["id"]}
    assert await types(api) == []
    refused(await api.send("GET", f"/ojs/v1/jobs/{dead['id']}"), 404, "not_found", resource_type="job")
    assert (await api.ask("GET", "/ojs/v1/queues/default/stats"))["discarded"] == 0


@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("POST", "/retry"), ("DELETE", "")])
@pytest.mark.parametrize("kind", ["absent", "available", "plain discard", "expired", "no id"])
async def test_any_other_job_is_not_found(api, refused, method, suffix, kind) -> None:
    """C-DLQ-07, Q-15."""
    job_id = {"absent": ABSENT, "no id": "x"}.get(kind)
    if job_id is None:
        expires = {"expires_at": "2020-01-01T00:00:00Z"} if kind == "expired" else {}
        job_id = (await api.push(options={"retry": {"max_attempts": 1}, **expires}))["id"]
        if kind != "available":
            taken = await api.fetch()
            if taken:
                await api.ask("POST", f"/ojs/v1/jobs/{job_id}/nack", {"error": {"message": "no"}})
        assert (await api.job(job_id))["state"] == ("available" if kind == "available" else "discarded")
    response = await api.send(method, f"{PATH}/{job_id}{suffix}")
    refused(response, 404, "not_found", resource_type="dead_letter_job", resource_id=job_id)
