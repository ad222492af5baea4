"""Enqueue, read, cancel, activate (C-EP-03 to C-EP-07), and what comes back of what was sent (section 1)."""

from __future__ import annotations

from itertools import permutations

import msgspec
import pytest

from ojs_api import shapes
from ojs_api.shapes.jobs import Job
from ojs_core.envelope import STANDARD, SYSTEM_MANAGED
from ojs_core.ids import is_uuid7, uuid7
from ojs_core.testing.clock import NOW, SECOND

NOW_TEXT = "2026-02-12T10:30:00.000Z"
ABSENT = "019c5166-8840-7000-8000-000000000000"
PATH = "/ojs/v1/jobs"


async def test_type_and_args_are_enough(api, check) -> None:
    """C-ENV-01, C-OPS-02, C-HTTP-08: all else is filled in, and nothing without a meaning is there (C-ENV-25)."""
    response = await api.send("POST", PATH, {"type": "email.send", "args": ["a@b.c", {"n": 1}]})
    job = check(response, 201, shapes.JobAnswer)["job"]
    assert is_uuid7(job["id"])
    assert response.headers["location"] == f"{PATH}/{job['id']}"
    assert job == {
        "specversion": "1.0",
        "id": job["id"],
        "type": "email.send",
        "queue": "default",
        "args": ["a@b.c", {"n": 1}],
        "meta": {},
        "priority": 0,
        "state": "available",
        "attempt": 0,
        "max_attempts": 3,
        "created_at": NOW_TEXT,
        "enqueued_at": NOW_TEXT,
    }
    assert check(await api.send("GET", f"{PATH}/{job['id']}"), 200, shapes.JobAnswer) == {"job": job}


async def test_everything_that_can_be_set_comes_back(api, check) -> None:
    """C-ENV-11 to C-ENV-18; a schema that nobody registered is kept (C-ENV-20)."""
    job_id = uuid7(NOW)
    retry = {"max_attempts": 5, "initial_interval": "PT2S", "on_exhaustion": "dead_letter", "mine": 1}
    unique = {"keys": ["type", "args"], "period": "PT1H"}
    request = {
        "specversion": "1.0",
        "id": job_id,
        "type": "report.make",
        "args": [],
        "meta": {"trace_id": "t"},
        "schema": "urn:example:report",
        "options": {
            "queue": "reports.eu-1",
            "priority": -100,
            "delay_until": "2099-12-31T23:59:59Z",
            "expires_at": "2100-01-01T01:00:00+01:00",
            "timeout_ms": 1500,
            "visibility_timeout": "PT2M",
            "tags": ["a", ""],
            "retry": retry,
            "unique": unique,
            "metadata": {"trace_id": "lost", "kept": True},
            "unknown": "ignored",
        },
    }
    job = check(await api.send("POST", PATH, request), 201, shapes.JobAnswer)["job"]
    assert job == {
        "specversion": "1.0",
        "id": job_id,
        "type": "report.make",
        "queue": "reports.eu-1",
        "args": [],
        "meta": {"kept": True, "trace_id": "t"},
        "priority": -100,
        "state": "scheduled",
        "attempt": 0,
        "max_attempts": 5,
        "created_at": NOW_TEXT,
        # As sent, to the letter (C-ENV-14).
        "scheduled_at": "2099-12-31T23:59:59Z",
        "expires_at": "2100-01-01T01:00:00+01:00",
        "timeout_ms": 1500,
        "visibility_timeout_ms": 120_000,
        "tags": ["a", ""],
        "schema": "urn:example:report",
        "retry": retry,
        "unique": unique,
    }


async def test_a_time_counted_from_now_comes_back_absolute(api) -> None:
    """C-ENV-15; and the job is released when it comes (C-SCH-01)."""
    job = await api.push(options={"delay_until": "+PT2.5S", "expires_at": "+PT1M"})
    assert job["scheduled_at"] == "2026-02-12T10:30:02.500Z"
    assert job["expires_at"] == "2026-02-12T10:31:00.000Z"
    await api.tick(2499)
    assert (await api.job(job["id"]))["state"] == "scheduled"
    await api.tick(1)
    assert (await api.job(job["id"]))["state"] == "available"


async def test_attributes_beside_the_options_count_and_options_win(api) -> None:
    """C-ENV-12, C-ENV-23."""
    job = await api.push(queue="beside", priority=7, timeout=3, options={"priority": 9})
    assert (job["queue"], job["priority"], job["timeout_ms"]) == ("beside", 9, 3000)
    job = await api.push(scheduled_at="2099-01-01T00:00:00Z", options={"delay_until": "2098-01-01T00:00:00Z"})
    assert job["scheduled_at"] == "2098-01-01T00:00:00Z"


