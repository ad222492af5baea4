"""What workers report: success, failure, signs of life; and who may (C-EP-09 to C-EP-11)."""

from __future__ import annotations

import asyncio

import pytest

from ojs_api import shapes
from ojs_core.testing.clock import MINUTE, SECOND

ACK, NACK, BEAT = "/ojs/v1/workers/ack", "/ojs/v1/workers/nack", "/ojs/v1/workers/heartbeat"
NOW_TEXT = "2026-02-12T10:30:00.000Z"
ABSENT = "019c5166-8840-7000-8000-000000000000"
FAILED = {"message": "It failed."}


@pytest.fixture(params=["by body", "by path"])
def report(api, request):
    """Report on a job in either way a client may choose."""

    async def report(verb: str, job_id: str, **body: object):
        if request.param == "by body":
            return await api.send("POST", f"/ojs/v1/workers/{verb}", {"job_id": job_id, **body})
        return await api.send("POST", f"/ojs/v1/jobs/{job_id}/{verb}", body)

    return report


# Success.


async def test_a_success_ends_the_job(api, check, report) -> None:
    """C-EP-09, T07."""
    await api.push()
    taken = await api.fetch_one(worker_id="w")
    api.clock.advance(1500)
    answer = check(await report("ack", taken["id"], result={"n": 1}), 200, shapes.AckAnswer)
    later = "2026-02-12T10:30:01.500Z"
    assert {key: answer[key] for key in answer if key != "job"} == {
        "acknowledged": True,
        "id": taken["id"],
        "job_id": taken["id"],
        "state": "completed",
        "attempt": 1,
        "max_attempts": 3,
        "completed_at": later,
    }
    expected = {**taken, "state": "completed", "completed_at": later, "result": {"n": 1}}
    for gone in ("worker_id", "lease_id", "lease_expires_at"):
        del expected[gone]
    assert answer["job"] == expected == await api.job(taken["id"])


@pytest.mark.parametrize("result", [0, "", False, [], {}, "x", 1.5, [None]])
async def test_any_result_is_kept(api, result) -> None:
    """C-JSON-11."""
    job = await api.push()
    await api.fetch_one()
    await api.ask("POST", ACK, {"job_id": job["id"], "result": result})
    assert (await api.job(job["id"]))["result"] == result


@pytest.mark.parametrize("body", [{}, {"result": None}])
async def test_there_need_not_be_a_result(api, report, body) -> None:
    job = await api.push()
    await api.fetch_one()
    assert (await report("ack", job["id"], **body)).status_code == 200
    assert "result" not in await api.job(job["id"])


async def test_a_success_forgets_the_error_and_keeps_the_history(api) -> None:
    """C-OPS-20."""
    job = await api.push()
    await api.fetch_one()
    await api.ask("POST", NACK, {"job_id": job["id"], "error": FAILED})
    await api.tick(SECOND)
    await api.fetch_one()
    await api.ask("POST", ACK, {"job_id": job["id"]})
    found = await api.job(job["id"])
    assert "error" not in found
    assert len(found["errors"]) == 1


# Failure.


async def test_a_failure_with_attempts_left_is_retried_after_a_delay(api, check, report) -> None:
    """C-EP-10, T08, C-RTY-06, C-RTY-15."""
    await api.push(options={"retry": {"max_attempts": 5}})
    taken = await api.fetch_one(worker_id="w")
    error = {"code": "E1", "type": "Broken", "message": "It broke.", "retryable": True, "details": {"x": 1.0}}
    response = await report("nack", taken["id"], error={**error, "backtrace": ["a.py:1", {"line": 2}]})
    answer = check(response, 200, shapes.NackAnswer)
    delayed = {"retry_delay_ms": 1000, "next_retry_at": "2026-02-12T10:30:01.000Z"}
    assert {key: answer[key] for key in answer if key != "job"} == {
        "id": taken["id"],
        "job_id": taken["id"],
        "state": "retryable",
        "attempt": 1,
        "max_attempts": 5,
        "next_attempt_at": delayed["next_retry_at"],
        "retry_delay_ms": 1000,
    }
    stored = {**error, "attempt": 1, "occurred_at": NOW_TEXT, "backtrace": ["a.py:1", '{"line":2}']}
    expected = {**taken, **delayed, "state": "retryable", "error": stored, "errors": [stored]}
    for gone in ("worker_id", "lease_id", "lease_expires_at"):
        del expected[gone]
    assert answer["job"] == expected
    await api.tick(999)
    assert await api.fetch() == []
    api.clock.advance(1)
    await api.tick()
    again = await api.fetch_one()
    assert (again["attempt"], again["retry_delay_ms"]) == (2, 1000)
    assert "next_retry_at" not in again


