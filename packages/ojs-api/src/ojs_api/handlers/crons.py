"""Cron entries: register, list, read, switch, delete."""

from __future__ import annotations

from typing import Any

from ojs_api import shapes
from ojs_api.http import Call, Endpoints, Reply, page_by_name, paging
from ojs_api.wire import cron_view
from ojs_core.envelope import invalid
from ojs_core.errors import InvalidRetryPolicyError, MetadataTooLargeError, NotFoundError, StateConflictError
from ojs_core.records import CronEntry
from ojs_core.service.crons import parse_cron_request

endpoints = Endpoints("Cron")


def _both(entry: CronEntry) -> dict[str, Any]:
    """Return an entry under the wrapper of each dialect (Q-14)."""
    view = cron_view(entry)
    return {"cron": view, "cron_job": view}


@endpoints.add(
    "GET",
    "/ojs/v1/cron",
    "List cron entries",
    query=("enabled", "limit", "offset", "cursor"),
    response=shapes.Crons,
)
async def list_crons(call: Call) -> Reply:
    """C-EP-20."""
    query = call.query()
    page = paging(query)
    wanted = query.get("enabled") or None
    if wanted not in (None, "true", "false"):
        raise invalid("enabled", "true or false", wanted)
    entries = await call.service.crons.list_crons(enabled=None if wanted is None else wanted == "true")
    shown, numbers = page_by_name(entries, page)
    views = [cron_view(entry) for entry in shown]
    return Reply({"crons": views, "cron_jobs": views, "count": len(views), "pagination": numbers})


@endpoints.add(
    "POST",
    "/ojs/v1/cron",
    "Register a cron entry, or replace the one of that name",
    status=201,
    request=shapes.CronBody,
    response={201: shapes.CronAnswer, 200: shapes.CronAnswer},
    errors=(InvalidRetryPolicyError, MetadataTooLargeError, StateConflictError),
)
async def register(call: Call) -> Reply:
    """C-EP-21."""
    body, raw = call.json()
    registered = await call.service.crons.register(parse_cron_request(body, raw, call.service.clock.now()))
    return Reply(_both(registered.entry), 201 if registered.created else 200)


@endpoints.add(
    "GET", "/ojs/v1/cron/{name:str}", "Read a cron entry", response=shapes.CronAnswer, errors=(NotFoundError,)
)
async def read(call: Call) -> Reply:
    """C-EP-22."""
    return Reply(_both(await call.service.crons.get(call.path_params["name"])))


@endpoints.add(
    "PATCH",
    "/ojs/v1/cron/{name:str}",
    "Switch a cron entry on or off",
    request=shapes.CronSwitch,
    response=shapes.CronAnswer,
    errors=(NotFoundError, StateConflictError),
)
async def switch(call: Call) -> Reply:
    """C-EP-22."""
    body, _ = call.json()
    enabled = body.get("enabled")
    if not isinstance(enabled, bool):
        raise invalid("enabled", "a boolean", enabled)
    return Reply(_both(await call.service.crons.set_enabled(call.path_params["name"], enabled=enabled)))


@endpoints.add(
    "DELETE",
    "/ojs/v1/cron/{name:str}",
    "Delete a cron entry; its jobs stay",
    response=shapes.DeletedCron,
    errors=(NotFoundError, StateConflictError),
)
async def delete(call: Call) -> Reply:
    """C-EP-23."""
    entry = await call.service.crons.delete(call.path_params["name"])
    return Reply({"deleted": True, "name": entry.name, **_both(entry)})
