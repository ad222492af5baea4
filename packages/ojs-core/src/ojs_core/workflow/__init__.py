"""Workflows: chains, groups, batches and steps with dependencies, as pure functions of values (OJS workflows).

`parse_workflow` reads a definition, `start`, `advance` and `cancel` decide what follows from what happened, `render`
shows the state. Nothing here stores, claims or reads a clock; the caller commits what a decision asks for.
"""

from ojs_core.workflow.definition import DEFINITION_MAX_BYTES, MEMBERS_MAX, WORKFLOW_DEPTH_MAX, parse_workflow
from ojs_core.workflow.graph import DEPENDENCIES_MAX, NAME_MAX
from ojs_core.workflow.members import child_ids, open_job_ids
from ojs_core.workflow.outcome import Outcome, outcome_of_job, outcome_of_workflow, refusal
from ojs_core.workflow.progress import Cancellation, advance, cancel, reissue, start
from ojs_core.workflow.step import RESULTS_MAX_BYTES, Advance
from ojs_core.workflow.view import render

__all__ = [
    "DEFINITION_MAX_BYTES",
    "DEPENDENCIES_MAX",
    "MEMBERS_MAX",
    "NAME_MAX",
    "RESULTS_MAX_BYTES",
    "WORKFLOW_DEPTH_MAX",
    "Advance",
    "Cancellation",
    "Outcome",
    "advance",
    "cancel",
    "child_ids",
    "open_job_ids",
    "outcome_of_job",
    "outcome_of_workflow",
    "parse_workflow",
    "refusal",
    "reissue",
    "render",
    "start",
]