async def test_a_failure_without_attempts_left_discards(api, check, report) -> None:
    """T09; a dead letter only if that was asked for (C-DLQ-01)."""
    await api.push(options={"retry": {"max_attempts": 1}})
    taken = await api.fetch_one()
    answer = check(await report("nack", taken["id"], error=FAILED), 200, shapes.NackAnswer)
    assert answer["state"] == answer["job"]["state"] == "discarded"
    assert answer["completed_at"] == answer["discarded_at"] == NOW_TEXT
    assert not {"next_attempt_at", "retry_delay_ms"} & answer.keys()
    assert (await api.ask("GET", "/ojs/v1/dead-letter"))["jobs"] == []


@pytest.mark.parametrize(
    ("error", "policy", "state", "dead"),
    [
        ({"retryable": False}, {}, "discarded", False),
        ({"retryable": False}, {"on_exhaustion": "dead_letter"}, "discarded", True),
        ({"code": "DISCARD"}, {"on_exhaustion": "dead_letter"}, "discarded", False),
        ({"code": "FAIL"}, {}, "discarded", False),
        ({"code": "DEAD_LETTER"}, {}, "discarded", True),
        ({"code": "RETRY", "retryable": False}, {}, "retryable", False),
        ({"code": "discard"}, {}, "retryable", False),
        ({"type": "Auth.Expired"}, {"non_retryable_errors": ["Auth.*"]}, "discarded", False),
        ({"details": {"error_class": "Fatal"}}, {"non_retryable_errors": ["Fatal"]}, "discarded", False),
        ({"code": "E7"}, {"non_retryable_errors": ["E7"]}, "discarded", False),
        ({"type": "Other"}, {"non_retryable_errors": ["Fatal"]}, "retryable", False),
    ],
)
async def test_error_and_policy_decide(api, report, error, policy, state, dead) -> None:
    """C-RTY-08 to C-RTY-11."""
    job = await api.push(options={"retry": policy})
    await api.fetch_one()
    response = await report("nack", job["id"], error={**FAILED, **error})
    assert response.json()["state"] == state
    letters = (await api.ask("GET", "/ojs/v1/dead-letter"))["jobs"]
    assert [letter["id"] for letter in letters] == ([job["id"]] if dead else [])


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ({}, ("handler_error", "handler_error")),
        ({"code": "E"}, ("E", "E")),
        ({"type": "T"}, ("T", "handler_error")),
        ({"type": "T", "code": "E"}, ("T", "E")),
        ({"code": "E", "details": {"error_class": "C"}}, ("C", "E")),
        ({"type": "", "code": "", "details": {"error_class": ""}}, ("handler_error", "handler_error")),
        ({"details": {"error_class": 5}}, ("handler_error", "handler_error")),
    ],
)
async def test_an_error_always_has_type_and_code(api, sent, stored) -> None:
    """C-OPS-31."""
    job = await api.push()
    await api.fetch_one()
    await api.ask("POST", NACK, {"job_id": job["id"], "error": {**FAILED, **sent}})
    error = (await api.job(job["id"]))["error"]
    assert (error["type"], error["code"]) == stored


async def test_a_long_error_is_cut(api) -> None:
    """C-OPS-32."""
    job = await api.push()
    await api.fetch_one()
    error = {"message": "m" * 20_000, "backtrace": "\n".join(["frame"] * 100)}
    await api.ask("POST", NACK, {"job_id": job["id"], "error": error})
    stored = (await api.job(job["id"]))["error"]
    assert (len(stored["message"]), len(stored["backtrace"])) == (10_000, 50)


