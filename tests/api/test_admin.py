"""What only operators ask: the list of workers, and in test mode the reset (C-EP-28)."""

from __future__ import annotations

from ojs_api import shapes


async def test_workers_are_listed_longest_silent_first(api, check) -> None:
    for name in ("b", "a", "c"):
        await api.ask("POST", "/ojs/v1/workers/heartbeat", {"worker_id": name})
        api.clock.advance(1000)
    await api.ask("POST", "/ojs/v1/workers/heartbeat", {"worker_id": "b"})
    await api.fetch(worker_id="d e/\u00e9")
    body = check(await api.send("GET", "/ojs/v1/admin/workers"), 200, shapes.WorkersAnswer)
    assert [worker["id"] for worker in body["workers"]] == ["a", "c", "b", "d e/\u00e9"]
    assert body["count"] == 4
    assert body["workers"][-1]["heartbeats"] == 0


async def test_the_reset_removes_everything(serving, check) -> None:
    async with serving(test_mode=True) as api:
        await api.dead()
        await api.push(queue="q")
        await api.ask("POST", "/ojs/v1/queues/q/pause")
        await api.ask("POST", "/ojs/v1/cron", {"name": "n", "cron": "* * * * *", "type": "a"})
        await api.ask("POST", "/ojs/v1/workers/heartbeat", {"worker_id": "w"})
        workflow = await api.ask("POST", "/ojs/v1/workflows", {"type": "chain", "steps": [{"type": "a", "args": []}]})
        response = await api.send("POST", "/ojs/v1/admin/reset")
        assert check(response, 200, shapes.ResetAnswer) == {"reset": True}
        assert await api.stored() == (0, 1, 0, 0)
        assert (await api.ask("GET", "/ojs/v1/dead-letter"))["jobs"] == []
        assert (await api.send("GET", f"/ojs/v1/workflows/{workflow['id']}")).status_code == 404
        assert await api.fetch("default", "q", count=10) == []


async def test_there_is_no_reset_outside_test_mode(api, refused) -> None:
    """Not even a sign that there could be one, but for the hint to its reader."""
    job = await api.push()
    for body in (None, {}):
        refused(await api.send("POST", "/ojs/v1/admin/reset", body), 404, "not_found")
    assert await api.job(job["id"]) == job
