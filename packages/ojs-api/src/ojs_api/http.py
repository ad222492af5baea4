"""From an ASGI request to a handler and back: bodies, headers, media types, authentication, errors.

Every endpoint is one `Endpoint` in a table; a handler takes a `Call` and returns a `Reply` and holds no rule of the
protocol. They are mounted in Litestar as ASGI routes: a typed Litestar handler costs two and a half times as much, and
turns a nesting bomb or invalid UTF-8 into a 500 (ADR 0003).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import parse_qsl

import msgspec
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send
from msgspec import Raw

from ojs_core.envelope import SPECVERSION, decode_object, invalid
from ojs_core.errors import (
    BackendUnavailableError,
    EnvelopeTooLargeError,
    InvalidPayloadError,
    InvalidRequestError,
    MethodNotAllowedError,
    OJSError,
    UnauthenticatedError,
    UnsupportedError,
)
from ojs_core.ids import uuid7
from ojs_core.paging import decode_cursor, encode_cursor
from ojs_core.service import Service

log = logging.getLogger("ojs.http")

OJS_MEDIA_TYPE = b"application/openjobspec+json"
JSON_MEDIA_TYPE = b"application/json"
VERSION = "1.0"
DRAFT = "1.0.0-rc.1"
"""The version of the prose binding; clients that name it read a few answers in its older form (Q-05)."""
REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,200}")

encode = msgspec.json.Encoder().encode


class Reply:
    """An answer: status, JSON body, and headers beyond those every answer has."""

    __slots__ = ("body", "headers", "media_type", "status")

    def __init__(
        self,
        body: object,
        status: int = 200,
        headers: Sequence[tuple[bytes, bytes]] = (),
        media_type: bytes | None = None,
    ) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else encode(body)
        self.headers = headers
        self.media_type = media_type


class Disconnected(Exception):  # noqa: N818 - not an error: nobody is left to answer
    """The client went away before its request was complete."""


class Call:
    """A request as a handler sees it."""

    __slots__ = ("_receive", "body", "headers", "path_params", "query_string", "request_id", "service")

    def __init__(self, scope: HTTPScope, receive: Receive, service: Service) -> None:
        self.service = service
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.path_params: Mapping[str, Any] = scope.get("path_params") or {}
        self.query_string: bytes = scope.get("query_string", b"")
        self.body = b""
        self._receive = receive
        given = self.headers.get(b"x-request-id", b"")
        self.request_id = given if REQUEST_ID.fullmatch(given) else b"req_" + uuid7(service.clock.now()).encode()

    async def read_body(self, most: int) -> None:
        """Receive the body, at most `most` bytes."""
        declared = self.headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > most:
            raise too_large(int(declared), most)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise Disconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > most:
                raise too_large(size, most)
            chunks.append(chunk)
            if not message.get("more_body"):
                self.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                return

    async def disconnected(self) -> None:
        """Return when the client has gone away. Only after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def json(self) -> tuple[dict[str, Any], dict[str, Raw]]:
        """Return the body, a JSON object, as values and as the texts of its members."""
        if not self.body:
            raise InvalidPayloadError("The body is empty; a JSON object is needed.")
        return decode_object(self.body)

    def optional_json(self) -> tuple[dict[str, Any], dict[str, Raw]]:
        """Return the body like `json`; none at all counts as `{}` (C-HTTP-09)."""
        return decode_object(self.body) if self.body.strip() else ({}, {})

    def query(self) -> dict[str, str]:
        """Return the query parameters; of a repeated one the last counts."""
        try:
            return dict(parse_qsl(self.query_string.decode("ascii"), keep_blank_values=True, errors="strict"))
        except ValueError:
            raise InvalidRequestError("The query string is not URL-encoded UTF-8.", field="query") from None

    @property
    def speaks_draft(self) -> bool:
        """Whether the client named the draft version of the binding."""
        return self.headers.get(b"ojs-version", b"").decode("latin-1") == DRAFT


Handler = Callable[[Call], Awaitable[Reply]]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path. The texts and types are for the OpenAPI document."""

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    status: int = 200
    request: Any = None
    response: Any = None
    errors: tuple[type[OJSError], ...] = ()
    query: tuple[str, ...] = ()
    public: bool = False
    hidden: bool = False
    body: bool = False


class Endpoints:
    """A list of endpoints that grows by decorating handlers."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.all: list[Endpoint] = []

    def add(self, method: str, path: str, summary: str, **rest: Any) -> Callable[[Handler], Handler]:
        """Register the decorated handler for a method and path. POST, PUT and PATCH read a body."""

        def register(handler: Handler) -> Handler:
            body = method in ("POST", "PUT", "PATCH")
            self.all.append(
                Endpoint(method=method, path=path, handler=handler, summary=summary, tag=self.tag, body=body, **rest)
            )
            return handler

        return register


