"""The OpenAPI 3.1 document, made from the table of endpoints and the wire types of `ojs_api.shapes`.

`python -m ojs_api.openapi` prints it. It is ASCII only, so that no reader can get its encoding wrong.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from importlib.metadata import version
from types import UnionType
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta

from ojs_api import protocol, shapes
from ojs_api.http import JSON_MEDIA_TYPE, OJS_MEDIA_TYPE, PAGE_DEFAULT, PAGE_MAX, Endpoint
from ojs_api.shapes import Content
from ojs_api.shapes.values import CronName, QueueName, SpecVersion
from ojs_core import errors
from ojs_core.errors import OJSError

MEDIA_TYPES: Final = (OJS_MEDIA_TYPE.decode(), JSON_MEDIA_TYPE.decode())
_PARAMETER: Final = re.compile(r"\{(\w+):str\}")

_TimeOrNone = Annotated[str, Meta(extra_json_schema={"anyOf": [{"format": "date-time"}, {"maxLength": 0}]})]
_Page = Annotated[int, Meta(ge=1, le=999_999_999)]
PARAMETERS: Final[Mapping[str, tuple[Any, str]]] = {
    "path.job_id": (str, "Id of the job. One that is no UUIDv7 is not found."),
    "path.workflow_id": (str, "Id of the workflow."),
    "path.worker_id": (str, "What the worker calls itself."),
    "Queues.path.name": (QueueName, "Name of the queue."),
    "Cron.path.name": (CronName, "Name of the cron entry."),
    "limit": (_Page, f"Entries on a page: {PAGE_DEFAULT} if not given, {PAGE_MAX} at most; more counts as that."),
    "Events.limit": (_Page, "Events in an answer: 100 if not given, 1000 at most; more counts as that."),
    "offset": (Annotated[int, Meta(ge=0, le=999_999_999)], "Entries to pass over. A cursor is the better way on."),
    "cursor": (str, "`next_cursor` of the page before."),
    "queue": (str, "Only of this queue."),
    "type": (str, "Only of this job type."),
    "error_type": (str, "Only with a last error of this type."),
    "since": (_TimeOrNone, "Only those discarded then or later."),
    "until": (_TimeOrNone, "Only those discarded before."),
    "enabled": (Literal["true", "false", ""], "Only those that are switched on, or off."),
    "types": (str, "Only of these event types, joined by commas; `job.*` stands for all that begin so."),
    "queues": (str, "Only about these queues, joined by commas."),
    "job_types": (str, "Only about these job types, joined by commas."),
    "after": (str, "Only later than the event of this id: `cursor` of the answer before."),
}
"""Type and meaning of each parameter, under `tag.name` where one endpoint differs from the others."""

LOCATED: Final = ("/ojs/v1/jobs", "/ojs/v1/workflows")
"""Paths whose 201 says where to find what was made (C-HTTP-08)."""

_ONE_JOB: Final = ("jobs_info", "jobs_cancel", "jobs_activate", "workers_ack_one", "workers_nack_one")
LINKS: Final[Mapping[str, tuple[str, str, Sequence[str]]]] = {
    "jobs_enqueue": ("job_id", "job/id", _ONE_JOB),
    "workers_fetch": ("job_id", "job/id", ("workers_ack_one", "workers_nack_one")),
    "workers_nack_one": ("job_id", "job/id", ("dead_letter_read", "dead_letter_retry", "dead_letter_delete")),
    "crons_register": ("name", "cron/name", ("crons_read", "crons_switch", "crons_delete")),
    "workflows_create": ("workflow_id", "workflow/id", ("workflows_read", "workflows_cancel")),
}
"""What can be done with what an operation answers: the parameter, where its value stands, and with which operations."""

PHRASES: Final[Mapping[int, str]] = {
    200: "OK",
    201: "Created",
    400: "Bad request",
    401: "No valid key",
    404: "Not found",
    409: "Conflict",
    413: "Too large",
    422: "Refused",
    500: "Fault of the server",
    503: "Not now",
}
"""What the statuses of endpoints mean. Python's own phrases change from release to release."""

HEADERS: Final[Mapping[str, tuple[Any, str]]] = {
    "OJS-Version": (str, "Version of the protocol."),
    "X-Request-Id": (str, "The id of the request, as sent by the client or made up."),
    "Location": (str, "Path of what was made."),
    "Retry-After": (Annotated[int, Meta(ge=1)], "Seconds to wait before trying again."),
    "WWW-Authenticate": (str, "How to authenticate."),
}


