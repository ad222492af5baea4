"""Cron entries in both dialects (C-EP-20 to C-EP-23, section 14)."""

from __future__ import annotations

import pytest

from ojs_api import shapes
from ojs_core.testing.clock import HOUR, MINUTE, SECOND

PATH = "/ojs/v1/cron"
NOW_TEXT = "2026-02-12T10:30:00.000Z"
SUITE = {"name": "n", "expression": "0 9 * * *", "job_template": {"type": "report.make", "args": [1.0]}}
PROSE = {"name": "n", "cron": "0 9 * * *", "type": "report.make", "args": [1.0]}


@pytest.mark.parametrize("body", [SUITE, PROSE])
async def test_both_dialects_are_read_and_both_are_answered(api, check, body) -> None:
    """C-EP-21, Q-14."""
    response = await api.send("POST", PATH, body)
    answer = check(response, 201, shapes.CronAnswer)
    entry = answer["cron"]
    assert answer["cron_job"] == entry
    template = entry.pop("job_template")
    assert template == {"type": "report.make", "args": [1.0]}
    assert b'"args":[1.0]' in response.content
    assert entry == {
        "name": "n",
        "expression": "0 9 * * *",
        "cron": "0 9 * * *",
        "timezone": "UTC",
        "type": "report.make",
        "args": [1.0],
        "meta": {},
        "options": {},
        "overlap_policy": "skip",
        "enabled": True,
        "status": "active",
        "description": None,
        "last_run_at": None,
        "next_run_at": "2026-02-13T09:00:00.000Z",
        "run_count": 0,
        "created_at": NOW_TEXT,
    }
    read = check(await api.send("GET", f"{PATH}/n"), 200, shapes.CronAnswer)
    assert read == {"cron": {**entry, "job_template": template}, "cron_job": {**entry, "job_template": template}}


async def test_everything_that_can_be_set_comes_back(api, check) -> None:
    options = {"queue": "q", "priority": 5, "tags": ["t"], "retry": {"max_attempts": 7}}
    body = {
        "name": "a.b-9",
        "expression": "@daily",
        "timezone": "Asia/Tokyo",
        "overlap_policy": "cancel",
        "enabled": False,
        "description": "What it is for.",
        "job_template": {"type": "a.b", "args": [], "meta": {"m": 1}, "options": options, "mine": 1},
        "unknown": True,
    }
    entry = check(await api.send("POST", PATH, body), 201, shapes.CronAnswer)["cron"]
    assert entry["overlap_policy"] == "cancel_previous"
    assert (entry["enabled"], entry["status"], entry["next_run_at"]) == (False, "disabled", None)
    assert (entry["timezone"], entry["description"]) == ("Asia/Tokyo", "What it is for.")
    assert (entry["meta"], entry["options"], entry["job_template"]["mine"]) == ({"m": 1}, options, 1)


@pytest.mark.parametrize(
    "names", [("args",), ("args", "meta", "options", "schema"), ("timezone", "enabled", "description")]
)
async def test_null_counts_as_absent(api, check, names) -> None:
    """C-ENV-25, C-CRN-03: an entry always shows arrays and objects."""
    for body in ({**PROSE, **dict.fromkeys(names)}, {**SUITE, "job_template": {"type": "a", **dict.fromkeys(names)}}):
        entry = check(await api.send("POST", PATH, body), 201, shapes.CronAnswer)["cron"]
        await api.ask("DELETE", f"{PATH}/n")
        if "args" in names:
            assert entry["args"] == []
        assert (entry["meta"], entry["options"]) == ({}, {})


async def test_the_next_run_is_that_of_the_zone(api) -> None:
    """C-CRN-12, L2-TZ-001."""
    for zone, expected in (
        ("Asia/Tokyo", "2026-02-13T00:00:00.000Z"),
        ("America/New_York", "2026-02-12T14:00:00.000Z"),
    ):
        body = {**SUITE, "timezone": zone}
        assert (await api.ask("POST", PATH, body))["cron"]["next_run_at"] == expected
    await api.tick(4 * HOUR)
    assert (await api.ask("GET", f"{PATH}/n"))["cron"]["next_run_at"] == "2026-02-13T14:00:00.000Z"


