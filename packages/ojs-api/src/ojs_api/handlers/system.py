"""The server itself: manifest, health, probes."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from ojs_api import shapes
from ojs_api.http import PAGE_MAX, VERSION, Call, Endpoints, Reply
from ojs_core.envelope import ENVELOPE_MAX_BYTES
from ojs_core.errors import BackendUnavailableError
from ojs_core.workflow import DEFINITION_MAX_BYTES, MEMBERS_MAX, RESULTS_MAX_BYTES, WORKFLOW_DEPTH_MAX

endpoints = Endpoints("System")

READY = {200: shapes.Ready, 503: shapes.Ready}

PING_TIMEOUT_S = 5.0
SERVER_VERSION = version("ojs-api")


@endpoints.add("GET", "/ojs/manifest", "What this server is and can do", public=True, response=shapes.Manifest)
async def manifest(call: Call) -> Reply:
    """C-EP-01."""
    capabilities = call.service.backend.capabilities
    settings = call.service.settings
    extensions: object = {"official": [], "experimental": []}
    return Reply(
        {
            "specversion": VERSION,
            "ojs_version": VERSION,
            "implementation": {
                "name": "ojs-server",
                "version": SERVER_VERSION,
                "language": "python",
            },
            "conformance_level": 4,
            "conformance_tier": "runtime",
            "protocols": ["http"],
            "backend": capabilities.name,
            "capabilities": {
                "batch_enqueue": True,
                "cron_jobs": True,
                "dead_letter": True,
                "delayed_jobs": True,
                "job_ttl": True,
                "priority_queues": True,
                "rate_limiting": True,
                "schema_validation": False,
                "unique_jobs": True,
                "workflows": True,
                "pause_resume": True,
            },
            "schema_validation": False,
            "unique_job_strength": "strong",
            "unique_job_mechanism": capabilities.unique_mechanism,
            "event_delivery": "at_least_once",
            "durable": capabilities.durable,
            "limits": {
                "max_envelope_bytes": ENVELOPE_MAX_BYTES,
                "max_result_bytes": ENVELOPE_MAX_BYTES,
                "max_body_bytes": settings.body_max_bytes,
                "max_batch": settings.batch_max,
                "max_page": PAGE_MAX,
                "max_workflow_depth": WORKFLOW_DEPTH_MAX,
                "max_workflow_jobs": min(MEMBERS_MAX, settings.batch_max),
                "max_workflow_bytes": DEFINITION_MAX_BYTES,
                "max_workflow_result_bytes": RESULTS_MAX_BYTES,
            },
            "extensions": [] if call.speaks_draft else extensions,
            "endpoints": {
                "base_url": "/ojs/v1",
                "manifest": "/ojs/manifest",
                "health": "/ojs/v1/health",
                "openapi": "/ojs/v1/openapi.json",
            },
            "test_suite_version": VERSION,
        }
    )


@endpoints.add(
    "GET",
    "/ojs/v1/health",
    "Whether the server and its store work",
    public=True,
    response={200: shapes.Health, 503: shapes.Health},
)
async def health(call: Call) -> Reply:
    """C-EP-02."""
    service = call.service
    started = service.clock.now()
    backend = {"type": service.backend.capabilities.name, "status": "connected"}
    view = {
        "status": "ok",
        "version": VERSION,
        "uptime_seconds": max(0, started - service.started_at) // 1000,
        "backend": backend,
    }
    try:
        await ping(call)
    except BackendUnavailableError as error:
        view["status"] = "degraded"
        backend |= {"status": "disconnected", "error": error.message}
        return Reply(view, 503, ((b"retry-after", b"1"),))
    view["backend"] = {**backend, "latency_ms": service.clock.now() - started}
    return Reply(view)


async def ping(call: Call) -> None:
    """Ask the store for a sign of life, for a bounded time."""
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            await call.service.backend.ping()
    except TimeoutError:
        raise BackendUnavailableError(f"The store did not answer within {PING_TIMEOUT_S:g} s.") from None


@endpoints.add(
    "GET",
    "/livez",
    "Whether the process is alive; never asks the store",
    public=True,
    response=shapes.Alive,
)
async def livez(call: Call) -> Reply:
    """For a supervisor that restarts what hangs."""
    return Reply({"status": "ok", "server_time": call.service.clock.now()})


@endpoints.add("GET", "/readyz", "Whether to send requests here", public=True, response=READY)
async def readyz(call: Call) -> Reply:
    """For a load balancer: 503 while draining or while the store is away."""
    if call.service.stopping:
        return Reply({"status": "draining"}, 503, ((b"retry-after", b"1"),))
    await ping(call)
    return Reply({"status": "ok"})


@endpoints.add("GET", "/healthz", "The same as /readyz", public=True, response=READY)
async def healthz(call: Call) -> Reply:
    """The name many supervisors ask first."""
    return await readyz(call)
