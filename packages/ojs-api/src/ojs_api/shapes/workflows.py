"""Workflows: chains, groups, batches, and steps with dependencies."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from ojs_api.shapes.jobs import JobOptions, JobRequest
from ojs_api.shapes.values import Array, Count, JobId, Maybe, Nullable, ShortText, Time, either
from ojs_core.workflow import MEMBERS_MAX, NAME_MAX

_ELEMENT = {
    "items": {
        "anyOf": [
            {"$ref": f"#/components/schemas/{name}"}
            for name in ("WorkflowJob", "ChainRequest", "GroupRequest", "BatchWorkflowRequest")
        ]
    }
}
"""Written out because msgspec makes no union of several objects."""

Elements = Annotated[
    list[Any],
    Meta(
        min_length=1,
        max_length=MEMBERS_MAX,
        description="Jobs, or workflows nested up to five deep.",
        extra_json_schema=_ELEMENT,
    ),
]
StepId = Annotated[str, Meta(min_length=1, max_length=NAME_MAX)]


class WorkflowJob(JobRequest, kw_only=True):
    """A job of a workflow."""

    name: Nullable[ShortText] = UNSET


class _WorkflowDefinition(Struct, kw_only=True):
    name: Nullable[ShortText] = UNSET
    options: Nullable[Annotated[JobOptions, Meta(description="Defaults for every job.")]] = UNSET


class ChainRequest(_WorkflowDefinition, kw_only=True):
    """Steps, one after the other. Each is told the results of those before it."""

    type: Literal["chain"]
    steps: Elements


class GroupRequest(_WorkflowDefinition, kw_only=True):
    """Jobs that run side by side."""

    type: Literal["group"]
    jobs: Elements


class Callbacks(Struct, kw_only=True):
    """Jobs to run when all others have ended; at least one."""

    on_complete: Nullable[WorkflowJob] = UNSET
    on_success: Nullable[WorkflowJob] = UNSET
    on_failure: Nullable[WorkflowJob] = UNSET


CallbacksBody = Annotated[
    Callbacks, Meta(extra_json_schema=either(on_complete="object", on_success="object", on_failure="object"))
]


class BatchWorkflowRequest(_WorkflowDefinition, kw_only=True):
    """Jobs that run side by side, and jobs that follow on all of them."""

    type: Literal["batch"]
    jobs: Elements
    callbacks: CallbacksBody


class StepRequest(WorkflowJob, kw_only=True):
    """A job and what it waits for. A workflow nested in this one has these two attributes too."""

    id: StepId
    depends_on: Nullable[list[StepId]] = UNSET


class StepsRequest(_WorkflowDefinition, kw_only=True):
    """Steps that name what they wait for, without cycles. It has no `type`."""

    type: UnsetType | None = UNSET
    steps: Annotated[list[StepRequest], Meta(min_length=1, max_length=MEMBERS_MAX)]


class ElementError(Struct, kw_only=True):
    """Why an element failed."""

    code: str
    type: str
    message: str
    attempt: Count


class WorkflowError(ElementError, kw_only=True):
    """Why an element failed, and which."""

    step_id: str
    job_id: Maybe[JobId | None] = UNSET
    workflow_id: Maybe[JobId] = UNSET


class Callback(Struct, kw_only=True):
    """A callback of a batch, or what all elements have."""

    id: str
    type: str
    state: Literal["waiting", "pending", "active", "completed", "failed", "cancelled"]
    job_id: JobId | None
    name: Maybe[str] = UNSET
    args: Maybe[Array] = UNSET
    workflow_id: Maybe[JobId] = UNSET
    workflow: Maybe[Workflow] = UNSET
    result: Maybe[Any] = UNSET
    result_bytes: Maybe[
        Annotated[int, Meta(ge=0, description="Instead of a result that the workflow has no room for: its job has it.")]
    ] = UNSET
    started_at: Maybe[Time] = UNSET
    completed_at: Maybe[Time] = UNSET
    error: Maybe[ElementError] = UNSET


class Element(Callback, kw_only=True):
    """A step or job of a workflow."""

    index: Count
    depends_on: list[str]


class WorkflowMetadata(Struct, kw_only=True):
    """Times and counts; jobs of nested workflows are included."""

    created_at: Time
    job_count: Count
    completed_count: Count
    failed_count: Count
    started_at: Maybe[Time] = UNSET
    completed_at: Maybe[Time] = UNSET
    cancelled_at: Maybe[Time] = UNSET
    failed_callbacks: Maybe[dict[str, ElementError]] = UNSET


class Workflow(Struct, kw_only=True):
    """A workflow. A chain and steps with dependencies have `steps*`, a group and a batch `jobs*`."""

    id: JobId
    name: str | None
    state: Literal["running", "completed", "failed", "cancelled"]
    metadata: WorkflowMetadata
    created_at: Time
    type: Maybe[Literal["chain", "group", "batch"]] = UNSET
    steps_total: Maybe[Count] = UNSET
    steps_completed: Maybe[Count] = UNSET
    steps: Maybe[list[Element]] = UNSET
    jobs_total: Maybe[Count] = UNSET
    jobs_completed: Maybe[Count] = UNSET
    jobs_failed: Maybe[Count] = UNSET
    jobs: Maybe[list[Element]] = UNSET
    callbacks: Maybe[dict[str, Callback]] = UNSET
    parent_workflow_id: Maybe[JobId] = UNSET
    parent_step_index: Maybe[Count] = UNSET
    started_at: Maybe[Time] = UNSET
    completed_at: Maybe[Time] = UNSET
    cancelled_at: Maybe[Time] = UNSET
    steps_cancelled: Maybe[Count] = UNSET
    steps_already_completed: Maybe[Count] = UNSET
    failed_step_index: Maybe[Count] = UNSET
    failed_job_ids: Maybe[list[JobId]] = UNSET
    errors: Maybe[list[WorkflowError]] = UNSET


class WorkflowAnswer(Workflow, kw_only=True):
    """The workflow, wrapped and flat: clients read one or the other."""

    workflow: Workflow