async def test_a_requeued_job_is_available_at_once_and_nothing_failed(api, check, report) -> None:
    """C-OPS-33, C-OPS-34, T10: with the error, if there is one, left aside."""
    await api.push(options={"retry": {"max_attempts": 1}})
    taken = await api.fetch_one(worker_id="w1")
    response = await report("nack", taken["id"], requeue=True, error={**FAILED, "retryable": False})
    answer = check(response, 200, shapes.NackAnswer)
    assert (answer["state"], answer["attempt"]) == ("available", 1)
    assert not {"started_at", "worker_id", "lease_id", "error", "errors"} & answer["job"].keys()
    assert (await api.fetch_one(worker_id="w2"))["attempt"] == 2


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("error", {}),
        ("error", {"requeue": False}),
        *(("error", {"error": bad}) for bad in (None, "x", [], 1)),
        *(("error.message", {"error": {"message": bad}}) for bad in (None, "", 1, [], {})),
        ("error.message", {"error": {}}),
        *(("error.code", {"error": {**FAILED, "code": bad}}) for bad in (1, [], {}, True, "c" * 256)),
        *(("error.type", {"error": {**FAILED, "type": bad}}) for bad in (1, [], "t" * 256)),
        *(("error.retryable", {"error": {**FAILED, "retryable": bad}}) for bad in (0, "false", [])),
        *(("error.details", {"error": {**FAILED, "details": bad}}) for bad in ([], "x", 1)),
        *(("error.backtrace", {"error": {**FAILED, "backtrace": bad}}) for bad in ({}, 1, True)),
        *(("requeue", {"requeue": bad}) for bad in (1, "true", [])),
        *(("worker_id", {"error": FAILED, "worker_id": bad}) for bad in (1, [], "w" * 256)),
        *(("lease_id", {"error": FAILED, "lease_id": bad}) for bad in (1, {}, "1" * 256)),
    ],
)
async def test_a_bad_field_of_a_failure_is_named(api, refused, report, field, body) -> None:
    job = await api.push()
    await api.fetch_one()
    refused(await report("nack", job["id"], **body), 400, "invalid_request", field=field)
    assert (await api.job(job["id"]))["state"] == "active"


@pytest.mark.parametrize("path", [ACK, NACK])
@pytest.mark.parametrize("job_id", [None, "", 1, [], "x" * 256])
async def test_there_must_be_a_job_id(api, refused, path, job_id) -> None:
    for body in ({"job_id": job_id, "error": FAILED}, {"error": FAILED}):
        refused(await api.send("POST", path, body), 400, "invalid_request", field="job_id")


@pytest.mark.parametrize("verb", ["ack", "nack"])
async def test_an_unknown_job_is_not_found(refused, report, verb) -> None:
    response = await report(verb, ABSENT, error=FAILED)
    refused(response, 404, "not_found", resource_type="job", resource_id=ABSENT)


# Who may.


@pytest.mark.parametrize("verb", ["ack", "nack", "requeue"])
@pytest.mark.parametrize("state", ["available", "scheduled", "pending", "retryable", "completed", "discarded"])
async def test_only_an_active_job_can_be_reported_on(api, refused, report, verb, state) -> None:
    """C-LC-05; the answer tells the actual state and the job is untouched (C-LC-01)."""
    options = {"scheduled": {"delay_until": "+PT1H"}, "pending": {"pending": True}}.get(state, {})
    job = await api.push(options={**options, "retry": {"max_attempts": 1 if state == "discarded" else 3}})
    if state in ("retryable", "discarded", "completed"):
        await api.fetch_one()
        path, body = (ACK, {}) if state == "completed" else (NACK, {"error": FAILED})
        await api.ask("POST", path, {"job_id": job["id"], **body})
    before = await api.job(job["id"])
    response = await report("ack" if verb == "ack" else "nack", job["id"], error=FAILED, requeue=verb == "requeue")
    error = refused(response, 409, "conflict", current_state=state, expected_state="active", job_id=job["id"])
    assert error["retryable"] is False
    assert await api.job(job["id"]) == before


