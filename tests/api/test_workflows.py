"""Workflows as a client meets them (C-EP-24, C-EP-25, section 15)."""

from __future__ import annotations

import pytest

from ojs_api import shapes
from ojs_core.ids import is_uuid7
from ojs_core.testing.clock import SECOND
from ojs_core.workflow import step as step_module

PATH = "/ojs/v1/workflows"
ABSENT = "019c5166-8840-7000-8000-000000000000"
NOW_TEXT = "2026-02-12T10:30:00.000Z"
LAST_CHANCE = {"retry": {"max_attempts": 1}}


def job(job_type: str = "a", **rest: object) -> dict[str, object]:
    return {"type": job_type, "args": [], **rest}


async def start(api, check, **definition: object) -> dict:
    """Create a workflow; return its view. It is checked to be wrapped and flat at once, and located (C-HTTP-08)."""
    response = await api.send("POST", PATH, definition)
    body = check(response, 201, shapes.WorkflowAnswer)
    view = body.pop("workflow")
    assert body == view
    assert is_uuid7(view["id"])
    assert response.headers["location"] == f"{PATH}/{view['id']}"
    return view


async def read(api, check, view: dict) -> dict:
    return check(await api.send("GET", f"{PATH}/{view['id']}"), 200, shapes.WorkflowAnswer)["workflow"]


async def ack(api, result: object = None, queue: str = "default") -> dict:
    taken = await api.fetch_one(queue)
    await api.ask("POST", f"/ojs/v1/jobs/{taken['id']}/ack", {"result": result})
    return taken


async def fail(api) -> dict:
    taken = await api.fetch_one()
    error = {"message": "It failed.", "code": "E", "retryable": False}
    await api.ask("POST", f"/ojs/v1/jobs/{taken['id']}/nack", {"error": error})
    return taken


async def test_a_chain(api, check) -> None:
    """C-WF-07 to C-WF-10, C-WF-20."""
    view = await start(api, check, type="chain", name="order", steps=[job("one"), job("two"), job("three")])
    assert (view["type"], view["name"], view["state"]) == ("chain", "order", "running")
    assert (view["steps_total"], view["steps_completed"]) == (3, 0)
    assert view["created_at"] == view["metadata"]["created_at"] == NOW_TEXT
    assert view["metadata"]["job_count"] == 3
    assert [step["state"] for step in view["steps"]] == ["pending", "waiting", "waiting"]
    assert [step["job_id"] is None for step in view["steps"]] == [False, True, True]
    first = await ack(api, {"sum": 1.0})
    assert (first["workflow_id"], first["workflow_step"]) == (view["id"], 0)
    second = await ack(api)
    assert (second["type"], second["parent_results"]) == ("two", [{"sum": 1}])
    third = await api.fetch_one()
    assert third["parent_results"] == [{"sum": 1}, None]
    running = await read(api, check, view)
    assert [step["state"] for step in running["steps"]] == ["completed", "completed", "active"]
    assert running["steps"][0]["result"] == {"sum": 1}
    api.clock.advance(SECOND)
    await api.ask("POST", f"/ojs/v1/jobs/{third['id']}/ack")
    done = await read(api, check, view)
    assert (done["state"], done["steps_completed"]) == ("completed", 3)
    assert done["completed_at"] == "2026-02-12T10:30:01.000Z"


async def test_a_chain_that_breaks(api, check) -> None:
    """C-WF-08."""
    view = await start(api, check, type="chain", steps=[job("one"), job("two"), job("three")])
    await ack(api)
    failed = await fail(api)
    done = await read(api, check, view)
    assert (done["state"], done["steps_completed"], done["failed_step_index"]) == ("failed", 1, 1)
    assert [step["state"] for step in done["steps"]] == ["completed", "failed", "cancelled"]
    assert done["failed_job_ids"] == [failed["id"]]
    assert done["errors"][0]["code"] == "E"
    assert await api.fetch() == []


