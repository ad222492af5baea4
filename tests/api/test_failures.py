"""What a client is told when the server or its store cannot do what it asks."""

from __future__ import annotations

import logging
import re

import pytest

from ojs_api import shapes
from ojs_api.handlers import ENDPOINTS
from ojs_core.memory import MemoryBackend
from ojs_core.testing import BackendWrapper, FaultyBackend

ABSENT = "019c5166-8840-7000-8000-000000000000"
JOB = {"type": "test.job", "args": []}
STORED_BY = [
    ("POST", "/ojs/v1/jobs", JOB),
    ("POST", "/ojs/v1/jobs/batch", {"jobs": [JOB, JOB]}),
    ("GET", f"/ojs/v1/jobs/{ABSENT}", None),
    ("DELETE", f"/ojs/v1/jobs/{ABSENT}", None),
    ("POST", f"/ojs/v1/jobs/{ABSENT}/activate", None),
    ("POST", f"/ojs/v1/jobs/{ABSENT}/ack", None),
    ("POST", f"/ojs/v1/jobs/{ABSENT}/nack", {"error": {"message": "x"}}),
    ("POST", "/ojs/v1/workers/fetch", {"queues": ["default"]}),
    ("POST", "/ojs/v1/workers/fetch", {"queues": ["default"], "wait_ms": 10_000}),
    ("POST", "/ojs/v1/workers/ack", {"job_id": ABSENT}),
    ("POST", "/ojs/v1/workers/nack", {"job_id": ABSENT, "requeue": True}),
    ("POST", "/ojs/v1/workers/heartbeat", {"worker_id": "w"}),
    ("GET", "/ojs/v1/queues", None),
    ("GET", "/ojs/v1/queues/default/stats", None),
    ("POST", "/ojs/v1/queues/default/pause", None),
    ("POST", "/ojs/v1/queues/default/resume", None),
    ("GET", "/ojs/v1/dead-letter", None),
    ("GET", f"/ojs/v1/dead-letter/{ABSENT}", None),
    ("POST", f"/ojs/v1/dead-letter/{ABSENT}/retry", None),
    ("DELETE", f"/ojs/v1/dead-letter/{ABSENT}", None),
    ("GET", "/ojs/v1/cron", None),
    ("POST", "/ojs/v1/cron", {"name": "n", "cron": "* * * * *", "type": "a"}),
    ("GET", "/ojs/v1/cron/n", None),
    ("PATCH", "/ojs/v1/cron/n", {"enabled": True}),
    ("DELETE", "/ojs/v1/cron/n", None),
    ("POST", "/ojs/v1/workflows", {"type": "chain", "steps": [JOB]}),
    ("GET", f"/ojs/v1/workflows/{ABSENT}", None),
    ("DELETE", f"/ojs/v1/workflows/{ABSENT}", None),
    ("GET", "/ojs/v1/events", None),
    ("GET", "/ojs/v1/admin/workers", None),
    ("POST", "/ojs/v1/admin/workers/w/directive", {"directive": "quiet"}),
    ("POST", "/ojs/v1/admin/reset", None),
    ("GET", "/readyz", None),
]


class BrokenBackend(BackendWrapper):
    """A store whose driver leaks an exception with a secret in it."""

    async def around(self, method, *_, **__) -> None:
        if method.__name__ not in ("open", "close"):
            raise RuntimeError("cannot connect to store://user:secret@host")


@pytest.mark.parametrize(("method", "path", "body"), STORED_BY)
async def test_an_outage_is_503_with_a_time_to_come_back(serving, refused, method, path, body) -> None:
    """C-HTTP-12, C-HTTP-13: never "not found", never an empty fetch, never a success."""
    backend = FaultyBackend(MemoryBackend())
    async with serving(backend, test_mode=True) as api:
        backend.down = True
        response = await api.send(method, path, body)
        error = refused(response, 503, "backend_error")
        assert response.headers["retry-after"] == "1"
        assert error["retryable"] is True


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: f"{endpoint.method} {endpoint.path}")
def test_every_endpoint_that_asks_the_store_is_in_the_list_above(endpoint) -> None:
    storeless = {"/ojs/manifest", "/livez", "/ojs/v1/docs", "/ojs/v1/openapi.json"}
    storeless |= {"/ojs/v1/schemas", "/ojs/v1/schemas/{uri:str}"}
    # Health reports the outage itself (below), and /healthz is /readyz by another name.
    other = {"/ojs/v1/health", "/healthz"}
    pattern = re.compile(re.sub(r"\{\w+:str\}", "[^/]+", endpoint.path))
    listed = any(method == endpoint.method and pattern.fullmatch(path) for method, path, _ in STORED_BY)
    assert listed != (endpoint.path in storeless | other)