class Gate:
    """What every request passes: version, key, media type, size; and what every answer carries."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._keys = tuple(key.encode() for key in service.settings.api_keys)
        self._body_max = service.settings.body_max_bytes

    def route(self, endpoints: Mapping[str, Endpoint]) -> ASGIApp:
        """Return the ASGI application of one path; `endpoints` by method."""
        allowed = allow_header(endpoints)

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            # The server is configured for no other protocol.
            http = cast("HTTPScope", scope)
            call = Call(http, receive, self._service)
            try:
                method = http["method"]
                endpoint = endpoints.get("GET" if method == "HEAD" else method)
                if method == "OPTIONS":
                    reply = Reply(b"", 204, ((b"allow", allowed.encode()),))
                elif endpoint is None:
                    reply = method_not_allowed(method, allowed, call)
                else:
                    reply = await self._answer(endpoint, call)
            except OJSError as error:
                reply = error_reply(error, call)
            except Disconnected:
                return
            except asyncio.CancelledError:
                if not self._service.stopping:
                    raise
                reply = error_reply(BackendUnavailableError("The server stopped before this was finished."), call)
            except Exception:
                log.exception("Request %s failed.", call.request_id.decode())
                reply = error_reply(OJSError("The server failed to answer."), call)
            await send_reply(reply, call, send)

        return application

    async def _answer(self, endpoint: Endpoint, call: Call) -> Reply:
        headers = call.headers
        if self._keys and not endpoint.public:
            self._authenticate(headers.get(b"authorization", b""))
        version = headers.get(b"ojs-version")
        if version is not None and not SPECVERSION.fullmatch(version.strip().decode("latin-1")):
            raise UnsupportedError(
                "This server speaks OJS-Version 1.0.",
                field="OJS-Version",
                expected="1.0",
                received=version[:50].decode("latin-1"),
            )
        if endpoint.body:
            check_content_type(headers.get(b"content-type"))
            await call.read_body(self._body_max)
        return await endpoint.handler(call)

    def _authenticate(self, authorization: bytes) -> None:
        """Compare with every key in constant time: the clock tells neither a key nor its position."""
        scheme, _, given = authorization.partition(b" ")
        matches = [hmac.compare_digest(key, given.strip()) for key in self._keys]
        if scheme.lower() != b"bearer" or not any(matches):
            raise UnauthenticatedError("A valid API key is needed.")


def check_content_type(value: bytes | None) -> None:
    """Refuse a body in another media type; a missing header counts as JSON (C-HTTP-04)."""
    if value in (None, OJS_MEDIA_TYPE, JSON_MEDIA_TYPE):
        return
    if value.partition(b";")[0].strip().lower() not in (OJS_MEDIA_TYPE, JSON_MEDIA_TYPE):
        raise InvalidRequestError(
            "The body must be application/openjobspec+json or application/json.",
            field="Content-Type",
            expected=OJS_MEDIA_TYPE.decode(),
            received=value[:100].decode("latin-1"),
        )


def too_large(size: int, most: int) -> EnvelopeTooLargeError:
    """Make the error for a body over the limit of the server."""
    return EnvelopeTooLargeError(f"A body may have {most} bytes.", actual_bytes=size, max_bytes=most)


def error_body(error: OJSError, request_id: str) -> dict[str, Any]:
    """Return the body of an error (C-ERR-01, C-ERR-02)."""
    docs_url = f"/ojs/v1/docs#error-{error.code}"
    body: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
        "request_id": request_id,
        "hint": error.hint,
        "docs_url": docs_url,
        "doc_url": docs_url,
    }
    if error.code == "validation_error":
        body["type"] = error.code
    if error.details:
        body["details"] = error.details
    return {"error": body}


def error_reply(error: OJSError, call: Call) -> Reply:
    """Return the answer for an error."""
    headers: list[tuple[bytes, bytes]] = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if error.status == UnauthenticatedError.status:
        headers.append((b"www-authenticate", b'Bearer realm="ojs"'))
    return Reply(error_body(error, call.request_id.decode()), error.status, headers)


def allow_header(methods: Iterable[str]) -> str:
    """Return what an `Allow` header says of a path with these methods."""
    listed = {*methods, "OPTIONS"}
    return ", ".join(sorted(listed | {"HEAD"} if "GET" in listed else listed))


def method_not_allowed(method: str, allowed: str, call: Call) -> Reply:
    """Return the answer for a path that exists, but not with this method."""
    reply = error_reply(MethodNotAllowedError(f"This path answers {allowed}, not {method[:20]}."), call)
    reply.headers = [*reply.headers, (b"allow", allowed.encode())]
    return reply


def media_type_for(accept: bytes) -> bytes:
    """Return the media type to answer in: plain JSON for who asks for that and not for ours, else ours (Q-24)."""
    if JSON_MEDIA_TYPE in accept and OJS_MEDIA_TYPE not in accept:
        return JSON_MEDIA_TYPE
    return OJS_MEDIA_TYPE


def all_headers(reply: Reply, call: Call) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer: those every answer has, and its own (C-HTTP-02)."""
    headers = [
        (b"content-type", reply.media_type or media_type_for(call.headers.get(b"accept", b""))),
        (b"ojs-version", VERSION.encode()),
        (b"x-request-id", call.request_id),
        *reply.headers,
    ]
    # RFC 9110 §8.6 forbids it in a 204, where a reader might wait for a body.
    if reply.status != HTTPStatus.NO_CONTENT:
        headers.append((b"content-length", b"%d" % len(reply.body)))
    return headers


