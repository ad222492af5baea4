"""For operators: workers and their directives; and, in test mode, the reset."""

from __future__ import annotations

from ojs_api import shapes
from ojs_api.http import Call, Endpoints, Reply
from ojs_api.wire import worker_view
from ojs_core.envelope import invalid
from ojs_core.errors import NotFoundError, RouteNotFoundError

endpoints = Endpoints("Admin")


@endpoints.add("GET", "/ojs/v1/admin/workers", "List workers, longest silent first", response=shapes.WorkersAnswer)
async def list_workers(call: Call) -> Reply:
    """C-WRK-05."""
    workers = await call.service.workers.list_workers()
    return Reply({"workers": [worker_view(worker) for worker in workers], "count": len(workers)})


@endpoints.add(
    "POST",
    "/ojs/v1/admin/workers/{worker_id:str}/directive",
    "Tell a worker to go on, go quiet or end",
    request=shapes.DirectiveRequest,
    response=shapes.WorkerAnswer,
    errors=(NotFoundError,),
)
async def direct(call: Call) -> Reply:
    """C-WRK-02."""
    body, _ = call.json()
    directive = body.get("directive")
    if directive not in ("running", "quiet", "terminate"):
        raise invalid("directive", "one of running, quiet, terminate", directive)
    return Reply({"worker": worker_view(await call.service.workers.direct(call.path_params["worker_id"], directive))})


@endpoints.add(
    "POST",
    "/ojs/v1/admin/reset",
    "Remove everything (test mode only)",
    request=shapes.Nothing | None,
    response=shapes.ResetAnswer,
    errors=(RouteNotFoundError,),
)
async def reset(call: Call) -> Reply:
    """C-EP-28."""
    if not call.service.settings.test_mode:
        raise RouteNotFoundError("The reset exists only with OJS_TEST_MODE=true.")
    call.optional_json()
    await call.service.reset()
    return Reply({"reset": True})
