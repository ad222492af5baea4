"""Fetching, at once and with patience (C-EP-08, C-OPS-10 to C-OPS-18)."""

from __future__ import annotations

import asyncio

import pytest

from ojs_api import shapes
from ojs_core.testing.clock import MINUTE, SECOND

PATH = "/ojs/v1/workers/fetch"
PATIENCE_S = 30
"""More than enough, on a busy machine too; less than any wait that would be a fault."""
LATER = "2026-02-12T10:30:10.000Z"


async def test_a_fetched_job_is_active_and_leased(api, check) -> None:
    """C-OPS-14, C-VIS-01."""
    job = await api.push("email.send", "a", options={"retry": {"max_attempts": 5}})
    api.clock.advance(10 * SECOND)
    response = await api.send("POST", PATH, {"queues": ["default"], "worker_id": "w1"})
    body = check(response, 200, shapes.FetchAnswer)
    assert body["jobs"] == [body["job"]]
    assert body["job"] == {
        **job,
        "state": "active",
        "attempt": 1,
        "started_at": LATER,
        "worker_id": "w1",
        "lease_id": "1",
        "lease_expires_at": "2026-02-12T11:00:10.000Z",
    }
    assert await api.job(job["id"]) == body["job"]


async def test_nothing_to_give_is_an_empty_array_and_nothing_else(api) -> None:
    """C-EP-08: 200, never null, never 204; an unknown queue is no error."""
    for queues in (["default"], ["never-seen"], ["NOT A NAME"], [""], ["default"] * 1000):
        response = await api.send("POST", PATH, {"queues": queues})
        assert (response.status_code, response.content) == (200, b'{"jobs":[]}')
    assert (await api.ask("GET", "/ojs/v1/queues"))["pagination"]["total"] == 1


async def test_queues_from_left_to_right_then_priority_then_age(api) -> None:
    """C-OPS-10, C-OPS-11, C-PRI-01."""
    for queue, priority in (("b", 100), ("a", 0), ("a", 5), ("a", 5), ("a", -5), ("b", 0)):
        await api.push(f"{queue}.p", queue=queue, priority=priority)
    jobs = await api.fetch("a", "nothing", "b", "a", count=10)
    assert [(job["queue"], job["priority"]) for job in jobs] == [
        ("a", 5),
        ("a", 5),
        ("a", 0),
        ("a", -5),
        ("b", 100),
        ("b", 0),
    ]
    assert jobs[0]["id"] < jobs[1]["id"]


@pytest.mark.parametrize(
    ("count", "given"), [(None, 1), (1, 1), (2, 2), (0, 1), (-5, 1), (5000, 1000), (2**70, 1000), (-(2**70), 1)]
)
async def test_how_many(api, count, given) -> None:
    """C-OPS-12: over all queues; less than 1 counts as 1, and 1000 is the most."""
    await api.ask("POST", "/ojs/v1/jobs/batch", {"jobs": [{"type": "a", "args": []}] * 1100})
    assert len(await api.fetch("none", "default", count=count)) == given


@pytest.mark.parametrize(
    ("field", "body"),
    [
        *(("queues", {"queues": bad}) for bad in (None, [], {}, "default", [1], ["a", None], [["a"]], ["a"] * 1001)),
        ("queues", {}),
        ("queues", {"queue": "default"}),
        *(("count", {"queues": ["a"], "count": bad}) for bad in ("1", 1.0, 1.5, True, [], {})),
        *(("worker_id", {"queues": ["a"], "worker_id": bad}) for bad in (1, [], "w" * 256)),
        *(
            (field, {"queues": ["a"], field: bad})
            for field in ("visibility_timeout_ms", "wait_ms")
            for bad in (-1, 1.5, "1", True, 2**70)
        ),
        ("wait_ms", {"queues": ["a"], "wait_ms": 30_001}),
    ],
)
async def test_a_bad_field_is_named(api, refused, field, body) -> None:
    await api.push(queue="a")
    refused(await api.send("POST", PATH, body), 400, "invalid_request", field=field)
    assert len(await api.fetch("a")) == 1


