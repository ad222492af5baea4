"""Cron entries: registration, switches, and firing each occurrence once."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from ojs_core.backend import Backend, Commit, CronWrite, EventQuery
from ojs_core.envelope import decode_object
from ojs_core.errors import InvalidRequestError, NotFoundError, StateConflictError
from ojs_core.service import Service
from ojs_core.service.crons import parse_cron_request
from ojs_core.settings import Settings
from ojs_core.testing.clock import DAY, HOUR, MINUTE, NOW

UNIQUE = {"keys": ["type"]}
NEVER = {"expression": "30 2 * 3 SUN#2", "timezone": "America/New_York"}
"""Always in the hour that the clock skips."""


def parse(**fields: Any) -> Any:
    envelope = {"name": "nightly", "expression": "* * * * *", "job_template": {"type": "test.job"}, **fields}
    return parse_cron_request(*decode_object(msgspec.json.encode(envelope)), NOW)


# Registration.


def test_both_dialects_make_the_same_entry() -> None:  # C-EP-21, Q-14
    options = {"queue": "reports"}
    suite = parse(job_template={"type": "a.b", "args": [1], "meta": {"k": 1}, "options": options})
    prose = {"name": "nightly", "cron": "* * * * *", "type": "a.b", "args": [1], "meta": {"k": 1}, "options": options}
    assert parse_cron_request(*decode_object(msgspec.json.encode(prose)), NOW) == suite


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("name", {"name": None}),
        ("name", {"name": ""}),
        ("name", {"name": "Not.Lower"}),
        ("name", {"name": "a" * 256}),
        ("expression", {"expression": None}),
        ("expression", {"expression": 5}),
        ("expression", {"expression": "61 * * * *"}),
        ("cron", {"expression": None, "cron": "61 * * * *"}),
        ("cron", {"expression": None, "cron": 5}),
        ("expression", NEVER),
        ("expression", {**NEVER, "enabled": False}),
        ("timezone", {"timezone": 1}),
        ("timezone", {"timezone": "Mars/Olympus"}),
        ("overlap_policy", {"overlap_policy": "queue"}),
        ("overlap_policy", {"overlap_policy": 1}),
        ("enabled", {"enabled": "yes"}),
        ("description", {"description": 1}),
        ("job_template", {"job_template": []}),
        ("type", {"job_template": {}}),
        ("args", {"job_template": {"type": "a", "args": {}}}),
        ("queue", {"job_template": {"type": "a", "queue": "NO"}}),
        (
            "unique.args_keys",
            {"job_template": {"type": "a", "args": [], "unique": {"keys": ["args"], "args_keys": ["x"]}}},
        ),
    ],
)
def test_a_bad_field_is_named(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(**fields)
    assert caught.value.details["field"] == field


def test_a_bad_field_is_shown_as_it_came() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(timezone="Mars/Olympus")
    assert caught.value.details["received"] == "Mars/Olympus"


def test_what_is_left_out_has_its_default() -> None:  # C-CRN-03
    request = parse()
    assert (request.timezone, request.overlap_policy, request.enabled) == ("UTC", "skip", True)
    assert bytes(request.job) == b'{"type":"test.job","args":[]}'
    assert parse(timezone=None, overlap_policy=None, enabled=None, description=None) == request
    assert parse(overlap_policy="cancel").overlap_policy == "cancel_previous"
    # A template's id would be that of every job.
    assert b"id" not in bytes(parse(job_template={"type": "a", "id": "019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f"}).job)


async def test_a_new_entry_waits_for_its_first_run(server: Any) -> None:
    registered = await server.crons.register(parse(description="each minute"))
    entry = registered.entry
    assert registered.created
    assert entry == await server.crons.get("nightly")
    assert (entry.created_at, entry.next_run_at, entry.wake_at) == (NOW, NOW + MINUTE, NOW + MINUTE)
    assert (entry.run_count, entry.last_run_at, entry.description, entry.version) == (0, None, "each minute", 1)


async def test_registering_again_keeps_the_past_and_replaces_the_rest(server: Any) -> None:  # C-CRN-02
    first = await server.register()
    await server.tick(MINUTE)
    again = await server.crons.register(parse(expression="@daily", job_template={"type": "other.job"}))
    assert not again.created
    entry = again.entry
    assert (entry.created_at, entry.run_count, entry.last_run_at) == (NOW, 1, NOW + MINUTE)
    assert entry.last_job_id == (await server.made())[0].id
    assert (entry.expression, entry.version) == ("@daily", first.version + 2)
    assert entry.next_run_at == NOW - 10 * HOUR - 30 * MINUTE + DAY
    assert await server.crons.get("nightly") == entry


async def test_registering_the_same_schedule_again_loses_no_occurrence(server: Any) -> None:
    await server.register(expression="@every 1h")
    server.clock.advance(59 * MINUTE)
    await server.register({"args": [2]}, expression="@every 1h")
    await server.tick(MINUTE)
    server.clock.advance(2 * HOUR)
    # The server was away; a worker that starts registers its entries before the server has looked at them.
    await server.register({"args": [3]}, expression="@every 1h", overlap_policy="allow")
    await server.tick()
    assert [bytes(job.args) for job in await server.made()] == [b"[2]", b"[3]"]


async def test_another_time_zone_is_another_schedule(server: Any) -> None:  # C-CRN-07
    await server.register(expression="0 8 * * *")
    entry = await server.register(expression="0 8 * * *", timezone="Asia/Tokyo")
    assert entry.next_run_at == NOW - 10 * HOUR - 30 * MINUTE + 23 * HOUR


async def test_a_registration_that_loses_a_race_is_made_anew(server: Any) -> None:
    races = [Commit(cron=CronWrite("nightly", (await server.register(name="other")), 0))]

    async def race(store: Backend, _: Commit) -> None:
        if races:
            await store.commit([races.pop()])

    server.meddle(race)
    registered = await server.crons.register(parse(overlap_policy="allow"))
    assert not registered.created
    assert (await server.crons.get("nightly")).overlap_policy == "allow"


@pytest.mark.parametrize("operation", ["register", "switch", "delete"])
async def test_changes_that_lose_every_race_end(server: Any, operation: str) -> None:
    await server.register()

    async def race(store: Backend, _: Commit) -> None:
        entry = await store.get_cron("nightly")
        assert entry is not None
        await store.commit([Commit(cron=CronWrite("nightly", entry, entry.version))])

    server.meddle(race)
    calls = {
        "register": lambda: server.crons.register(parse()),
        "switch": lambda: server.crons.set_enabled("nightly", enabled=False),
        "delete": lambda: server.crons.delete("nightly"),
    }
    with pytest.raises(StateConflictError, match="keeps changing"):
        await calls[operation]()


# Reading, switching, deleting.


async def test_entries_are_listed_by_name(server: Any) -> None:
    for name in ("b", "c", "a"):
        await server.register(name=name, enabled=name != "c")
    assert [entry.name for entry in await server.crons.list_crons()] == ["a", "b", "c"]
    assert [entry.name for entry in await server.crons.list_crons(enabled=True)] == ["a", "b"]
    assert [entry.name for entry in await server.crons.list_crons(enabled=False)] == ["c"]


async def test_unknown_entries_are_not_found(server: Any) -> None:
    for call in (
        server.crons.get("nope"),
        server.crons.set_enabled("nope", enabled=True),
        server.crons.delete("nope"),
    ):
        with pytest.raises(NotFoundError) as caught:
            await call
        assert caught.value.details["resource_id"] == "nope"


async def test_a_disabled_entry_rests_until_it_is_enabled(server: Any) -> None:  # C-CRN-18
    await server.register()
    off = await server.crons.set_enabled("nightly", enabled=False)
    assert (off.enabled, off.next_run_at, off.wake_at) == (False, None, None)
    await server.tick(HOUR)
    assert await server.made() == []
    on = await server.crons.set_enabled("nightly", enabled=True)
    assert on == await server.crons.get("nightly")
    assert on.next_run_at == NOW + HOUR + MINUTE
    await server.tick(MINUTE)
    assert len(await server.made()) == 1


async def test_enabling_what_is_enabled_keeps_its_schedule(server: Any) -> None:
    before = await server.register(expression="@every 1h")
    server.clock.advance(MINUTE)
    assert (await server.crons.set_enabled("nightly", enabled=True)).next_run_at == before.next_run_at


async def test_an_entry_can_be_registered_switched_off(server: Any) -> None:
    entry = await server.register(enabled=False)
    assert (entry.next_run_at, entry.wake_at) == (None, None)
    await server.tick(HOUR)
    assert await server.made() == []


async def test_deleting_an_entry_leaves_its_jobs(server: Any) -> None:  # C-CRN-19
    await server.register()
    await server.tick(MINUTE)
    assert (await server.crons.delete("nightly")).run_count == 1
    await server.tick(HOUR)
    assert await server.states() == ["available"]
    assert await server.crons.list_crons() == []


# Firing.


async def test_a_firing_makes_the_job_of_the_template(server: Any) -> None:  # C-CRN-14, C-EVT-03
    await server.register({"args": [1.0], "meta": {"k": 1}, "options": {"queue": "reports", "priority": 7}})
    await server.tick(MINUTE + 30)
    (job,) = await server.made()
    assert (job.type, job.queue, job.priority, bytes(job.args), job.state) == (
        "test.job",
        "reports",
        7,
        b"[1.0]",
        "available",
    )
    assert msgspec.json.decode(job.meta) == {
        "k": 1,
        "cron_name": "nightly",
        "cron_triggered_at": "2026-02-12T10:31:00.030Z",
    }
    entry = await server.crons.get("nightly")
    assert (entry.run_count, entry.last_run_at, entry.last_job_id) == (1, NOW + MINUTE + 30, job.id)
    assert entry.next_run_at == entry.wake_at == NOW + 2 * MINUTE
    assert await server.event_data("cron.triggered") == [
        {
            "cron_name": "nightly",
            "cron_expr": "* * * * *",
            "cron_expression": "* * * * *",
            "job_id": job.id,
            "scheduled_at": "2026-02-12T10:31:00.000Z",
            "scheduled_time": "2026-02-12T10:31:00.000Z",
            "actual_time": "2026-02-12T10:31:00.030Z",
            "run_count": 1,
            "timezone": "UTC",
            "job_type": "test.job",
            "timestamp": "2026-02-12T10:31:00.030Z",
        }
    ]
    (event,) = (await server.service.events(EventQuery(types=("cron.triggered",)))).events
    assert (event.subject, event.job_type) == ("nightly", "test.job")
    assert await server.event_types("job.*") == ["job.enqueued"]


async def test_it_fires_at_the_time_of_its_zone(server: Any) -> None:
    await server.register(expression="30 19 * * *", timezone="Asia/Tokyo")
    await server.tick(DAY - 1)
    assert await server.made() == []
    await server.tick(1)
    assert len(await server.made()) == 1


async def test_missed_occurrences_are_made_up_for_once(server: Any) -> None:  # C-CRN-16
    await server.register(overlap_policy="allow")
    await server.tick(5 * HOUR)
    entry = await server.crons.get("nightly")
    assert (entry.run_count, len(await server.made())) == (1, 1)
    assert entry.next_run_at == NOW + 5 * HOUR + MINUTE
    assert (await server.event_data("cron.triggered"))[0]["scheduled_at"] == "2026-02-12T10:31:00.000Z"


async def test_of_two_servers_one_fires(server: Any) -> None:  # C-CRN-15
    other = Service(server.backend, server.clock, Settings())
    await server.register(overlap_policy="allow")
    for run in range(1, 6):
        server.clock.advance(MINUTE)
        await asyncio.gather(*(one.maintenance.look() for one in (server.service, other) * 2))
        assert (await server.crons.get("nightly")).run_count == len(await server.made()) == run
    assert len(await server.event_types("cron.triggered")) == 5


async def test_a_stale_look_fires_nothing(server: Any) -> None:
    await server.register()
    (due,) = await server.backend.due_crons(NOW + MINUTE, 10)
    await server.crons.set_enabled("nightly", enabled=False)
    server.clock.advance(MINUTE)
    await server.crons.wake(due)
    assert await server.made() == []


async def test_a_schedule_that_will_not_fire_again_rests(server: Any) -> None:
    entry = msgspec.structs.replace(await server.register(), **NEVER)
    await server.backend.commit([Commit(cron=CronWrite("nightly", entry, entry.version))])
    await server.tick(MINUTE)
    entry = await server.crons.get("nightly")
    assert (entry.run_count, entry.next_run_at, entry.wake_at) == (1, None, None)
    with pytest.raises(InvalidRequestError, match="never fires"):
        await server.crons.set_enabled("nightly", enabled=True)


async def test_wall_times_the_clock_skips_are_reported(server: Any) -> None:  # C-CRN-09, C-CRN-23
    server.clock.now_ms = 1_774_666_800_000  # 2026-03-28T03:00:00Z, 04:00 in Berlin; the clock jumps the next night
    await server.register(expression="30 2,4 * * *", timezone="Europe/Berlin", overlap_policy="allow")
    await server.tick(30 * MINUTE)
    (skipped,) = await server.event_data("cron.skipped")
    assert skipped == {
        "cron_name": "nightly",
        "cron_expr": "30 2,4 * * *",
        "cron_expression": "30 2,4 * * *",
        "reason": "dst_skip",
        "scheduled_time": "2026-03-29T02:30:00",
        "job_type": "test.job",
        "timestamp": "2026-03-28T03:30:00.000Z",
    }


async def test_relative_times_of_a_template_count_from_the_firing(server: Any) -> None:
    await server.register({"options": {"scheduled_at": "+PT5M", "expires_at": "+PT10M"}}, overlap_policy="allow")
    await server.tick(MINUTE)
    (job,) = await server.made()
    assert (job.state, job.scheduled_at, job.expires_at) == ("scheduled", NOW + 6 * MINUTE, NOW + 11 * MINUTE)
    await server.crons.set_enabled("nightly", enabled=False)
    await server.tick(5 * MINUTE)
    assert await server.states() == ["available"]
    await server.tick(5 * MINUTE)
    assert await server.states() == ["discarded"]


async def test_a_template_that_is_no_longer_valid_is_skipped(server: Any) -> None:
    # An older version of the server may have accepted it.
    entry = await server.register()
    bad = msgspec.structs.replace(entry, job=msgspec.Raw(b'{"type":"test.job","args":{}}'))
    await server.backend.commit([Commit(cron=CronWrite("nightly", bad, entry.version))])
    await server.tick(MINUTE)
    (skipped,) = await server.event_data("cron.skipped")
    assert skipped["reason"] == "invalid_template"
    assert "args" in skipped["message"]
    entry = await server.crons.get("nightly")
    assert (entry.run_count, entry.next_run_at) == (0, NOW + 2 * MINUTE)


async def test_jobs_of_an_entry_have_the_same_id_on_every_server(server: Any) -> None:
    ids = []
    for _ in range(2):
        server = type(server)()
        await server.register()
        await server.tick(MINUTE)
        ids.append((await server.made())[0].id)
    assert ids[0] == ids[1]
