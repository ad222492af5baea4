"""Every way an operation can fail, one class per meaning.

A class carries its wire code (OJS HTTP §16.3), its HTTP status and whether a client may simply try again, so that the
mapping exists once. The message says what is wrong and, where it helps, what to do next; it never holds a connection
string, a secret or a stack trace. Backends raise `BackendUnavailableError` with the client library's exception chained;
no other exception of a driver crosses the seam.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class OJSError(Exception):
    """The server failed on a request that it should have served.

    The base of every other error here.

    Attributes:
        code: wire code (`error.code`).
        status: HTTP status.
        retryable: whether the same request may succeed later.
        details: JSON-able facts for `error.details`.
        retry_after_s: whole seconds for `Retry-After`, where the error asks for a pause.
    """

    code: ClassVar[str] = "x_internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = True
    hint: ClassVar[str] = "This is a fault of the server. The log line with the same request id says more."
    retry_after_s: int | None = None

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = {key: value for key, value in details.items() if value is not None}


class InvalidPayloadError(OJSError):
    """The body is not a JSON object (C-ERR-05)."""

    code = "invalid_payload"
    status = 400
    retryable = False
    hint = "Send a UTF-8 JSON object."


class InvalidRequestError(OJSError):
    """A field is missing or has a value that is not allowed (C-ERR-06)."""

    code = "invalid_request"
    status = 400
    retryable = False
    hint = "Correct the named field and send the request again."


class InvalidRetryPolicyError(OJSError):
    """The retry policy breaks a rule (C-ERR-04); the message names the field."""

    code = "validation_error"
    status = 422
    retryable = False
    hint = "Correct the named field of options.retry and send the request again."


class UnsupportedError(OJSError):
    """Understood, but this server does not offer it."""

    code = "unsupported"
    status = 422
    retryable = False
    hint = "GET /ojs/manifest lists what this server supports."


class EnvelopeTooLargeError(OJSError):
    """A job, or a whole body, is over the documented size."""

    code = "envelope_too_large"
    status = 413
    retryable = False
    hint = "Keep large data elsewhere and pass a reference in args."


class MetadataTooLargeError(OJSError):
    """`meta` is over the documented size."""

    code = "metadata_too_large"
    status = 413
    retryable = False
    hint = "Keep meta small; it travels with every answer about the job."


class NotFoundError(OJSError):
    """No such job, dead letter, queue, cron entry, workflow or worker."""

    code = "not_found"
    status = 404
    retryable = False
    hint = "Check the identifier. Finished jobs are removed when their retention ends."


class RouteNotFoundError(NotFoundError):
    """No such path."""

    hint = "GET /ojs/v1/openapi.json lists every path of this server."


class MethodNotAllowedError(OJSError):
    """The path exists, but not with this method."""

    code = "x_method_not_allowed"
    status = 405
    retryable = False
    hint = "The Allow header lists the methods of this path."


class StateConflictError(OJSError):
    """The job, workflow or reservation is not in the state the operation needs (C-LC-01)."""

    code = "conflict"
    status = 409
    retryable = False
    hint = "Read the current state before deciding what to do."


class DuplicateJobError(OJSError):
    """The id is taken, or a unique policy with `reject` found a job (C-ENV-04, C-UNQ-07)."""

    code = "duplicate"
    status = 409
    retryable = False
    hint = "details.existing_job_id names the job that is already there."


class UnauthenticatedError(OJSError):
    """No key, or a wrong one."""

    code = "unauthenticated"
    status = 401
    retryable = False
    hint = "Send 'Authorization: Bearer <key>' with a key from OJS_API_KEY."


class BackendUnavailableError(OJSError):
    """The store did not answer, or refused. The change may have happened or not; its guard makes a retry safe."""

    code = "backend_error"
    status = 503
    retryable = True
    retry_after_s = 1
    hint = "The store behind this server is unreachable or out of room. Retry after the given time."


class PartlyUnavailableError(BackendUnavailableError):
    """Some requests of a call were served and some were not, as a part of the store is down.

    `answers` has what each request got, in their order; None for those this error is the answer to.
    """

    def __init__(self, message: str, answers: Sequence[Any]) -> None:
        super().__init__(message)
        self.answers = answers


class SettingsError(Exception):
    """A setting is missing or makes no sense; raised before anything is served. The message names the variable."""


class BackendNotInstalledError(SettingsError):
    """`OJS_BACKEND` names a backend that no installed package provides."""
