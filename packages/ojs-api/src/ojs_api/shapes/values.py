"""Texts and numbers with a rule, as types: the patterns and bounds that core checks, for the document."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from msgspec import Meta, UnsetType

from ojs_core.duration import DURATION_CHARACTERS_MAX, DURATION_MS_MAX
from ojs_core.envelope import JOB_TYPE, NAMED_PRIORITIES, QUEUE_MAX, QUEUE_NAME, TIMEOUT_MAX_MS, TYPE_MAX
from ojs_core.service.crons import CRON_NAME, NAME_MAX

Given = TypeVar("Given")
Nullable: TypeAlias = Given | UnsetType | None
"""Of a request: may be left out, and `null` means the same (C-ENV-25)."""
Maybe: TypeAlias = Given | UnsetType
"""Of an answer: left out where it has no meaning."""

Object: TypeAlias = dict[str, Any]
Array: TypeAlias = list[Any]


def either(**kinds: str) -> dict[str, Any]:
    """Return the JSON Schema of an object in which at least one of these members is there, of this type."""
    return {"anyOf": [{"required": [name], "properties": {name: {"type": kind}}} for name, kind in kinds.items()]}


_UUID7 = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_DURATION = "P(?=[0-9T])([0-9]+Y)?([0-9]+M)?([0-9]+W)?([0-9]+D)?(T(?=[0-9])([0-9]+H)?([0-9]+M)?([0-9]+([.][0-9]+)?S)?)?"
# What the priorities' names look like in any mixture of cases.
_NAMED = "|".join("".join(f"[{letter}{letter.lower()}]" for letter in name) for name in NAMED_PRIORITIES)

JobId: TypeAlias = Annotated[str, Meta(pattern=f"^{_UUID7}$", description="UUIDv7 in lower case.")]
JobType: TypeAlias = Annotated[
    str, Meta(pattern=f"^{JOB_TYPE.pattern}$", max_length=TYPE_MAX, description="Lower-case words joined by dots.")
]
QueueName: TypeAlias = Annotated[str, Meta(pattern=f"^{QUEUE_NAME.pattern}$", max_length=QUEUE_MAX)]
CronName: TypeAlias = Annotated[str, Meta(pattern=f"^{CRON_NAME.pattern}$", max_length=NAME_MAX)]
WorkerId: TypeAlias = Annotated[str, Meta(max_length=255, description="The worker's own name for itself.")]
LeaseId: TypeAlias = Annotated[
    str, Meta(max_length=255, description="The token of one claim; refused once the lease has lapsed.")
]
ShortText: TypeAlias = Annotated[str, Meta(max_length=255)]
SpecVersion: TypeAlias = Annotated[str, Meta(pattern=r"^1([.]0([.][0-9]+)?(-[0-9A-Za-z.\-]+)?)?$", examples=["1.0"])]

Time: TypeAlias = Annotated[
    str, Meta(description="RFC 3339, UTC, milliseconds.", extra_json_schema={"format": "date-time"})
]
TimeAsSent: TypeAlias = Annotated[
    str, Meta(description="RFC 3339, as the client wrote it.", extra_json_schema={"format": "date-time"})
]
Instant: TypeAlias = Annotated[
    str,
    Meta(
        description="RFC 3339 with a zone, or `+` and an ISO 8601 duration that counts from receipt.",
        examples=["2030-01-01T00:00:00Z", "+PT30S"],
        extra_json_schema={
            "anyOf": [
                {"format": "date-time"},
                {"pattern": f"^[+]{_DURATION}$", "maxLength": DURATION_CHARACTERS_MAX + 1},
            ]
        },
    ),
]
Duration: TypeAlias = Annotated[
    str,
    Meta(
        pattern=f"^{_DURATION}$",
        max_length=DURATION_CHARACTERS_MAX,
        description="ISO 8601, at most 100 years.",
        examples=["PT30S", "P1DT12H"],
    ),
]
Milliseconds: TypeAlias = Annotated[int, Meta(ge=0, le=TIMEOUT_MAX_MS, description="0 asks for the default.")]
Seconds: TypeAlias = Annotated[int, Meta(ge=0, le=TIMEOUT_MAX_MS // 1000, description="0 asks for the default.")]
PolicyMilliseconds: TypeAlias = Annotated[int, Meta(ge=1, le=DURATION_MS_MAX)]

Count: TypeAlias = Annotated[int, Meta(ge=0)]
Priority: TypeAlias = Annotated[int, Meta(ge=-100, le=100, description="Higher goes first.")]
NamedPriority: TypeAlias = Annotated[
    str, Meta(pattern=f"^({_NAMED})$", description="10, 0 and -10 by name.", examples=[*NAMED_PRIORITIES])
]
JobStateName: TypeAlias = Literal[
    "scheduled", "available", "pending", "active", "completed", "retryable", "cancelled", "discarded"
]
WorkerStateName: TypeAlias = Literal["running", "quiet", "terminate"]
