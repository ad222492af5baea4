"""Workflows: create, read, cancel. The official clients read the workflow wrapped or flat; an answer holds both."""

from __future__ import annotations

from typing import Any

from ojs_api import shapes
from ojs_api.http import Call, Endpoints, Reply
from ojs_core.errors import DuplicateJobError, NotFoundError, StateConflictError

endpoints = Endpoints("Workflows")


def _both(view: dict[str, Any]) -> dict[str, Any]:
    return {"workflow": view, **view}


@endpoints.add(
    "POST",
    "/ojs/v1/workflows",
    "Start a chain, group, batch or graph of jobs",
    status=201,
    request=(shapes.ChainRequest, shapes.GroupRequest, shapes.BatchWorkflowRequest, shapes.StepsRequest),
    response=shapes.WorkflowAnswer,
    errors=(DuplicateJobError,),
)
async def create(call: Call) -> Reply:
    """C-EP-24."""
    view = await call.service.workflows.create(*call.json())
    return Reply(_both(view), 201, ((b"location", b"/ojs/v1/workflows/" + view["id"].encode()),))


@endpoints.add(
    "GET",
    "/ojs/v1/workflows/{workflow_id:str}",
    "Read a workflow",
    response=shapes.WorkflowAnswer,
    errors=(NotFoundError,),
)
async def read(call: Call) -> Reply:
    """C-EP-25."""
    return Reply(_both(await call.service.workflows.get(call.path_params["workflow_id"])))


@endpoints.add(
    "DELETE",
    "/ojs/v1/workflows/{workflow_id:str}",
    "Cancel a workflow",
    response=shapes.WorkflowAnswer,
    errors=(NotFoundError, StateConflictError),
)
async def cancel(call: Call) -> Reply:
    """C-EP-25."""
    return Reply(_both(await call.service.workflows.cancel(call.path_params["workflow_id"])))
