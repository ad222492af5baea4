"""Unique policies as a client meets them (section 17)."""

from __future__ import annotations

import asyncio
import logging

import pytest

from ojs_api import shapes

PATH = "/ojs/v1/jobs"


def request(*args: object, meta: object = None, queue: str = "default", **unique: object) -> dict[str, object]:
    return {"type": "one", "args": list(args), "meta": meta, "queue": queue, "options": {"unique": unique}}


async def test_reject_names_the_job_that_is_there(api, check, refused, caplog) -> None:
    """C-UNQ-07, C-UNQ-14: the client is told the fingerprint, the log is not."""
    caplog.set_level(logging.INFO)
    existing = check(await api.send("POST", PATH, request()), 201, shapes.JobAnswer)["job"]
    response = await api.send("POST", PATH, request(1))
    refused(response, 409, "duplicate", existing_job_id=existing["id"], existing_job_state="available")
    mark = response.json()["error"]["details"]["unique_key"]
    assert len(mark) == 64
    assert mark not in caplog.text
    assert await api.job(existing["id"]) == existing


@pytest.mark.parametrize("spelling", ["ignore", "use_existing", "drop"])
async def test_ignore_answers_with_the_job_that_is_there(api, check, spelling) -> None:
    """C-UNQ-08, Q-27: 200, without a Location, and nothing happened."""
    existing = (await api.ask("POST", PATH, request()))["job"]
    before = await api.stored()
    response = await api.send("POST", PATH, request(1, on_conflict=spelling))
    body = check(response, 200, shapes.ExistingJob)
    assert body == {"job": existing, "deduplicated": True}
    assert "location" not in response.headers
    assert await api.stored() == before


@pytest.mark.parametrize("active", [False, True])
async def test_replace_cancels_the_job_that_is_there(api, check, active) -> None:
    """C-UNQ-09: in one step, one that runs too."""
    existing = (await api.ask("POST", PATH, request()))["job"]
    if active:
        await api.fetch_one()
    new = check(await api.send("POST", PATH, request(1, on_conflict="replace")), 201, shapes.JobAnswer)["job"]
    assert new["id"] != existing["id"]
    assert (await api.job(existing["id"]))["state"] == "cancelled"
    assert [job["id"] for job in await api.fetch(count=10)] == [new["id"]]


async def test_replace_except_schedule_keeps_the_time(api, check) -> None:
    """C-UNQ-10."""
    later = {"delay_until": "2099-01-01T00:00:00Z"}
    first = {**request(), "options": {"unique": {}, **later}}
    await api.ask("POST", PATH, first)
    new = check(await api.send("POST", PATH, request(1, on_conflict="replace_except_schedule")), 201, shapes.JobAnswer)
    assert (new["job"]["state"], new["job"]["args"]) == ("scheduled", [1])
    assert new["job"]["scheduled_at"].startswith("2099-01-01T00:00:00")


@pytest.mark.parametrize(
    ("policy", "first", "second", "same"),
    [
        ({}, request(1), request(2), True),
        ({"keys": ["type", "args"]}, request(1), request(2), False),
        ({"keys": ["args"]}, request({"a": 1, "b": [2]}), request({"b": [2.0], "a": 1.0}), True),
        ({"keys": ["args"]}, request("\u00e9"), request("e\u0301"), True),
        ({"keys": ["args"]}, request(2**53), request(2**53 + 1), False),
        ({"keys": ["queue"]}, request(queue="a"), request(queue="b"), False),
        ({"keys": ["args"]}, request(queue="a"), request(queue="b"), True),
        ({"keys": ["meta"], "meta_keys": ["t"]}, request(meta={"t": 1, "x": 1}), request(meta={"t": 1}), True),
        ({"keys": ["meta"], "meta_keys": ["t"]}, request(meta={"t": 1}), request(meta={"t": 2}), False),
        ({"keys": ["args"], "args_keys": ["id"]}, request({"id": 1, "n": 1}), request({"id": 1, "n": 2}), True),
        ({"key": ["id"]}, request({"id": 1}), request({"id": 2}), False),
        ({"key": []}, request(1), request(1), True),
    ],
)
async def test_what_makes_two_jobs_the_same(api, policy, first, second, same) -> None:
    """C-UNQ-01 to C-UNQ-05, C-UNQ-13."""
    statuses = []
    for body in (first, second):
        body = {**body, "options": {"unique": policy}}  # noqa: PLW2901 - the same with the policy
        statuses.append((await api.send("POST", PATH, body)).status_code)
    assert statuses == [201, 409 if same else 201]


async def test_a_job_counts_as_long_as_its_state_and_its_age_say(api) -> None:
    """C-UNQ-06, C-UNQ-11."""

    async def status(**policy: object) -> int:
        response = await api.send("POST", PATH, request(**policy))
        return int(response.status_code)

    assert await status(period="PT3S") == 201
    api.clock.advance(2999)
    assert await status(period="PT3S") == 409
    api.clock.advance(1)
    # The policy of the new job decides.
    assert await status() == 409
    assert await status(period_ms=3000) == 201
    for job in await api.fetch(count=10):
        await api.ask("POST", f"{PATH}/{job['id']}/ack")
    assert await status(states=["completed"]) == 409
    assert await status() == 201


@pytest.mark.parametrize(
    ("field", "policy"),
    [
        ("unique", []),
        ("unique", "x"),
        ("unique.keys", {"keys": ["type", "colour"]}),
        ("unique.keys", {"keys": "type"}),
        ("unique.meta_keys", {"keys": ["meta"]}),
        ("unique.args_keys", {"keys": ["args"], "args_keys": ["id"]}),
        ("unique.states", {"states": ["asleep"]}),
        ("unique.states", {"states": []}),
        ("unique.on_conflict", {"on_conflict": "fight"}),
        ("unique.period", {"period": "1h"}),
        ("unique.period", {"period": "PT0S"}),
        ("unique.period_ms", {"period_ms": 0}),
    ],
)
async def test_a_policy_that_makes_no_sense_is_refused(api, refused, field, policy) -> None:
    """C-UNQ-03."""
    body = {"type": "one", "args": [], "options": {"unique": policy}}
    refused(await api.send("POST", PATH, body), 400, "invalid_request", field=field)
    assert await api.stored() == (0, 1, 0, 0)


async def test_of_many_at_once_one_wins(api) -> None:
    """C-UNQ-12."""
    responses = await asyncio.gather(*(api.send("POST", PATH, request()) for _ in range(20)))
    assert sorted(response.status_code for response in responses) == [201] + [409] * 19