async def test_null_counts_as_absent(api) -> None:
    """C-ENV-25."""
    names = [*STANDARD - {"type", "args", "options"}, "metadata"]
    job = await api.push(**dict.fromkeys(names), options=None)
    plain = await api.push(options=dict.fromkeys(names))
    ignored = {"id", "metadata"}
    assert {key: job[key] for key in job if key not in ignored} == {
        key: plain[key] for key in plain if key not in ignored
    }
    # Unknown beside the options, so it is kept.
    assert job["metadata"] is None


@pytest.mark.parametrize(
    "text",
    [
        "[1.0,1,-0.0,1e2,0.1,123456789012345678901234567890,9007199254740993,1E-7]",
        '["\\u0000","\\u00e9","é","\\ud83d\\ude00","/","\\/"]',
        '[{"b":1,"a":{"":null}},[[]],true,null,{}]',
        "[ 1 , 2 ]",
    ],
)  # fmt: skip
async def test_values_come_back_as_they_were_sent(api, text) -> None:
    """C-ENV-06, C-ENV-07, C-JSON-05, C-JSON-11: 1.0 is not 1, and an integer keeps its digits."""
    body = f'{{"type":"a","args":{text},"meta":{{"m":{text}}},"mine":{text}}}'
    pushed = await api.send("POST", PATH, body.encode())
    job_id = pushed.json()["job"]["id"]
    fetched = await api.send("POST", "/ojs/v1/workers/fetch", {"queues": ["default"]})
    acked = await api.send("POST", f"{PATH}/{job_id}/ack", f'{{"result":{text}}}'.encode())
    read = await api.send("GET", f"{PATH}/{job_id}")
    for response, names in (
        (pushed, ("args", "mine")),
        (fetched, ("args", "mine")),
        (acked, ("args", "mine", "result")),
        (read, ("args", "mine", "result")),
    ):
        whole = msgspec.json.decode(response.content, type=dict[str, msgspec.Raw])
        job = msgspec.json.decode(whole["job"], type=dict[str, msgspec.Raw])
        for name in names:
            assert bytes(job[name]).decode() == text
        assert bytes(msgspec.json.decode(job["meta"], type=dict[str, msgspec.Raw])["m"]).decode() == text


async def test_unknown_attributes_are_kept_and_cannot_pose_as_ours(api, check) -> None:
    """C-ENV-21, C-ENV-22: whatever an answer says of a job on its own, no client can make it say."""
    ours = {field.name for field in msgspec.structs.fields(Job)}
    forged = dict.fromkeys([*SYSTEM_MANAGED, *ours - STANDARD], "forged")
    response = await api.send("POST", PATH, {"type": "a", "args": [], **forged, "mine": {"x": [1]}, "": 0})
    job = check(response, 201, shapes.JobAnswer, extra=True)["job"]
    assert (job["mine"], job[""]) == ({"x": [1]}, 0)
    assert "forged" not in job.values()
    taken = await api.fetch_one()
    assert "forged" not in taken.values()
    assert taken["mine"] == {"x": [1]}


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("type", {"args": []}),
        ("type", {"type": None, "args": []}),
        *(("type", {"type": bad, "args": []}) for bad in ("", "A.b", "1a", "a b", "a..b", "a\n", "a.", "é", "a" * 256)),
        ("args", {"type": "a"}),
        *(("args", {"type": "a", "args": bad}) for bad in (None, {}, "x", 1, True)),
        *(
            ("id", {"type": "a", "args": [], "id": bad})
            for bad in ("", "x", 7, ABSENT.upper(), ABSENT + "\n", "550e8400-e29b-41d4-a716-446655440000")
        ),
        *(("meta", {"type": "a", "args": [], "meta": bad}) for bad in ([], "x", 1, False)),
        *(
            ("options.queue", {"type": "a", "args": [], "options": {"queue": bad}})
            for bad in ("", "A", "-a", ".a", "a_b", "a b", "a\n", "a" * 129, 1)
        ),
        ("queue", {"type": "a", "args": [], "queue": "BAD"}),
        *(
            ("options.priority", {"type": "a", "args": [], "options": {"priority": bad}})
            for bad in (101, -101, 999_999, 1.0, 1.5, True, "7", "HIGHEST", [], 2**70)
        ),
        *(
            ("options.delay_until", {"type": "a", "args": [], "options": {"delay_until": bad}})
            for bad in ("2099-12-31T23:59:59", "2099-12-31", "tomorrow", "+1h", "+", "", 1, "2099-02-30T00:00:00Z")
        ),
        ("expires_at", {"type": "a", "args": [], "expires_at": "never"}),
        ("options", {"type": "a", "args": [], "options": []}),
        ("options.pending", {"type": "a", "args": [], "options": {"pending": True, "delay_until": "+PT1H"}}),
        ("tags", {"type": "a", "args": [], "tags": ["a", 1]}),
        ("schema", {"type": "a", "args": [], "schema": ""}),
    ],
)
async def test_a_bad_field_is_named(api, refused, field, body) -> None:
    """C-ENV-03 to C-ENV-14, C-ENV-26, C-ERR-06; nothing is stored."""
    error = refused(await api.send("POST", PATH, body), 400, "invalid_request", field=field)
    assert error["retryable"] is False
    assert field.rpartition(".")[2] in error["message"]
    assert await api.stored() == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("field", "policy"),
    [
        ("retry.max_attempts", {"max_attempts": -1}),
        ("retry.max_attempts", {"max_attempts": True}),
        ("retry.backoff_coefficient", {"backoff_coefficient": 0.5}),
        ("retry.initial_interval", {"initial_interval": "1s"}),
        ("retry.initial_interval", {"initial_interval": "PT0S"}),
        ("retry.max_interval", {"initial_interval": "PT10M"}),
        ("retry.jitter", {"jitter": 1}),
        ("retry.non_retryable_errors", {"non_retryable_errors": [""]}),
        ("retry.on_exhaustion", {"on_exhaustion": "explode"}),
        ("retry.backoff_strategy", {"backoff_strategy": "none at all"}),
        ("retry", []),
    ],
)
async def test_a_bad_retry_policy_has_a_code_of_its_own(api, refused, field, policy) -> None:
    """C-ERR-04."""
    response = await api.send("POST", PATH, {"type": "a", "args": [], "options": {"retry": policy}})
    error = refused(response, 422, "validation_error", field=field)
    assert error["type"] == "validation_error"
    assert field.rpartition(".")[2] in error["message"]
    assert await api.stored() == (0, 1, 0, 0)


