"""Workflows to test with, and short ways to see how they do."""

from __future__ import annotations

from typing import Any

import msgspec

from ojs_core.envelope import decode_object
from ojs_core.job import Job
from ojs_core.testing.clock import HOUR

ONCE = {"retry": {"max_attempts": 1}}
DEAD = {"retry": {"max_attempts": 1, "on_exhaustion": "dead_letter"}}
UNIQUE = {"unique": {"keys": ["type"]}}


def job(job_type: str = "a.b", **attributes: Any) -> dict[str, Any]:
    return {"type": job_type, "args": [], **attributes}


def chain(*steps: object, **rest: Any) -> dict[str, Any]:
    return {"type": "chain", "steps": steps, **rest}


def group(*jobs: object, **rest: Any) -> dict[str, Any]:
    return {"type": "group", "jobs": jobs, **rest}


def batch(*jobs: object, **callbacks: object) -> dict[str, Any]:
    return {"type": "batch", "jobs": jobs, "callbacks": callbacks}


def callbacks() -> dict[str, Any]:
    return {name: job(f"call.{name}") for name in ("on_complete", "on_success", "on_failure")}


async def create(server: Any, definition: dict[str, Any]) -> str:
    view = await server.workflows.create(*decode_object(msgspec.json.encode(definition)))
    workflow_id: str = view["id"]
    return workflow_id


async def state(server: Any, workflow_id: str) -> str:
    view = await server.workflows.get(workflow_id)
    found: str = view["state"]
    return found


async def members(server: Any, workflow_id: str) -> list[str]:
    """Return the states of a workflow's elements as its view shows them."""
    view = await server.workflows.get(workflow_id)
    return [element["state"] for element in view.get("steps", view.get("jobs"))]


async def take(server: Any, job_type: str | None = None) -> Job:
    """Fetch the one job there is to fetch."""
    (found,) = await server.fetch(count=9, lease_ms=HOUR)
    assert job_type in (None, found.type)
    return found


async def ack(server: Any, found: Job, result: object = None) -> None:
    await server.jobs.ack(found.id, result=msgspec.Raw(msgspec.json.encode(result)))


def results(found: Job) -> Any:
    return msgspec.json.decode(found.parent_results)


async def types(server: Any) -> list[str]:
    """Return the types of all jobs, sorted: those of one moment are in no order."""
    return sorted(found.type for found in await server.made())


async def states(server: Any) -> dict[str, str]:
    """Return the states of all jobs by type."""
    return {found.type: found.state.value for found in await server.made()}