async def send_reply(reply: Reply, call: Call, send: Send) -> None:
    """Send an answer."""
    await send({"type": "http.response.start", "status": reply.status, "headers": all_headers(reply, call)})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})


# Reading fields of bodies and query strings.


def required_text(body: Mapping[str, Any], field: str, most: int = 255) -> str:
    """Return a text that must be there."""
    value = optional_text(body, field, most)
    if not value:
        raise invalid(field, f"a text of 1 to {most} characters", body.get(field))
    return value


def optional_text(body: Mapping[str, Any], field: str, most: int = 255) -> str | None:
    """Return a text, or None if it is absent or null."""
    value = body.get(field)
    if value is not None and (not isinstance(value, str) or len(value) > most):
        raise invalid(field, f"a text of at most {most} characters", value)
    return value


def optional_whole(body: Mapping[str, Any], field: str, most: int, least: int = 0) -> int | None:
    """Return a whole number, or None if it is absent or null."""
    value = body.get(field)
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise invalid(field, f"a whole number from {least} to {most}", value)
    return value


def texts(body: Mapping[str, Any], field: str, most: int) -> tuple[str, ...] | None:
    """Return an array of texts, or None if it is absent or null."""
    value = body.get(field)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > most or not all(isinstance(item, str) for item in value):
        raise invalid(field, f"an array of at most {most} texts", value)
    return tuple(value)


PAGE_DEFAULT = 50
PAGE_MAX = 200


class Paging(msgspec.Struct, frozen=True):
    """Which page of a list is asked for (C-PAG-01)."""

    limit: int
    offset: int
    cursor: str | None


def paging(query: Mapping[str, str]) -> Paging:
    """Read `limit`, `offset` and `cursor`; a limit above the maximum is taken as the maximum."""
    limit = whole_parameter(query, "limit", PAGE_DEFAULT, least=1)
    return Paging(
        limit=min(limit, PAGE_MAX),
        offset=whole_parameter(query, "offset", 0, least=0),
        cursor=query.get("cursor") or None,
    )


def whole_parameter(query: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    """Return a whole number among the query parameters."""
    text = query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < least:  # noqa: PLR2004 - fits any store
        raise invalid(name, f"a whole number from {least} to 999999999", text)
    return int(text)


def pagination(total: int, page: Paging, shown: int, next_cursor: str | None) -> dict[str, Any]:
    """Return the `pagination` object (C-PAG-02)."""
    view: dict[str, Any] = {
        "total": total,
        "has_more": next_cursor is not None,
        "limit": page.limit,
        "offset": page.offset,
        "count": shown,
    }
    if next_cursor is not None:
        view["next_cursor"] = next_cursor
    return view


class Named(Protocol):
    """A record with a name."""

    @property
    def name(self) -> str:
        """What the records of its kind are listed by."""


Listed = TypeVar("Listed", bound=Named)


def page_by_name(records: Sequence[Listed], page: Paging) -> tuple[Sequence[Listed], dict[str, Any]]:
    """Return the page of records that are in the order of their names, and its `pagination` object."""
    start = page.offset
    if page.cursor is not None:
        _, after = decode_cursor(page.cursor)
        start = sum(record.name <= after for record in records)
    shown = records[start : start + page.limit]
    more = start + len(shown) < len(records)
    cursor = encode_cursor((0, shown[-1].name)) if shown and more else None
    return shown, pagination(len(records), page, len(shown), cursor)