async def test_a_lost_answer_is_an_outage_too_and_asking_again_is_safe(serving, refused) -> None:
    """The change may have happened; the guard makes the second attempt a conflict instead of a second change."""
    backend = FaultyBackend(MemoryBackend())
    async with serving(backend) as api:
        await api.push()
        job = await api.fetch_one()
        backend.fail("commit", "after")
        path = f"/ojs/v1/jobs/{job['id']}/ack"
        refused(await api.send("POST", path), 503, "backend_error")
        refused(await api.send("POST", path), 409, "conflict", current_state="completed")


@pytest.mark.parametrize(("method", "path", "body"), STORED_BY)
async def test_a_fault_of_our_own_is_500_without_its_inside(serving, refused, caplog, method, path, body) -> None:
    """C-ERR-07: no traceback, no connection string. The log has both, under the id that the client was given."""
    async with serving(BrokenBackend(MemoryBackend()), test_mode=True) as api:
        caplog.set_level(logging.ERROR)
        response = await api.send(method, path, body, headers={"x-request-id": "find-me"})
        error = refused(response, 500, "x_internal_error")
        assert error["retryable"] is True
        assert error["request_id"] == "find-me"
        for secret in ("secret", "store://", "RuntimeError", "Traceback", ".py"):
            assert secret not in response.text
        (record,) = [record for record in caplog.records if "find-me" in record.getMessage()]
        assert record.exc_info is not None


async def test_one_failed_request_does_not_spoil_the_next(serving) -> None:
    backend = FaultyBackend(MemoryBackend())
    async with serving(backend) as api:
        backend.fail("commit", "before")
        assert (await api.send("POST", "/ojs/v1/jobs", JOB)).status_code == 503
        assert (await api.send("POST", "/ojs/v1/jobs", JOB)).status_code == 201
        assert len(await api.fetch(count=10)) == 1


# Sizes.


async def test_a_job_of_a_mebibyte_is_taken_and_one_byte_more_is_not(api, refused) -> None:
    """C-JSON-13."""
    most = 1_048_576
    frame = len(b'{"type":"a","args":[""]}')
    body = b'{"type":"a","args":["%s"]}' % (b"x" * (most - frame))
    assert (await api.send("POST", "/ojs/v1/jobs", body)).status_code == 201
    body = body.replace(b'"]', b'x"]')
    response = await api.send("POST", "/ojs/v1/jobs", body)
    refused(response, 413, "envelope_too_large", actual_bytes=most + 1, max_bytes=most)


@pytest.mark.parametrize("path", ["/ojs/v1/workers/ack", "/ojs/v1/jobs/{id}/ack"])
async def test_a_result_of_a_mebibyte_is_taken_and_one_byte_more_is_not(api, refused, path) -> None:
    """C-JSON-14: it is not lost with the job, whose worker may report again."""
    most = 1_048_576
    taken, other = [await api.push(), await api.push()]
    await api.fetch(count=2)
    body = {"job_id": other["id"], "result": "x" * (most - 1)}
    response = await api.send("POST", path.format(id=other["id"]), body)
    refused(response, 413, "envelope_too_large", actual_bytes=most + 1, max_bytes=most)
    assert (await api.job(other["id"]))["state"] == "active"
    body = {"job_id": taken["id"], "result": "x" * (most - 2)}
    assert (await api.send("POST", path.format(id=taken["id"]), body)).status_code == 200


async def test_the_limit_of_a_job_holds_for_each_of_a_batch_and_not_for_all_together(api, refused) -> None:
    """C-JSON-13: the sum of a batch is bounded by the body alone."""
    large = {"type": "a", "args": ["x" * 700_000]}
    assert (await api.send("POST", "/ojs/v1/jobs/batch", {"jobs": [large, large]})).status_code == 201
    larger = {"type": "a", "args": ["x" * 1_048_576]}
    response = await api.send("POST", "/ojs/v1/jobs/batch", {"jobs": [large, larger]})
    refused(response, 413, "envelope_too_large", index=1, max_bytes=1_048_576)


@pytest.mark.parametrize("place", ["meta", "metadata"])
async def test_meta_of_64_kib_is_taken_and_one_byte_more_is_not(api, refused, place) -> None:
    """C-JSON-13: merged options count."""
    most = 65_536
    meta = {"k": "x" * (most - len('{"k":""}'))}

    def job(meta: dict[str, str]) -> dict[str, object]:
        return {**JOB, "meta": meta} if place == "meta" else {**JOB, "options": {"metadata": meta}}

    assert (await api.send("POST", "/ojs/v1/jobs", job(meta))).status_code == 201
    response = await api.send("POST", "/ojs/v1/jobs", job({"k": meta["k"] + "x"}))
    refused(response, 413, "metadata_too_large", actual_bytes=most + 1, max_bytes=most)