@pytest.mark.parametrize("verb", ["ack", "nack", "requeue"])
async def test_a_worker_cannot_report_on_the_job_of_another(api, refused, report, verb) -> None:
    """C-OPS-21, C-OPS-30: the answer names the holder. Who names nobody is trusted."""
    await api.push()
    job = await api.fetch_one(worker_id="owner")
    name = "ack" if verb == "ack" else "nack"
    body = {"error": FAILED, "requeue": verb == "requeue"}
    response = await report(name, job["id"], worker_id="thief", **body)
    refused(response, 409, "conflict", current_state="active", worker_id="owner")
    assert await api.job(job["id"]) == job
    assert (await report(name, job["id"], worker_id="owner", **body)).status_code == 200


async def test_a_job_fetched_without_a_name_belongs_to_whoever_reports(api, report) -> None:
    """Q-11."""
    job = await api.push()
    await api.fetch_one()
    assert (await report("ack", job["id"], worker_id="anyone")).status_code == 200


@pytest.mark.parametrize("verb", ["ack", "nack", "requeue"])
async def test_an_empty_name_is_none(api, report, verb) -> None:
    """Clients send an unset field that way (C-OPS-17, C-OPS-21): no worker of that name comes to be."""
    job = await api.push()
    assert "worker_id" not in await api.fetch_one(worker_id="")
    assert (await report("nack", job["id"], requeue=True, worker_id="")).status_code == 200
    await api.fetch_one(worker_id="owner")
    body = {"error": FAILED, "requeue": verb == "requeue"}
    assert (await report("ack" if verb == "ack" else "nack", job["id"], worker_id="", **body)).status_code == 200
    assert [worker["id"] for worker in (await api.ask("GET", "/ojs/v1/admin/workers"))["workers"]] == ["owner"]


@pytest.mark.parametrize("verb", ["ack", "nack", "requeue"])
@pytest.mark.parametrize("lease_id", ["1", "0", "3", "", "x", "-1", " 2", "02x", "9" * 30, "\u0662"])
async def test_the_token_of_an_earlier_claim_is_refused(api, refused, report, verb, lease_id) -> None:
    """C-VIS-04: even for the same worker, whose first claim lapsed."""
    await api.push()
    first = await api.fetch_one(worker_id="w", visibility_timeout_ms=1000)
    await api.tick(1000)
    second = await api.fetch_one(worker_id="w")
    assert (first["lease_id"], second["lease_id"]) == ("1", "2")
    name = "ack" if verb == "ack" else "nack"
    body = {"error": FAILED, "requeue": verb == "requeue"}
    response = await report(name, second["id"], lease_id=lease_id, worker_id="w", **body)
    refused(response, 409, "conflict", current_state="active")
    assert (await report(name, second["id"], lease_id="2", **body)).status_code == 200


async def test_of_many_reports_at_once_one_counts(api) -> None:
    """One winner, and the others are told who won."""
    job = await api.push()
    await api.fetch_one()
    bodies = [(ACK, {}), (NACK, {"error": FAILED}), (NACK, {"requeue": True})] * 4
    responses = await asyncio.gather(*(api.send("POST", path, {"job_id": job["id"], **body}) for path, body in bodies))
    statuses = sorted(response.status_code for response in responses)
    assert statuses == [200] + [409] * 11


# Signs of life.


async def test_a_heartbeat_is_answered_with_what_to_do(api, check) -> None:
    """C-EP-11, C-WRK-01."""
    answer = check(await api.send("POST", BEAT, {"worker_id": "w"}), 200, shapes.HeartbeatAnswer)
    assert answer == {
        "state": "running",
        "directive": "",
        "acknowledged": True,
        "jobs_extended": [],
        "server_time": NOW_TEXT,
    }