def error_classes() -> list[type[OJSError]]:
    """Return every error a client can get, in the order of their status, then code."""
    modules = (errors, protocol)
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, OJSError)
    }
    return sorted(found, key=lambda error: (error.status, error.code, error.__name__))


def errors_of(endpoint: Endpoint, *, keys: bool) -> list[type[OJSError]]:
    """Return what can go wrong with an endpoint, what holds for all of them included."""
    found = [*endpoint.errors, errors.UnsupportedError, OJSError, errors.BackendUnavailableError]
    if endpoint.body:
        found += [errors.InvalidPayloadError, errors.InvalidRequestError, errors.EnvelopeTooLargeError]
    if endpoint.query:
        found.append(errors.InvalidRequestError)
    if keys and not endpoint.public:
        found.append(errors.UnauthenticatedError)
    return sorted(set(found), key=lambda error: (error.status, error.code, error.__name__))


def operation_id(endpoint: Endpoint) -> str:
    """Return the name of an endpoint's handler, with that of its module."""
    module = endpoint.handler.__module__.rpartition(".")[2]
    return f"{module}_{endpoint.handler.__name__}"


def path_of(endpoint: Endpoint) -> str:
    """Return an endpoint's path as OpenAPI writes it: `{name}`, where the router has `{name:str}`."""
    return _PARAMETER.sub(r"{\1}", endpoint.path)


def types_of(value: Any) -> tuple[Any, ...]:  # noqa: ANN401 - whatever stands in an endpoint
    """Return the types in an endpoint's `request` or `response`.

    It is a type, several in a tuple if one of them is meant, types by status in a mapping, a `Content`, or `X | None`
    for a body that may be missing.
    """
    if value is None:
        return ()
    if isinstance(value, Content):
        return (value.kind,)
    if isinstance(value, Mapping):
        return tuple(kind for kinds in value.values() for kind in types_of(kinds))
    if isinstance(value, tuple):
        return value
    return tuple(kind for kind in get_args(value) if kind is not type(None)) if may_be_missing(value) else (value,)


def may_be_missing(request: object) -> bool:
    """Tell whether a request need not have a body."""
    return isinstance(request, UnionType) and type(None) in get_args(request)


def make_document(endpoints: Iterable[Endpoint], *, keys: bool = False) -> dict[str, Any]:
    """Return the document.

    Args:
        endpoints: what is to be described; hidden ones are left out.
        keys: whether the server asks for an API key.
    """
    shown = [endpoint for endpoint in endpoints if not endpoint.hidden]
    schemas = _Schemas(shown)
    responses: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in shown:
        operation = _operation(endpoint, schemas, responses, keys=keys)
        paths.setdefault(path_of(endpoint), {})[endpoint.method.lower()] = operation
    components: dict[str, Any] = {
        "schemas": schemas.components,
        "responses": responses,
        "headers": {name: {"description": text, "schema": schemas.of(kind)} for name, (kind, text) in HEADERS.items()},
        "parameters": {
            "OJS-Version": {
                "name": "OJS-Version",
                "in": "header",
                "description": "Version of the protocol the client speaks.",
                "schema": schemas.of(SpecVersion),
            },
            "X-Request-Id": {
                "name": "X-Request-Id",
                "in": "header",
                "description": "Comes back with the answer if it has 1 to 200 printable characters without blanks.",
                "schema": {"type": "string"},
            },
        },
    }
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ojs-server",
            "version": version("ojs-api"),
            "summary": "A job server that speaks Open Job Spec 1.0.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(endpoint.tag for endpoint in shown)],
        "paths": paths,
        "components": components,
        **({"security": [{"key": []}]} if keys else {}),
    }


def encode_document(document: Mapping[str, Any]) -> bytes:
    """Return a document as ASCII JSON."""
    return json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode("ascii")