async def test_a_group(api, check) -> None:
    """C-WF-11, C-WF-12: in array order, and failed only when all have ended."""
    view = await start(api, check, type="group", jobs=[job("one"), job("two"), job("three")])
    assert (view["jobs_total"], view["jobs_completed"], view["jobs_failed"]) == (3, 0, 0)
    assert (await fail(api))["type"] == "one"
    assert (await read(api, check, view))["state"] == "running"
    assert (await ack(api))["type"] == "two"
    assert (await ack(api))["type"] == "three"
    done = await read(api, check, view)
    assert (done["state"], done["jobs_completed"], done["jobs_failed"]) == ("failed", 2, 1)


@pytest.mark.parametrize(
    ("fails", "called", "state"),
    [(False, ["on_complete", "on_success"], "completed"), (True, ["on_complete", "on_failure"], "completed")],
)
async def test_a_batch(api, check, fails, called, state) -> None:
    """C-WF-13 to C-WF-15."""
    names = ("on_complete", "on_success", "on_failure")
    callbacks = {name: job(f"call.{name}", options={"queue": "calls"}) for name in names}
    view = await start(api, check, type="batch", jobs=[job("one"), job("two")], callbacks=callbacks)
    assert {name: callback["state"] for name, callback in view["callbacks"].items()} == dict.fromkeys(names, "waiting")
    await ack(api, 1)
    await (fail(api) if fails else ack(api, 2))
    assert (await read(api, check, view))["state"] == "running"
    calls = await api.fetch("calls", count=10)
    assert [one["type"].removeprefix("call.") for one in calls] == called
    assert all(one["parent_results"] == [1, None if fails else 2] for one in calls)
    for one in calls:
        await api.ask("POST", f"/ojs/v1/jobs/{one['id']}/ack")
    done = await read(api, check, view)
    assert done["state"] == state
    assert {name for name, one in done["callbacks"].items() if one["state"] == "completed"} == set(called)


async def test_steps_with_dependencies(api, check) -> None:
    """C-WF-21: what the official Python and Go clients send; it has no `type`."""
    steps = [job("one", id="a"), job("two", id="b", depends_on=["a"]), job("three", id="c", depends_on=["a", "b"])]
    view = await start(api, check, name="graph", steps=steps)
    assert "type" not in view
    assert [step["depends_on"] for step in view["steps"]] == [[], ["a"], ["a", "b"]]
    for expected in ("one", "two", "three"):
        assert (await ack(api))["type"] == expected
    assert (await read(api, check, view))["state"] == "completed"


async def test_workflows_within_workflows(api, check) -> None:
    """C-WF-16, C-WF-17."""
    inner = {"type": "group", "jobs": [job("two"), job("three")]}
    view = await start(api, check, type="chain", steps=[job("one"), inner, job("four")])
    assert view["metadata"]["job_count"] == 4
    await ack(api, "first")
    nested = (await read(api, check, view))["steps"][1]
    assert nested["workflow"]["parent_workflow_id"] == view["id"]
    for result in ("second", "third"):
        assert (await ack(api, result))["parent_results"] == ["first"]
    assert (await ack(api))["parent_results"] == ["first", ["second", "third"]]
    assert (await read(api, check, view))["state"] == "completed"


async def test_options_reach_every_job(api, check) -> None:
    """C-WF-02, C-WF-05: defaults of the workflow, and what an element says itself."""
    options = {"queue": "q", "priority": 3, "tags": ["t"], **LAST_CHANCE}
    steps = [job("one", options={"priority": 9}, meta={"m": 1.0}), job("two", options={"queue": "other"})]
    await start(api, check, type="group", options=options, jobs=steps)
    one = await api.fetch_one("q")
    assert (one["priority"], one["tags"], one["max_attempts"], one["meta"]) == (9, ["t"], 1, {"m": 1})
    assert (await api.fetch_one("other"))["priority"] == 3


