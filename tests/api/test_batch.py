"""Several jobs at once: all or none (C-EP-04, section 18)."""

from __future__ import annotations

import pytest

from ojs_api import shapes

PATH = "/ojs/v1/jobs/batch"
FREE = "019c5166-8840-7000-8000-000000000001"
TAKEN = "019c5166-8840-7000-8000-000000000002"


def job(job_type: str = "test.job", **rest: object) -> dict[str, object]:
    return {"type": job_type, "args": [], **rest}


async def test_the_jobs_come_back_in_order_and_are_fetched_in_order(api, check) -> None:
    """C-BLK-04, C-OPS-11: order holds within one millisecond."""
    types = [f"t{index}" for index in range(1000)]
    response = await api.send("POST", PATH, {"jobs": [job(name) for name in types]})
    body = check(response, 201, shapes.BatchAnswer)
    assert body["count"] == 1000
    assert [one["type"] for one in body["jobs"]] == types
    assert "location" not in response.headers
    assert [one["type"] for one in await api.fetch(count=1000)] == types


async def test_each_job_has_every_option(api, check) -> None:
    """C-BLK-04."""
    jobs = [
        job(options={"pending": True}),
        job(options={"delay_until": "+PT1H", "queue": "later", "priority": 3, "tags": ["t"]}),
        job(id=FREE, meta={"m": 1}, mine="kept"),
        job(options={"rate_limit": {"max_per_second": 2}, "queue": "limited"}),
    ]
    body = check(await api.send("POST", PATH, {"jobs": jobs}), 201, shapes.BatchAnswer, extra=True)
    assert [one["state"] for one in body["jobs"]] == ["pending", "scheduled", "available", "available"]
    assert (body["jobs"][1]["queue"], body["jobs"][1]["priority"]) == ("later", 3)
    assert (body["jobs"][2]["id"], body["jobs"][2]["mine"]) == (FREE, "kept")
    (limited,) = [queue for queue in (await api.ask("GET", "/ojs/v1/queues"))["queues"] if queue["name"] == "limited"]
    assert limited["rate_limit"] == {"max_per_second": 2}


@pytest.mark.parametrize("body", [{}, {"jobs": None}, {"jobs": []}, {"jobs": {}}, {"jobs": "x"}, {"job": [job()]}])
async def test_there_must_be_jobs(api, refused, body) -> None:
    """C-BLK-02."""
    refused(await api.send("POST", PATH, body), 400, "invalid_request", field="jobs")


@pytest.mark.parametrize(
    ("bad", "status", "code", "field"),
    [
        (job("BAD"), 400, "invalid_request", "type"),
        ({"type": "a"}, 400, "invalid_request", "args"),
        (job(id="x"), 400, "invalid_request", "id"),
        (job(options={"queue": "_"}), 400, "invalid_request", "options.queue"),
        (job(retry={"max_attempts": -1}), 422, "validation_error", "retry.max_attempts"),
        (job(unique={"keys": ["x"]}), 400, "invalid_request", "unique.keys"),
        (job(unique={"args_keys": ["x"]}), 400, "invalid_request", "unique.args_keys"),
        (job(specversion="2.0"), 422, "unsupported", "specversion"),
        (job(meta={"k": "x" * 70_000}), 413, "metadata_too_large", None),
        (None, 400, "invalid_request", None),
        ([], 400, "invalid_request", None),
        ("x", 400, "invalid_request", None),
        (7, 400, "invalid_request", None),
    ],
)
async def test_one_bad_job_spoils_all_and_is_named(api, refused, bad, status, code, field) -> None:
    """C-BLK-01, C-BLK-03: by its index, in the message too."""
    response = await api.send("POST", PATH, {"jobs": [job(), job(), bad, job()]})
    error = refused(response, status, code, index=2, field=field)
    assert error["message"].startswith("jobs[2]: ")
    assert await api.stored() == (0, 1, 0, 0)


async def test_an_id_that_is_taken_spoils_all(api, refused) -> None:
    await api.push(id=TAKEN)
    before = await api.stored()
    response = await api.send("POST", PATH, {"jobs": [job(), job(id=FREE), job(id=TAKEN)]})
    refused(response, 409, "duplicate", index=2, existing_job_id=TAKEN)
    assert await api.stored() == before
    assert (await api.send("GET", f"/ojs/v1/jobs/{FREE}")).status_code == 404


async def test_an_id_that_occurs_twice_spoils_all(api, refused) -> None:
    response = await api.send("POST", PATH, {"jobs": [job(id=FREE), job(), job(id=FREE)]})
    refused(response, 409, "duplicate", index=2, existing_job_id=FREE)
    assert await api.stored() == (0, 1, 0, 0)


@pytest.mark.parametrize("first", ["stored", "in the batch"])
async def test_a_unique_conflict_that_is_rejected_spoils_all(api, refused, first) -> None:
    unique = {"unique": {"on_conflict": "reject"}}
    jobs = [job("other"), job("one", **unique)]
    if first == "stored":
        await api.push("one", **unique)
    else:
        jobs.insert(0, job("one", **unique))
    before = await api.stored()
    refused(await api.send("POST", PATH, {"jobs": jobs}), 409, "duplicate", index=len(jobs) - 1)
    assert await api.stored() == before


async def test_a_unique_conflict_that_is_ignored_shows_the_existing_job_in_its_place(api, check) -> None:
    """C-BLK-04."""
    unique = {"unique": {"on_conflict": "ignore"}}
    existing = await api.push("one", **unique)
    jobs = [job("one", **unique), job("two", **unique), job("two", **unique)]
    body = check(await api.send("POST", PATH, {"jobs": jobs}), 201, shapes.BatchAnswer)
    ids = [one["id"] for one in body["jobs"]]
    assert body["count"] == 3
    assert ids[0] == existing["id"]
    assert ids[1] == ids[2] != existing["id"]
    assert len(await api.fetch(count=10)) == 2