class _Schemas:
    """The JSON Schemas of all types in the document."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        kinds = [kind for endpoint in endpoints for kind in (*types_of(endpoint.request), *types_of(endpoint.response))]
        # WorkflowJob is named by the schemas of workflows without being a type msgspec sees there.
        kinds += [shapes.Error, shapes.WorkflowJob, SpecVersion]
        kinds += [kind for kind, _ in (*PARAMETERS.values(), *HEADERS.values())]
        found, self.components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
        self._schemas = dict(zip(kinds, found, strict=True))

    def of(self, *kinds: Any) -> dict[str, Any]:
        """Return the schema of one of the types."""
        schemas = [self._schemas[kind] for kind in kinds]
        return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _operation(endpoint: Endpoint, schemas: _Schemas, shared: dict[str, Any], *, keys: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": operation_id(endpoint),
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "parameters": _parameters(endpoint, schemas),
        "responses": _responses(endpoint, schemas, shared, keys=keys),
    }
    if endpoint.request is not None:
        kinds = types_of(endpoint.request)
        operation["requestBody"] = {
            "required": not may_be_missing(endpoint.request),
            "content": {media_type: {"schema": schemas.of(*kinds)} for media_type in MEDIA_TYPES},
        }
    if keys and endpoint.public:
        operation["security"] = []
    return operation


def _parameters(endpoint: Endpoint, schemas: _Schemas) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    for name in _PARAMETER.findall(endpoint.path):
        kind, text = _parameter(endpoint, f"path.{name}")
        parameters.append(
            {"name": name, "in": "path", "required": True, "description": text, "schema": schemas.of(kind)}
        )
    for name in endpoint.query:
        kind, text = _parameter(endpoint, name)
        parameters.append({"name": name, "in": "query", "description": text, "schema": schemas.of(kind)})
    parameters += [{"$ref": f"#/components/parameters/{name}"} for name in ("OJS-Version", "X-Request-Id")]
    return parameters


def _parameter(endpoint: Endpoint, name: str) -> tuple[Any, str]:
    return PARAMETERS.get(f"{endpoint.tag}.{name}") or PARAMETERS[name]


def _responses(endpoint: Endpoint, schemas: _Schemas, shared: dict[str, Any], *, keys: bool) -> dict[str, Any]:
    """Return the answers by status. Those that are nothing but an error are put among the shared ones."""
    given = endpoint.response if isinstance(endpoint.response, Mapping) else {endpoint.status: endpoint.response}
    failures: dict[int, set[str]] = {}
    for error in errors_of(endpoint, keys=keys):
        failures.setdefault(error.status, set()).add(error.code)
    responses: dict[str, Any] = {}
    for status in sorted({*given, *failures}):
        codes = sorted(failures.get(status, ()))
        if status not in given:
            name = ".".join([str(int(status)), *codes])
            shared[name] = _response(endpoint, status, [_error(codes)], codes)
            responses[str(int(status))] = {"$ref": f"#/components/responses/{name}"}
            continue
        answers = [schemas.of(kind) for kind in types_of(given[status])]
        if codes:
            answers.append(_error(codes))
        responses[str(int(status))] = _response(endpoint, status, answers, codes)
    return responses


def _response(endpoint: Endpoint, status: int, answers: list[dict[str, Any]], codes: Sequence[str]) -> dict[str, Any]:
    only = endpoint.response if not codes else None
    media_types = (only.media_type,) if isinstance(only, Content) else MEDIA_TYPES
    schema = answers[0] if len(answers) == 1 else {"anyOf": answers}
    parameter, place, operations = LINKS.get(operation_id(endpoint), ("", "", ()))
    links = {name: {"operationId": name, "parameters": {parameter: f"$response.body#/{place}"}} for name in operations}
    return {
        "description": ", ".join([PHRASES[status], *(f"`{code}`" for code in codes)]),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in _headers(endpoint, status)},
        "content": {media_type: {"schema": schema} for media_type in media_types},
        **({"links": links} if links and not codes else {}),
    }


def _error(codes: Sequence[str]) -> dict[str, Any]:
    """Return the schema of an error with one of these codes."""
    code = {"type": "object", "properties": {"code": {"enum": codes}}}
    return {"allOf": [{"$ref": "#/components/schemas/Error"}, {"properties": {"error": code}}]}


def _headers(endpoint: Endpoint, status: int) -> list[str]:
    """Return the headers of an answer that are worth knowing."""
    names = ["OJS-Version", "X-Request-Id"]
    if status == HTTPStatus.CREATED and endpoint.path in LOCATED:
        names.append("Location")
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        names.append("Retry-After")
    if status == HTTPStatus.UNAUTHORIZED:
        names.append("WWW-Authenticate")
    return names


def main() -> None:
    """Print the document of a server that asks for keys."""
    from ojs_api.handlers import ENDPOINTS  # noqa: PLC0415 - one of the handlers serves this module's work

    sys.stdout.write(json.dumps(make_document(ENDPOINTS, keys=True), indent=2) + "\n")


if __name__ == "__main__":
    main()
