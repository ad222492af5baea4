"""What the fuzzer cannot read in the document. Each exception has a test of its own."""

from __future__ import annotations

import re
from typing import Any

import schemathesis
from schemathesis import Case, Response

HOLD_JOBS = {"jobs_enqueue", "jobs_enqueue_batch", "crons_register", "workflows_create"}

BETWEEN_FIELDS = re.compile(
    r"cursor|after"  # opaque: only those that were given out
    r"|(.*\.)?(expression|cron|timezone)"  # texts in languages of their own
    r"|(.*\.)?retry\.(initial|max)_interval(_ms)?"  # one must not be shorter than the other; at most a century
    r"|(.*\.)?unique\.(args_keys|meta_keys|keys|period)"  # something else must be in the job; at most a century
    r"|(.*\.)?(pending|scheduled_at|delay_until|expires_at|visibility_timeout)"  # not together; before the year 10000
    r"|(.*\.)?(steps|jobs)(\[\d+\])?(\.(id|depends_on(\[\d+\])?))?"  # names must differ and exist; no circle; depth
)
"""Fields that can be refused whatever the schema says of them, because of what is beside them."""


def whole(value: Any) -> Any:
    """Return a JSON value with 1 for 1.0, which is an integer to JSON Schema and none to OJS (C-ENV-09)."""
    if isinstance(value, dict):
        return {key: whole(member) for key, member in value.items()}
    if isinstance(value, list):
        return [whole(member) for member in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@schemathesis.hook
def filter_case(_: Any, case: Case) -> bool:
    """Tell whether a request is sent: those on the edge not twice, for either media type; the same code reads both."""
    made_up = case.meta is None or case.meta.phase.name != "coverage"
    return made_up or case.media_type != "application/json"


@schemathesis.hook
def before_call(_: Any, case: Case, **__: Any) -> None:
    """Write integers as such, and shorten long polls, the one thing that takes time."""
    body = whole(case.body)
    # What is set anew counts as the hook's own; and 1.0 == 1.
    if repr(body) != repr(case.body):
        case.body = body
    body = case.body
    if isinstance(body, dict) and type(body.get("wait_ms")) is int and 1 < body["wait_ms"] <= 30_000:
        body["wait_ms"] = 1


@schemathesis.hook
def filter_failure(_: Any, failure: Any, case: Case, response: Response) -> bool:
    """Tell whether a failure counts."""
    operation_id = case.operation.definition.raw["operationId"]
    match type(failure).__name__:
        case "RejectedPositiveData":
            details = response.json()["error"].get("details", {})
            return not BETWEEN_FIELDS.fullmatch(str(details.get("field")))
        case "AcceptedNegativeData":
            # What `options` override, or one spelling another, is not read.
            return operation_id not in HOLD_JOBS
    return True