async def test_cancelling(api, check, refused) -> None:
    """C-EP-25, C-WF-18, Q-23f: what runs may finish, without consequence."""
    view = await start(api, check, type="group", jobs=[job("one"), job("two"), job("three")])
    await ack(api)
    active = await api.fetch_one()
    api.clock.advance(SECOND)
    body = check(await api.send("DELETE", f"{PATH}/{view['id']}"), 200, shapes.WorkflowAnswer)
    assert (body["state"], body["cancelled_at"]) == ("cancelled", "2026-02-12T10:30:01.000Z")
    assert (body["steps_cancelled"], body["steps_already_completed"]) == (1, 1)
    assert await api.fetch() == []
    assert (await api.send("POST", f"/ojs/v1/jobs/{active['id']}/ack")).status_code == 200
    assert (await read(api, check, view))["state"] == "cancelled"
    refused(await api.send("DELETE", f"{PATH}/{view['id']}"), 409, "conflict", current_state="cancelled")


async def test_a_job_of_a_cancelled_workflow_is_not_run_again(api, check) -> None:
    """C-WF-18, C-OPS-31: its failure is kept, and no retry is announced. Given back, it is not offered to others."""
    view = await start(api, check, type="group", jobs=[job("one"), job("two")])
    failing, returned = await api.fetch(count=2)
    await api.ask("DELETE", f"{PATH}/{view['id']}")
    error = {"message": "It failed.", "code": "E", "retryable": True}
    response = await api.send("POST", f"/ojs/v1/jobs/{failing['id']}/nack", {"error": error})
    nacked = check(response, 200, shapes.NackAnswer)
    assert (nacked["state"], nacked["cancelled_at"], nacked["attempt"]) == ("cancelled", NOW_TEXT, 1)
    assert nacked["job"]["error"]["message"] == "It failed."
    assert not {"next_attempt_at", "retry_delay_ms", "completed_at"} & (nacked.keys() | nacked["job"].keys())
    response = await api.send("POST", f"/ojs/v1/jobs/{returned['id']}/nack", {"requeue": True})
    assert check(response, 200, shapes.NackAnswer)["state"] == "cancelled"
    assert await api.fetch(count=2) == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("workflow_id", [ABSENT, "x", "wf_1"])
async def test_an_unknown_workflow_is_not_found(api, refused, method, workflow_id) -> None:
    response = await api.send(method, f"{PATH}/{workflow_id}")
    refused(response, 404, "not_found", resource_type="workflow", resource_id=workflow_id)


@pytest.mark.parametrize(
    ("path", "definition"),
    [
        ("type", {}),
        ("type", {"type": "circle", "steps": [job()]}),
        *(("type", {"type": bad, "steps": [job()]}) for bad in ("", 1, [], {}, True)),
        *(("steps", {"type": "chain", "steps": bad}) for bad in (None, [], {}, "x", 1)),
        ("steps", {"type": "chain", "jobs": [job()]}),
        ("jobs", {"type": "group", "steps": [job()]}),
        *(
            ("callbacks", {"type": "batch", "jobs": [job()], "callbacks": bad})
            for bad in (None, {}, [], "x", {"on_x": job()})
        ),
        ("callbacks.on_complete", {"type": "batch", "jobs": [job()], "callbacks": {"on_complete": "x"}}),
        ("callbacks.on_success.type", {"type": "batch", "jobs": [job()], "callbacks": {"on_success": {"args": []}}}),
        *(("steps[1]", {"type": "chain", "steps": [job(), bad]}) for bad in (None, "x", 1, [])),
        ("steps[1].type", {"type": "chain", "steps": [job(), job("BAD")]}),
        ("steps[0].args", {"type": "chain", "steps": [{"type": "a"}]}),
        ("steps[0].options.queue", {"type": "chain", "steps": [job(options={"queue": "BAD"})]}),
        ("options.retry.max_attempts", {"type": "chain", "steps": [job()], "options": {"retry": {"max_attempts": -1}}}),
        *(("name", {"type": "chain", "steps": [job()], "name": bad}) for bad in (1, [], "n" * 256)),
        *(("options", {"type": "chain", "steps": [job()], "options": bad}) for bad in (1, [], "x")),
        ("steps[0].steps[0].type", {"type": "chain", "steps": [{"type": "chain", "steps": [job("BAD")]}]}),
        ("steps", {"steps": []}),
        ("steps[0].id", {"steps": [job()]}),
        ("steps[1].id", {"steps": [job(id="a"), job(id="a")]}),
        ("steps[0].depends_on", {"steps": [job(id="a", depends_on=["nobody"])]}),
        ("steps", {"steps": [job(id="a", depends_on=["b"]), job(id="b", depends_on=["a"])]}),
    ],
)
async def test_what_is_wrong_is_named_wherever_it_is(api, refused, path, definition) -> None:
    """C-EP-24, Q-23e; and nothing is stored."""
    error = refused(await api.send("POST", PATH, definition), 400, "invalid_request")
    paths = [mistake["path"] for mistake in error["details"]["validation_errors"]]
    assert any(found == path or found.startswith(path) for found in paths), paths
    assert await api.stored() == (0, 1, 0, 0)