async def test_of_several_mistakes_the_same_is_told_however_they_are_ordered(api, refused) -> None:
    """C-JSON-10, C-OPS-01: the envelope before the retry policy before the unique policy."""
    mistakes = {"priority": 1000, "retry": {"max_attempts": -1}, "unique": {"keys": ["x"]}}
    told = {
        "priority": (400, "invalid_request", "options.priority"),
        "retry": (422, "validation_error", "retry.max_attempts"),
        "unique": (400, "invalid_request", "unique.keys"),
    }
    for first, (status, code, field) in told.items():
        for order in permutations(mistakes.items()):
            response = await api.send("POST", PATH, {"type": "a", "args": [], "options": dict(order)})
            refused(response, status, code, field=field)
        del mistakes[first]


async def test_another_specversion_is_unsupported(api, refused) -> None:
    """C-ENV-02."""
    for version in ("2.0", "1.1", "", 1, 1.0, []):
        response = await api.send("POST", PATH, {"specversion": version, "type": "a", "args": []})
        refused(response, 422, "unsupported", field="specversion")


@pytest.mark.parametrize("state", ["available", "active", "completed", "cancelled"])
async def test_an_id_is_taken_for_good(api, refused, state) -> None:
    """C-ENV-04: in any state and any queue, and the existing job is untouched."""
    job = await api.push(id=ABSENT)
    if state == "cancelled":
        await api.ask("DELETE", f"{PATH}/{ABSENT}")
    elif state != "available":
        await api.fetch_one()
        if state == "completed":
            await api.ask("POST", f"{PATH}/{ABSENT}/ack")
    before = await api.job(ABSENT)
    response = await api.send("POST", PATH, {"type": "b", "args": [], "id": job["id"], "queue": "other"})
    error = refused(response, 409, "duplicate", existing_job_id=ABSENT, existing_job_state=state)
    assert error["retryable"] is False
    assert await api.job(ABSENT) == before


# Reading.


async def test_reading_changes_nothing(api) -> None:
    """C-EP-05: not even what is due."""
    job = await api.push(options={"delay_until": "+PT1S", "expires_at": "+PT2S"})
    api.clock.advance(10 * SECOND)
    events = await api.ask("GET", "/ojs/v1/events")
    first = await api.send("GET", f"{PATH}/{job['id']}")
    assert first.json()["job"] == job
    assert (await api.send("GET", f"{PATH}/{job['id']}")).content == first.content
    assert await api.ask("GET", "/ojs/v1/events") == events