async def test_a_body_over_the_limit_is_refused_however_it_comes(serving, refused) -> None:
    async with serving(body_max_bytes=2000) as api:
        body = b'{"type":"a","args":["%s"]}' % (b"x" * 2000)

        async def chunks():
            for start in range(0, len(body), 100):
                yield body[start : start + 100]

        for content in (body, chunks()):
            response = await api.client.post("/ojs/v1/jobs", content=content)
            refused(response, 413, "envelope_too_large", max_bytes=2000)
        exact = b'{"type":"a","args":["%s"]}' % (b"x" * (2000 - 24))
        assert (await api.send("POST", "/ojs/v1/jobs", exact)).status_code == 201


async def test_a_declared_size_over_the_limit_is_refused_before_the_body_is_read(serving) -> None:
    async def receive() -> None:
        raise AssertionError("The body was read.")

    async with serving(body_max_bytes=2000) as api:
        answer = await api.raw("POST", "/ojs/v1/jobs", receive, headers=[(b"content-length", b"2001")])
        assert answer.status == 413


async def test_a_batch_may_have_so_many_jobs_and_no_more(serving, refused) -> None:
    """C-BLK-05."""
    async with serving(batch_max=3) as api:
        assert (await api.send("POST", "/ojs/v1/jobs/batch", {"jobs": [JOB] * 3})).status_code == 201
        response = await api.send("POST", "/ojs/v1/jobs/batch", {"jobs": [JOB] * 4})
        refused(response, 413, "envelope_too_large", max_jobs=3)
        assert len(await api.fetch(count=10)) == 3


# A client that leaves.


async def test_a_client_that_leaves_while_it_sends_gets_no_answer_and_leaves_nothing_behind(api) -> None:
    messages = iter(
        [
            {"type": "http.request", "body": b'{"type":"a","args":[]}', "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> dict[str, object]:
        return next(messages)

    assert await api.raw("POST", "/ojs/v1/jobs", receive) is None
    assert await api.stored() == (0, 1, 0, 0)


# Probes.


async def test_health_tells_of_an_outage_and_liveness_does_not(serving, check) -> None:
    """C-EP-02. A supervisor that restarted the server for the store's sake would make things worse."""
    backend = FaultyBackend(MemoryBackend())
    async with serving(backend) as api:
        api.clock.advance(61_500)
        health = check(await api.send("GET", "/ojs/v1/health"), 200, shapes.Health)
        assert health == {
            "status": "ok",
            "version": "1.0",
            "uptime_seconds": 61,
            "backend": {"type": api.backend.capabilities.name, "status": "connected", "latency_ms": 0},
        }
        backend.down = True
        response = await api.send("GET", "/ojs/v1/health")
        health = check(response, 503, shapes.Health)
        assert (health["status"], health["backend"]["status"]) == ("degraded", "disconnected")
        assert response.headers["retry-after"] == "1"
        live = check(await api.send("GET", "/livez"), 200, shapes.Alive)
        assert live == {"status": "ok", "server_time": api.clock.now()}


@pytest.mark.parametrize("path", ["/readyz", "/healthz"])
async def test_a_server_about_to_stop_asks_for_no_more_requests(serving, check, path) -> None:
    async with serving() as api:
        assert check(await api.send("GET", path), 200, shapes.Ready) == {"status": "ok"}
        api.service.stop_waiting()
        response = await api.send("GET", path)
        assert check(response, 503, shapes.Ready) == {"status": "draining"}
        assert response.headers["retry-after"] == "1"


async def test_the_manifest_tells_what_the_server_is(api, check) -> None:
    """C-EP-01, C-CNF-01, C-CNF-03."""
    manifest = check(await api.send("GET", "/ojs/manifest"), 200, shapes.Manifest)
    assert manifest["specversion"] == manifest["ojs_version"] == "1.0"
    assert manifest["implementation"]["name"] == "ojs-server"
    assert (manifest["conformance_level"], manifest["conformance_tier"]) == (4, "runtime")
    assert manifest["test_suite_version"] == "1.0"
    assert manifest["protocols"] == ["http"]
    assert manifest["backend"] == api.backend.capabilities.name
    assert manifest["unique_job_strength"] == "strong"
    assert manifest["durable"] is api.backend.capabilities.durable
    assert manifest["limits"]["max_envelope_bytes"] == 1_048_576
    assert manifest["limits"]["max_batch"] == 10_000
    assert manifest["schema_validation"] is manifest["capabilities"]["schema_validation"] is False
    for path in (manifest["endpoints"][name] for name in ("manifest", "health", "openapi")):
        assert (await api.send("GET", path)).status_code == 200