@pytest.mark.parametrize(
    ("asked", "own", "length"), [(None, None, 30 * MINUTE), (5000, None, 5000), (None, 7000, 7000), (0, 7000, 7000)]
)
async def test_the_lease_is_as_long_as_the_fetch_the_job_or_the_server_says(api, asked, own, length) -> None:
    """C-VIS-01, in that order."""
    await api.push(options={"visibility_timeout_ms": own, "timeout": 36_000})
    job = await api.fetch_one(visibility_timeout_ms=asked)
    await api.tick(length - 1)
    assert (await api.job(job["id"]))["state"] == "active"
    await api.tick(1)
    assert (await api.job(job["id"]))["state"] == "available"


async def test_a_lapsed_lease_frees_the_job_and_leaves_a_note(api) -> None:
    """C-VIS-02, C-VIS-03: at once, and the lost execution counts."""
    await api.push()
    job = await api.fetch_one(visibility_timeout_ms=1000)
    await api.tick(1000)
    again = await api.fetch_one()
    assert (again["id"], again["attempt"], again["lease_id"]) == (job["id"], 2, "2")
    (error,) = again["errors"]
    assert (error["type"], error["code"], error["attempt"]) == ("visibility_timeout", "visibility_timeout", 1)


async def test_an_execution_that_takes_too_long_fails(api) -> None:
    """C-VIS-06, C-VIS-07: with the policy's delay, whatever the heartbeats say."""
    await api.push(options={"timeout_ms": 2000})
    job = await api.fetch_one(worker_id="w")
    beat = {"worker_id": "w", "active_jobs": [job["id"]]}
    await api.tick(1999)
    await api.ask("POST", "/ojs/v1/workers/heartbeat", beat)
    await api.tick(1)
    found = await api.job(job["id"])
    assert found["state"] == "retryable"
    assert found["retry_delay_ms"] == 1000
    assert {key: found["error"][key] for key in ("type", "code", "timeout_kind", "limit_seconds")} == {
        "type": "timeout",
        "code": "timeout",
        "timeout_kind": "execution",
        "limit_seconds": 2.0,
    }


async def test_a_limited_queue_hands_out_so_many_a_second(api) -> None:
    """C-RL-01: `count` is bounded too, and the last one to set the limit wins."""
    for _ in range(5):
        await api.push(queue="q", options={"rate_limit": {"max_per_second": 7}})
    await api.push(queue="q", options={"rate_limit": {"max_per_second": 2}})
    assert len(await api.fetch("q", count=10)) == 2
    assert await api.fetch("q", count=10) == []
    # The window slides in steps of a tenth.
    api.clock.advance(SECOND + 100)
    assert len(await api.fetch("q", count=1)) == 1
    assert len(await api.fetch("q", count=10)) == 1


async def test_a_worker_told_to_be_quiet_gets_nothing_and_others_do(api) -> None:
    """C-OPS-18."""
    await api.push()
    await api.ask("POST", "/ojs/v1/workers/heartbeat", {"worker_id": "w1"})
    await api.ask("POST", "/ojs/v1/admin/workers/w1/directive", {"directive": "quiet"})
    assert await api.fetch(worker_id="w1") == []
    assert len(await api.fetch(worker_id="w2")) == 1


async def test_each_job_goes_to_one_fetcher(api) -> None:
    """C-LC-03."""
    await api.ask("POST", "/ojs/v1/jobs/batch", {"jobs": [{"type": "a", "args": []}] * 50})
    found = await asyncio.gather(*(api.fetch(count=7) for _ in range(10)))
    ids = [job["id"] for jobs in found for job in jobs]
    assert len(ids) == len(set(ids)) == 50


# With patience.


async def until_waiting(api, fetchers: int = 1) -> None:
    """Return when so many fetches wait for work."""
    doorbell = api.service.context.doorbell
    async with asyncio.timeout(PATIENCE_S):
        while sum(len(waiting) for waiting in doorbell._waiters.values()) < fetchers:  # noqa: SLF001
            await asyncio.sleep(0)