@pytest.mark.parametrize(
    "form",
    [
        lambda ids: {"active_jobs": ids},
        lambda ids: {"active_jobs": len(ids), "active_job_ids": ids},
        lambda ids: {"active_job_ids": ids},
        lambda ids: {"active_jobs": ids[:1], "active_job_ids": ids[1:], "job_id": ids[0]},
    ],
    ids=["list", "number and list", "ids alone", "mixed"],
)
async def test_it_renews_the_leases_it_names_in_any_form(api, check, form) -> None:
    """C-EP-11, C-VIS-05: clients differ in what `active_jobs` is."""
    for _ in range(2):
        await api.push()
    jobs = await api.fetch(count=2, worker_id="w", visibility_timeout_ms=3000)
    ids = [job["id"] for job in jobs]
    api.clock.advance(2000)
    answer = check(await api.send("POST", BEAT, {"worker_id": "w", **form(ids)}), 200, shapes.HeartbeatAnswer)
    assert sorted(answer["jobs_extended"]) == sorted(ids)
    for job_id in ids:
        assert (await api.job(job_id))["lease_expires_at"] == "2026-02-12T10:30:05.000Z"
    (worker,) = (await api.ask("GET", "/ojs/v1/admin/workers"))["workers"]
    assert worker["active_jobs"] == (1 if "job_id" in form(ids) else 2)


async def test_it_renews_by_the_length_it_gives_else_by_that_of_the_lease(api) -> None:
    """C-VIS-05: never by some other default."""
    await api.push()
    job = await api.fetch_one(worker_id="w", visibility_timeout_ms=3000)
    for asked, expires in (
        (10_000, "10.000Z"),
        (None, "10.000Z"),
        (0, "10.000Z"),
        (2000, "02.000Z"),
        (None, "02.000Z"),
    ):
        body = {"worker_id": "w", "active_jobs": [job["id"]], "visibility_timeout_ms": asked}
        await api.ask("POST", BEAT, body)
        assert (await api.job(job["id"]))["lease_expires_at"].endswith(expires)


async def test_it_renews_nobody_elses_and_fails_over_nothing(api, check) -> None:
    """C-VIS-05, C-WRK-07."""
    await api.push("theirs")
    theirs = await api.fetch_one(worker_id="other", visibility_timeout_ms=3000)
    await api.push("mine")
    mine = await api.fetch_one(worker_id="w")
    await api.ask("DELETE", f"/ojs/v1/jobs/{mine['id']}")
    waiting = await api.push("waiting")
    api.clock.advance(1000)
    ids = [theirs["id"], mine["id"], waiting["id"], ABSENT, "nonsense", "", theirs["id"]]
    response = await api.send("POST", BEAT, {"worker_id": "w", "active_jobs": ids})
    answer = check(response, 200, shapes.HeartbeatAnswer)
    assert answer["jobs_extended"] == []
    # C-WRK-06: this is how a worker learns of it.
    assert answer["jobs_cancelled"] == [mine["id"]]
    assert await api.job(theirs["id"]) == theirs


async def test_what_a_worker_says_of_itself_is_kept(api, check) -> None:
    """C-WRK-05."""
    report = {
        "hostname": "h",
        "pid": 7,
        "queues": ["a"],
        "concurrency": 4,
        "labels": {"zone": 1.0},
        "state": "draining",
    }
    await api.ask("POST", BEAT, {"worker_id": "w", "active_jobs": 3, "started_at": "whenever", **report})
    api.clock.advance(SECOND)
    await api.ask("POST", BEAT, {"worker_id": "w", "active_jobs": 3, **report})
    workers = check(await api.send("GET", "/ojs/v1/admin/workers"), 200, shapes.WorkersAnswer)
    assert workers["workers"] == [
        {
            **report,
            "id": "w",
            "worker_id": "w",
            "state": "quiet",
            "directive": "running",
            "first_seen_at": NOW_TEXT,
            "last_seen_at": "2026-02-12T10:30:01.000Z",
            "heartbeats": 2,
            "active_jobs": 3,
        }
    ]


