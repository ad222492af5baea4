"""Queues: list, numbers, pause, resume."""

from __future__ import annotations

from ojs_api import shapes
from ojs_api.http import Call, Endpoints, Reply, page_by_name, paging
from ojs_api.wire import queue_view, stats_view
from ojs_core.errors import NotFoundError
from ojs_core.timestamps import format_ms

endpoints = Endpoints("Queues")


@endpoints.add("GET", "/ojs/v1/queues", "List queues", query=("limit", "offset", "cursor"), response=shapes.Queues)
async def list_queues(call: Call) -> Reply:
    """C-EP-12."""
    page = paging(call.query())
    shown, numbers = page_by_name(await call.service.queues(), page)
    return Reply({"queues": [queue_view(queue) for queue in shown], "pagination": numbers})


@endpoints.add(
    "GET",
    "/ojs/v1/queues/{name:str}/stats",
    "Read the numbers of a queue",
    response=shapes.QueueStats,
    errors=(NotFoundError,),
)
async def stats(call: Call) -> Reply:
    """C-EP-13."""
    numbers = await call.service.queue_stats(call.path_params["name"])
    return Reply(stats_view(numbers, call.service.clock.now(), draft=call.speaks_draft))


@endpoints.add(
    "POST",
    "/ojs/v1/queues/{name:str}/pause",
    "Stop handing out jobs of a queue",
    request=shapes.Nothing | None,
    response=shapes.PausedQueue,
)
async def pause(call: Call) -> Reply:
    """C-EP-14."""
    call.optional_json()
    queue = await call.service.pause_queue(call.path_params["name"])
    paused_at = format_ms(queue.paused_at or call.service.clock.now())
    return Reply({"queue": queue_view(queue), "status": "paused", "paused_at": paused_at})


@endpoints.add(
    "POST",
    "/ojs/v1/queues/{name:str}/resume",
    "Hand out jobs of a queue again",
    request=shapes.Nothing | None,
    response=shapes.ResumedQueue,
)
async def resume(call: Call) -> Reply:
    """C-EP-15."""
    call.optional_json()
    queue = await call.service.resume_queue(call.path_params["name"])
    resumed_at = format_ms(call.service.clock.now())
    return Reply({"queue": queue_view(queue), "status": "active", "resumed_at": resumed_at})