@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("DELETE", ""), ("POST", "/activate"), ("POST", "/ack")])
@pytest.mark.parametrize("job_id", [ABSENT, "550e8400-e29b-41d4-a716-446655440000", "x"])
async def test_an_unknown_job_is_not_found(api, refused, method, suffix, job_id) -> None:
    """C-ERR-08; with the hint and the address of its explanation (C-ERR-02)."""
    response = await api.send(method, f"{PATH}/{job_id}{suffix}")
    error = refused(response, 404, "not_found", resource_type="job", resource_id=job_id)
    assert error["retryable"] is False
    page = (await api.send("GET", "/ojs/v1/docs")).text
    assert f'id="{error["docs_url"].partition("#")[2]}"' in page


# Cancelling.


@pytest.mark.parametrize("state", ["available", "scheduled", "pending", "active", "retryable"])
async def test_a_job_that_has_not_ended_can_be_cancelled(api, check, refused, state) -> None:
    """C-EP-06, C-LC-07, C-LC-08: it keeps its attempt, has no `completed_at`, and nobody else gets it."""
    options = {"scheduled": {"delay_until": "+PT1H"}, "pending": {"pending": True}}.get(state, {})
    job = await api.push(options=options)
    if state in ("active", "retryable"):
        await api.fetch_one()
    if state == "retryable":
        await api.ask("POST", f"{PATH}/{job['id']}/nack", {"error": {"message": "no"}})
    before = await api.job(job["id"])
    answer = check(await api.send("DELETE", f"{PATH}/{job['id']}"), 200, shapes.ChangedAnswer)["job"]
    assert (answer["state"], answer["previous_state"]) == ("cancelled", state)
    assert answer["cancelled_at"] == NOW_TEXT
    assert answer["attempt"] == before["attempt"]
    assert "completed_at" not in answer
    assert not {"lease_id", "lease_expires_at", "worker_id", "next_retry_at"} & answer.keys()
    del answer["previous_state"]
    assert await api.job(job["id"]) == answer
    api.clock.advance(3_600_000)
    assert await api.fetch() == []
    refused(await api.send("POST", f"{PATH}/{job['id']}/ack"), 409, "conflict", current_state="cancelled")


@pytest.mark.parametrize("state", ["completed", "discarded", "cancelled"])
async def test_a_job_that_has_ended_cannot(api, refused, state) -> None:
    """C-LC-06, C-ERR-03, Q-06: not even a second time."""
    job = await api.push(options={"retry": {"max_attempts": 1}})
    if state == "cancelled":
        await api.ask("DELETE", f"{PATH}/{job['id']}")
    else:
        await api.fetch_one()
        verb, body = ("ack", {}) if state == "completed" else ("nack", {"error": {"message": "no"}})
        await api.ask("POST", f"{PATH}/{job['id']}/{verb}", body)
    before = await api.job(job["id"])
    error = refused(await api.send("DELETE", f"{PATH}/{job['id']}"), 409, "conflict", current_state=state)
    assert error["details"]["job_id"] == job["id"]
    assert await api.job(job["id"]) == before


# Activating.


async def test_a_pending_job_waits_until_it_is_activated(api, check, refused) -> None:
    """C-EP-07, C-OPS-03."""
    job = await api.push(options={"pending": True})
    assert job["state"] == "pending"
    assert "enqueued_at" not in job
    assert await api.fetch() == []
    api.clock.advance(SECOND)
    answer = check(await api.send("POST", f"{PATH}/{job['id']}/activate"), 200, shapes.ChangedAnswer)["job"]
    assert (answer["state"], answer["previous_state"]) == ("available", "pending")
    assert answer["activated_at"] == answer["enqueued_at"] == "2026-02-12T10:30:01.000Z"
    response = await api.send("POST", f"{PATH}/{job['id']}/activate")
    refused(response, 409, "conflict", current_state="available", expected_state="pending")
    assert (await api.fetch_one())["id"] == job["id"]


# Expiry.


async def test_an_expired_job_is_discarded_and_never_handed_out(api) -> None:
    """C-SCH-03 to C-SCH-05: without `completed_at`, and by the time the fetch is answered."""
    job = await api.push(options={"expires_at": "+PT1S"})
    late = await api.push(options={"expires_at": "2020-01-01T00:00:00Z"})
    api.clock.advance(SECOND)
    assert await api.fetch(count=10) == []
    for job_id in (job["id"], late["id"]):
        found = await api.job(job_id)
        assert found["state"] == "discarded"
        assert found["discarded_at"]
        assert "completed_at" not in found