@pytest.mark.parametrize("directive", ["quiet", "terminate"])
async def test_a_directive_reaches_the_worker_and_lets_it_finish(api, check, refused, directive) -> None:
    """C-WRK-02, C-WRK-04: sticky until changed."""
    await api.push()
    job = await api.fetch_one(worker_id="w")
    path = "/ojs/v1/admin/workers/w/directive"
    answer = check(await api.send("POST", path, {"directive": directive}), 200, shapes.WorkerAnswer)
    assert answer["worker"]["directive"] == directive
    for _ in range(2):
        beat = await api.ask("POST", BEAT, {"worker_id": "w", "active_jobs": [job["id"]]})
        assert beat["state"] == beat["directive"] == directive
    assert (await api.send("POST", ACK, {"job_id": job["id"], "worker_id": "w"})).status_code == 200
    await api.ask("POST", path, {"directive": "running"})
    assert (await api.ask("POST", BEAT, {"worker_id": "w"}))["state"] == "running"
    for bad in (None, "", "stop", 1, [], {}):
        refused(await api.send("POST", path, {"directive": bad}), 400, "invalid_request", field="directive")
    unknown = await api.send("POST", path.replace("/w/", "/nobody/"), {"directive": "quiet"})
    refused(unknown, 404, "not_found", resource_type="worker", resource_id="nobody")


@pytest.mark.parametrize(("test_mode", "state"), [(True, "terminate"), (False, "running")])
async def test_a_job_can_direct_its_worker_only_in_test_mode(serving, test_mode, state) -> None:
    """C-WRK-03, C-CNF-04, Q-19: `meta` is the client's, and a client does not command workers."""
    async with serving(test_mode=test_mode) as api:
        await api.push(meta={"test_directive": "terminate"})
        job = await api.fetch_one(worker_id="w")
        beat = await api.ask("POST", BEAT, {"worker_id": "w", "active_jobs": [job["id"]]})
        assert beat["state"] == state


async def test_a_worker_that_falls_silent_loses_its_jobs(api, refused) -> None:
    """C-WRK-08 to C-WRK-10; one that never sent a heartbeat is left to its leases."""
    await api.push("one")
    await api.ask("POST", BEAT, {"worker_id": "beating"})
    lost = await api.fetch_one(worker_id="beating")
    await api.push("two")
    kept = await api.fetch_one(worker_id="fetching")
    api.clock.advance(MINUTE)
    await api.service.maintenance.bury_dead_workers()
    assert (await api.job(kept["id"]))["state"] == "active"
    found = await api.job(lost["id"])
    assert (found["state"], found["error"]["type"]) == ("available", "worker_death")
    late = await api.send("POST", ACK, {"job_id": lost["id"], "worker_id": "beating"})
    refused(late, 409, "conflict", current_state="available")


@pytest.mark.parametrize(
    ("field", "body"),
    [
        *(("worker_id", {"worker_id": bad}) for bad in (None, "", 1, [], "w" * 256)),
        ("worker_id", {"active_jobs": []}),
        *(
            ("active_jobs", {"worker_id": "w", "active_jobs": bad})
            for bad in (-1, 10_001, 1.5, "x", {}, True, [1], [None])
        ),
        ("active_jobs", {"worker_id": "w", "active_jobs": ["x"] * 10_001}),
        *(("active_job_ids", {"worker_id": "w", "active_job_ids": bad}) for bad in (1, "x", {}, [[]])),
        *(("job_id", {"worker_id": "w", "job_id": bad}) for bad in (1, [], "x" * 256)),
        *(("state", {"worker_id": "w", "state": bad}) for bad in (1, [], "asleep", "RUNNING", "x" * 256)),
        *(("hostname", {"worker_id": "w", "hostname": bad}) for bad in (1, [], "h" * 256)),
        *(("pid", {"worker_id": "w", "pid": bad}) for bad in (-1, "1", 1.0, True, 2**54)),
        *(("queues", {"worker_id": "w", "queues": bad}) for bad in ("a", [1], {}, ["a"] * 1001)),
        *(("concurrency", {"worker_id": "w", "concurrency": bad}) for bad in (-1, "1", 2**32)),
        *(("labels", {"worker_id": "w", "labels": bad}) for bad in ("x", 1, True)),
        *(("visibility_timeout_ms", {"worker_id": "w", "visibility_timeout_ms": bad}) for bad in (-1, "1", 1.5, 2**70)),
    ],
)
async def test_a_bad_field_of_a_heartbeat_is_named(api, refused, field, body) -> None:
    refused(await api.send("POST", BEAT, body), 400, "invalid_request", field=field)
    assert await api.stored() == (0, 1, 0, 0)