async def test_a_name_that_exists_is_replaced(api, check) -> None:
    """C-CRN-02, Q-13: 200 this time; what happened so far is kept."""
    await api.ask("POST", PATH, {**SUITE, "expression": "* * * * *"})
    await api.tick(MINUTE)
    response = await api.send("POST", PATH, {**PROSE, "cron": "@hourly", "type": "other.job"})
    entry = check(response, 200, shapes.CronAnswer)["cron"]
    assert (entry["expression"], entry["type"], entry["next_run_at"]) == (
        "@hourly",
        "other.job",
        "2026-02-12T11:00:00.000Z",
    )
    assert (entry["run_count"], entry["last_run_at"], entry["created_at"]) == (1, "2026-02-12T10:31:00.000Z", NOW_TEXT)
    assert (await api.ask("GET", PATH))["count"] == 1


async def test_it_fires(api) -> None:
    """C-CRN-14, C-CRN-15, C-EVT-03: a job with all that the template says, and marks of its own."""
    template = {"type": "a.b", "args": [1.0], "meta": {"m": 1}, "options": {"queue": "q", "priority": 4, "tags": ["t"]}}
    await api.ask("POST", PATH, {"name": "n", "expression": "* * * * *", "job_template": template})
    await api.tick(59 * SECOND)
    assert await api.fetch("q") == []
    await api.tick(SECOND)
    job = await api.fetch_one("q")
    assert (job["type"], job["args"], job["priority"], job["tags"]) == ("a.b", [1.0], 4, ["t"])
    assert job["meta"] == {"m": 1, "cron_name": "n", "cron_triggered_at": "2026-02-12T10:31:00.000Z"}
    (event,) = (await api.ask("GET", "/ojs/v1/events?types=cron.*"))["events"]
    assert (event["type"], event["subject"], event["data"]["job_id"]) == ("cron.triggered", "n", job["id"])
    entry = (await api.ask("GET", f"{PATH}/n"))["cron"]
    assert (entry["run_count"], entry["last_run_at"]) == (1, "2026-02-12T10:31:00.000Z")


@pytest.mark.parametrize(
    ("policy", "states"),
    [
        ("skip", ["active"]),
        ("allow", ["active", "available"]),
        ("cancel_previous", ["cancelled", "available"]),
        ("enqueue", ["active", "pending"]),
    ],
)
async def test_a_firing_while_the_last_one_runs(api, policy, states) -> None:
    """C-CRN-20 to C-CRN-22."""
    await api.ask("POST", PATH, {**SUITE, "expression": "* * * * *", "overlap_policy": policy})
    await api.tick(MINUTE)
    await api.fetch_one()
    await api.tick(MINUTE)
    events = (await api.ask("GET", "/ojs/v1/events?types=cron.*"))["events"]
    jobs = [await api.job(event["data"]["job_id"]) for event in events if event["type"] == "cron.triggered"]
    assert [job["state"] for job in jobs] == states
    if policy == "skip":
        assert (events[-1]["type"], events[-1]["data"]["reason"]) == ("cron.skipped", "overlap_skip")
    if policy == "enqueue":
        await api.ask("POST", f"/ojs/v1/jobs/{jobs[0]['id']}/ack")
        await api.tick(SECOND)
        assert (await api.fetch_one())["id"] == jobs[1]["id"]


async def test_switching_off_and_on(api, check, refused) -> None:
    """C-EP-22, C-CRN-18."""
    await api.ask("POST", PATH, {**SUITE, "expression": "* * * * *"})
    entry = check(await api.send("PATCH", f"{PATH}/n", {"enabled": False}), 200, shapes.CronAnswer)["cron"]
    assert (entry["enabled"], entry["status"], entry["next_run_at"]) == (False, "disabled", None)
    await api.tick(HOUR)
    assert await api.fetch() == []
    entry = check(await api.send("PATCH", f"{PATH}/n", {"enabled": True}), 200, shapes.CronAnswer)["cron"]
    assert (entry["status"], entry["next_run_at"]) == ("active", "2026-02-12T11:31:00.000Z")
    for bad in ({}, {"enabled": None}, {"enabled": 1}, {"enabled": "true"}, {"status": "active"}):
        refused(await api.send("PATCH", f"{PATH}/n", bad), 400, "invalid_request", field="enabled")


async def test_deleting_leaves_the_jobs(api, check, refused) -> None:
    """C-EP-23, C-CRN-19."""
    await api.ask("POST", PATH, {**SUITE, "expression": "* * * * *"})
    await api.tick(MINUTE)
    body = check(await api.send("DELETE", f"{PATH}/n"), 200, shapes.DeletedCron)
    assert (body["deleted"], body["name"], body["cron"]["name"]) == (True, "n", "n")
    assert body["cron"] == body["cron_job"]
    assert len(await api.fetch()) == 1
    for method, sent in (("GET", None), ("PATCH", {"enabled": True}), ("DELETE", None)):
        response = await api.send(method, f"{PATH}/n", sent)
        refused(response, 404, "not_found", resource_type="cron", resource_id="n")


