"""The event log."""

from __future__ import annotations

from collections.abc import Mapping

from ojs_api import shapes
from ojs_api.http import Call, Endpoints, Reply, whole_parameter
from ojs_api.wire import event_view
from ojs_core.backend import EventQuery

endpoints = Endpoints("Events")

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000


@endpoints.add(
    "GET",
    "/ojs/v1/events",
    "Read events, oldest first",
    query=("types", "queues", "job_types", "after", "limit"),
    response=shapes.Events,
)
async def list_events(call: Call) -> Reply:
    """C-EP-26."""
    query = call.query()
    page = await call.service.events(
        EventQuery(
            types=_names(query, "types"),
            queues=_names(query, "queues"),
            job_types=_names(query, "job_types"),
            after=query.get("after") or None,
            limit=min(whole_parameter(query, "limit", LIMIT_DEFAULT, least=1), LIMIT_MAX),
        )
    )
    return Reply(
        {
            "events": [event_view(event) for event in page.events],
            "cursor": page.events[-1].id if page.events else query.get("after") or None,
            "has_more": page.has_more,
        }
    )


def _names(query: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in query.get(name, "").split(",") if part.strip())
