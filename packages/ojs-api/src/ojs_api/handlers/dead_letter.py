"""Dead letters: list, read, retry, delete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from ojs_api import shapes
from ojs_api.http import Call, Endpoints, Reply, pagination, paging
from ojs_api.wire import job_view
from ojs_core.backend import JobQuery
from ojs_core.envelope import invalid
from ojs_core.errors import (
    InvalidRequestError,
    InvalidRetryPolicyError,
    MetadataTooLargeError,
    NotFoundError,
    StateConflictError,
)
from ojs_core.service.revival import Revival, parse_revival
from ojs_core.timestamps import format_ms, parse_rfc3339

endpoints = Endpoints("Dead letters")

FILTERS = ("queue", "type", "error_type", "since", "until", "limit", "offset", "cursor")


@endpoints.add(
    "GET", "/ojs/v1/dead-letter", "List dead letters, newest first", query=FILTERS, response=shapes.DeadLetters
)
async def list_dead_letters(call: Call) -> Reply:
    """C-EP-16."""
    query = call.query()
    page = paging(query)
    found = await call.service.jobs.list_jobs(
        JobQuery(
            dead=True,
            queue=query.get("queue") or None,
            job_type=query.get("type") or None,
            error_type=query.get("error_type") or None,
            since=_instant(query, "since"),
            until=_instant(query, "until"),
            limit=page.limit,
            offset=page.offset,
            cursor=page.cursor,
        )
    )
    views = [job_view(job) for job in found.jobs]
    return Reply({"jobs": views, "pagination": pagination(found.total, page, len(views), found.next_cursor)})


def _instant(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if not text:
        return None
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise InvalidRequestError(f"'{name}': {error}", field=name, received=text[:100]) from None


@endpoints.add(
    "GET",
    "/ojs/v1/dead-letter/{job_id:str}",
    "Read a dead letter",
    response=shapes.JobAnswer,
    errors=(NotFoundError,),
)
async def read(call: Call) -> Reply:
    """C-EP-17."""
    return Reply({"job": job_view(await call.service.jobs.dead_letter(call.path_params["job_id"]))})


@endpoints.add(
    "POST",
    "/ojs/v1/dead-letter/{job_id:str}/retry",
    "Make a dead letter available again",
    request=shapes.DeadLetterRetry | None,
    response=shapes.RevivedAnswer,
    errors=(NotFoundError, StateConflictError, InvalidRetryPolicyError, MetadataTooLargeError),
)
async def retry(call: Call) -> Reply:
    """C-EP-18."""
    body, raw = call.optional_json()
    change = await call.service.jobs.revive(call.path_params["job_id"], _override(body, raw))
    view: dict[str, Any] = job_view(change.job)
    if change.job.enqueued_at is not None:
        view["re_enqueued_at"] = format_ms(change.job.enqueued_at)
    return Reply({"job": view})


def _override(body: Mapping[str, Any], raw: Mapping[str, Raw]) -> Revival | None:
    override = body.get("override")
    if override is None:
        return None
    if not isinstance(override, dict):
        raise invalid("override", "an object", override)
    return parse_revival(override, msgspec.json.decode(raw["override"], type=dict[str, Raw]))


@endpoints.add(
    "DELETE",
    "/ojs/v1/dead-letter/{job_id:str}",
    "Remove a dead letter for good",
    response=shapes.DeletedDeadLetter,
    errors=(NotFoundError, StateConflictError),
)
async def delete(call: Call) -> Reply:
    """C-EP-19."""
    job = await call.service.jobs.delete_dead_letter(call.path_params["job_id"])
    return Reply({"deleted": True, "id": job.id, "job_id": job.id})