async def test_the_list(api, check) -> None:
    """C-EP-20: by name, under the name of each dialect, and never null."""
    assert check(await api.send("GET", PATH), 200, shapes.Crons) == {
        "crons": [],
        "cron_jobs": [],
        "count": 0,
        "pagination": {"total": 0, "has_more": False, "limit": 50, "offset": 0, "count": 0},
    }
    for name, enabled in (("b", True), ("a", False), ("c", True)):
        await api.ask("POST", PATH, {**SUITE, "name": name, "enabled": enabled})
    for query, names in (
        ("", ["a", "b", "c"]),
        ("?enabled=true", ["b", "c"]),
        ("?enabled=false", ["a"]),
        ("?enabled=", ["a", "b", "c"]),
        ("?limit=1&enabled=true", ["b"]),
    ):
        body = check(await api.send("GET", PATH + query), 200, shapes.Crons)
        assert [entry["name"] for entry in body["crons"]] == names
        assert body["cron_jobs"] == body["crons"]
        assert body["count"] == len(names)


@pytest.mark.parametrize("value", ["1", "TRUE", "yes", "null"])
async def test_a_filter_must_make_sense(api, refused, value) -> None:
    refused(await api.send("GET", f"{PATH}?enabled={value}"), 400, "invalid_request", field="enabled")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        *(("name", {"name": bad}) for bad in (None, "", "A", "-a", "a_b", "a b", "a\n", "a" * 256, 1, [])),
        *(
            ("expression", {"expression": bad})
            for bad in (
                "",
                "* * * *",
                "* * * * * * *",
                "60 * * * *",
                "* * 32 * *",
                "* * * * 8",
                "*/0 * * * *",
                "x",
                "@never",
            )
        ),
        *(
            ("expression", {"expression": bad})
            for bad in ("0 0 30 2 *", "9-1 * * * *", "@every 1x", "*" * 300, 1, [], {})
        ),
        ("expression", {"expression": None}),
        *(
            ("timezone", {"timezone": bad})
            for bad in ("EST", "UTC+5", "+05:00", "Mars/Base", "", "/", "../UTC", "Europe/", 1)
        ),
        *(("timezone", {"timezone": bad}) for bad in ("Europe/\x00", "America", "a/" * 2000, "Europe/Berlin\n")),
        *(("overlap_policy", {"overlap_policy": bad}) for bad in ("", "SKIP", "fight", 1, [], {})),
        *(("enabled", {"enabled": bad}) for bad in (0, "true", [])),
        *(("description", {"description": bad}) for bad in (1, [], {})),
        *(("job_template", {"job_template": bad}) for bad in ([], "x", 1)),
        ("type", {"job_template": {"args": []}}),
        ("type", {"job_template": None}),
        *(("type", {"job_template": {"type": bad}}) for bad in ("BAD", 1, "")),
        *(("args", {"job_template": {"type": "a", "args": bad}}) for bad in ({}, "x", 1)),
        ("options.queue", {"job_template": {"type": "a", "options": {"queue": "BAD"}}}),
        ("unique.args_keys", {"job_template": {"type": "a", "unique": {"args_keys": ["x"]}}}),
    ],
)
async def test_a_bad_field_is_named(api, refused, field, change) -> None:
    """C-CRN-01 to C-CRN-11, L2-CRON-006; an entry that could never fire is refused when it is registered."""
    refused(await api.send("POST", PATH, {**SUITE, **change}), 400, "invalid_request", field=field)
    assert await api.stored() == (0, 1, 0, 0)


async def test_the_other_dialects_field_is_named_where_it_was_used(api, refused) -> None:
    refused(await api.send("POST", PATH, {**PROSE, "cron": "x"}), 400, "invalid_request", field="cron")
    response = await api.send("POST", PATH, {**PROSE, "options": {"retry": {"max_attempts": -1}}})
    refused(response, 422, "validation_error", field="retry.max_attempts")


@pytest.mark.parametrize(
    "expression",
    ["@yearly", "@every 90s", "*/5 9-17 * * MON-FRI", "0 0 L * *", "0 0 1 1 *", "0 0 29 2 *", "*/15 * * * * *"],
)
async def test_these_can_be_registered(api, expression) -> None:
    """C-CRN-04 to C-CRN-09; the expression stays as typed."""
    entry = (await api.ask("POST", PATH, {**SUITE, "expression": expression}))["cron"]
    assert entry["expression"] == entry["cron"] == expression
    assert entry["next_run_at"] > NOW_TEXT