async def test_all_mistakes_are_named_at_once(api, refused) -> None:
    steps = [job("BAD"), {"type": "a"}, job(), 7]
    error = refused(await api.send("POST", PATH, {"type": "chain", "steps": steps}), 400, "invalid_request")
    assert [mistake["path"] for mistake in error["details"]["validation_errors"]] == [
        "steps[0].type",
        "steps[1].args",
        "steps[3]",
    ]


async def test_an_id_that_is_taken_spoils_all(api, refused) -> None:
    await api.push(id=ABSENT)
    before = await api.stored()
    definition = {"type": "group", "jobs": [job(), job(id=ABSENT)]}
    refused(await api.send("POST", PATH, definition), 409, "duplicate", existing_job_id=ABSENT)
    assert await api.stored() == before


async def test_a_saga_is_unsupported(api, refused) -> None:
    """C-WF-23."""
    refused(await api.send("POST", PATH, {"type": "saga", "steps": [job()]}), 422, "unsupported")


async def test_depth_and_size_have_limits(api, refused) -> None:
    """C-WF-16."""
    deep: dict[str, object] = job()
    for _ in range(5):
        deep = {"type": "chain", "steps": [deep]}
    assert (await api.send("POST", PATH, deep)).status_code == 201
    refused(await api.send("POST", PATH, {"type": "chain", "steps": [deep]}), 400, "invalid_request")
    response = await api.send("POST", PATH, {"type": "group", "jobs": [job()] * 10_001})
    refused(response, 400, "invalid_request", field="jobs")
    definition = {"type": "group", "options": {"tags": ["x" * 500_000]}, "jobs": [job()] * 200}
    refused(await api.send("POST", PATH, definition), 413, "envelope_too_large", max_bytes=64 * 1024 * 1024)


async def test_results_that_a_view_has_no_room_for(api, check, monkeypatch) -> None:
    """Their jobs have them; the manifest says how much room there is."""
    manifest = await api.ask("GET", "/ojs/manifest")
    assert manifest["limits"]["max_workflow_result_bytes"] == 16 * 1024 * 1024
    monkeypatch.setattr(step_module, "RESULTS_MAX_BYTES", 4)
    view = await start(api, check, type="group", jobs=[job(), job()])
    taken = await ack(api, "too long")
    await ack(api, 1)
    long, short = (await read(api, check, view))["jobs"]
    assert (long["result_bytes"], "result" in long) == (len('"too long"'), False)
    assert (short["result"], "result_bytes" in short) == (1, False)
    assert (await api.ask("GET", f"/ojs/v1/jobs/{taken['id']}"))["job"]["result"] == "too long"


async def test_a_workflow_is_no_larger_than_a_batch(serving, refused) -> None:
    """C-BLK-05: what an operator allows a batch; nested jobs count."""
    async with serving(batch_max=3) as api:
        manifest = await api.ask("GET", "/ojs/manifest")
        assert manifest["limits"]["max_workflow_jobs"] == 3
        assert (await api.send("POST", PATH, {"type": "chain", "steps": [job()] * 3})).status_code == 201
        nested = {"type": "group", "jobs": [{"type": "chain", "steps": [job()] * 2}, job()]}
        for definition in ({"type": "group", "jobs": [job()] * 4}, nested):
            refused(await api.send("POST", PATH, definition), 400, "invalid_request")