@pytest.mark.parametrize("how", ["push", "batch", "resume", "activate", "requeue", "retry"])
async def test_a_waiting_fetch_wakes_as_soon_as_there_is_work(api, monkeypatch, how) -> None:
    # Nobody looks again by itself: it is the bell that wakes.
    monkeypatch.setattr("ojs_core.service.jobs.POLL_MS", 60_000)
    elsewhere = how in ("push", "batch", "retry")
    job = await api.push(queue="other" if elsewhere else "q", options={"pending": how == "activate"})
    held = await api.fetch_one("q") if how == "requeue" else None
    if how == "resume":
        await api.ask("POST", "/ojs/v1/queues/q/pause")
    dead = await api.dead(queue="q") if how == "retry" else None
    fetching = asyncio.ensure_future(api.fetch("nothing", "q", wait_ms=30_000))
    await until_waiting(api, 2)
    match how:
        case "push":
            job = await api.push(queue="q")
        case "batch":
            body = {"jobs": [{"type": "a", "args": [], "queue": "q"}]}
            (job,) = (await api.ask("POST", "/ojs/v1/jobs/batch", body))["jobs"]
        case "resume":
            await api.ask("POST", "/ojs/v1/queues/q/resume")
        case "activate":
            await api.ask("POST", f"/ojs/v1/jobs/{job['id']}/activate")
        case "requeue":
            await api.ask("POST", f"/ojs/v1/jobs/{held['id']}/nack", {"requeue": True})
        case "retry":
            job = (await api.ask("POST", f"/ojs/v1/dead-letter/{dead['id']}/retry"))["job"]
    (fetched,) = await asyncio.wait_for(fetching, PATIENCE_S)
    assert fetched["id"] == job["id"]


async def test_work_that_is_there_is_not_waited_for(api) -> None:
    await api.push()
    assert len(await asyncio.wait_for(api.fetch(wait_ms=30_000, count=10), PATIENCE_S)) == 1


async def test_patience_ends(api) -> None:
    assert await asyncio.wait_for(api.fetch(wait_ms=1), PATIENCE_S) == []


async def test_a_fetch_waits_only_if_it_is_asked_to(api) -> None:
    """C-OPS-15."""
    for wait in (None, 0):
        assert await asyncio.wait_for(api.fetch(wait_ms=wait), PATIENCE_S) == []


async def test_waiting_fetches_are_answered_when_the_server_stops(api) -> None:
    fetching = asyncio.ensure_future(api.fetch(wait_ms=30_000))
    await until_waiting(api)
    api.service.stop_waiting()
    assert await asyncio.wait_for(fetching, PATIENCE_S) == []


class Leaving:
    """A client that sends a request and hangs up when it is told to."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.gone = asyncio.Event()
        self.sent = False

    async def receive(self) -> dict[str, object]:
        if not self.sent:
            self.sent = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_a_client_that_hangs_up_is_not_waited_for(api) -> None:
    """Otherwise it would be given a job that nobody works on until the lease lapses."""
    client = Leaving(b'{"queues":["default"],"wait_ms":30000}')
    asking = asyncio.ensure_future(api.raw("POST", PATH, client.receive))
    await until_waiting(api)
    client.gone.set()
    assert await asyncio.wait_for(asking, PATIENCE_S) is None
    await api.push()
    assert len(await api.fetch()) == 1


async def test_a_job_claimed_for_a_client_that_hung_up_is_given_back(api) -> None:
    """The claim was on its way to the store when the client left."""
    client = Leaving(b'{"queues":["default"],"wait_ms":30000}')
    claiming, go_on = asyncio.Event(), asyncio.Event()
    claim = api.backend.claim

    async def slow_claim(requests):
        claiming.set()
        await go_on.wait()
        return await claim(requests)

    job = await api.push()
    api.backend.claim = slow_claim
    api.service.context.claims._send = slow_claim  # noqa: SLF001 - there is no other way between them
    asking = asyncio.ensure_future(api.raw("POST", PATH, client.receive))
    await claiming.wait()
    client.gone.set()
    assert await asyncio.wait_for(asking, PATIENCE_S) is None
    go_on.set()
    async with asyncio.timeout(PATIENCE_S):
        while (found := await api.job(job["id"]))["attempt"] == 0 or found["state"] == "active":
            await asyncio.sleep(0)
    assert found["state"] == "available"
    # It was no failure, and the next worker gets it at once.
    assert "errors" not in found
    assert (await api.fetch_one())["id"] == job["id"]
