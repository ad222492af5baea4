"""The server itself, and errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct

from ojs_api.shapes.values import Count, Maybe, Object


class Content(Struct, frozen=True):
    """In the table of endpoints: an answer of this type, in a media type of its own."""

    media_type: str
    kind: Any


class Implementation(Struct, kw_only=True):
    """The program."""

    name: str
    version: str
    language: str


class Limits(Struct, kw_only=True):
    """What a request may hold."""

    max_envelope_bytes: Count
    max_result_bytes: Count
    max_body_bytes: Count
    max_batch: Count
    max_page: Count
    max_workflow_depth: Count
    max_workflow_jobs: Count
    max_workflow_bytes: Count
    max_workflow_result_bytes: Count


class Manifest(Struct, kw_only=True):
    """What this server is and can do. To a client that sends `OJS-Version: 1.0.0-rc.1`, `extensions` is an array."""

    specversion: Literal["1.0"]
    ojs_version: Literal["1.0"]
    implementation: Implementation
    conformance_level: Annotated[int, Meta(ge=0, le=4)]
    conformance_tier: str
    protocols: list[str]
    backend: str
    capabilities: dict[str, bool]
    schema_validation: bool
    unique_job_strength: Literal["strong", "best_effort"]
    unique_job_mechanism: str
    event_delivery: str
    durable: bool
    limits: Limits
    extensions: dict[str, list[Object]] | list[Object]
    endpoints: dict[str, str]
    test_suite_version: str


class BackendHealth(Struct, kw_only=True):
    """The store."""

    type: str
    status: Literal["connected", "disconnected"]
    latency_ms: Maybe[Count] = UNSET
    error: Maybe[str] = UNSET


class Health(Struct, kw_only=True):
    """Whether the server and its store work."""

    status: Literal["ok", "degraded"]
    version: str
    uptime_seconds: Count
    backend: BackendHealth


class Alive(Struct, kw_only=True):
    """The process is alive. `server_time` is in milliseconds since 1970."""

    status: Literal["ok"]
    server_time: Count


class Ready(Struct, kw_only=True):
    """Whether to send requests here."""

    status: Literal["ok", "draining"]


class ErrorFacts(Struct, kw_only=True):
    """What went wrong, whether the same request may succeed later, and what to do."""

    code: Annotated[str, Meta(min_length=1)]
    message: Annotated[str, Meta(min_length=1)]
    retryable: bool
    request_id: Annotated[str, Meta(description="The same as in the header X-Request-Id.")]
    hint: str
    docs_url: str
    doc_url: str
    type: Maybe[str] = UNSET
    details: Maybe[Object] = UNSET


class Error(Struct, kw_only=True):
    """An error."""

    error: ErrorFacts
