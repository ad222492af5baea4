"""Limits on what one HTTP client may take, put around uvicorn's httptools protocol.

uvicorn alone takes a header of any size, waits for ever for the rest of a request and answers malformed HTTP as text.
`GuardedProtocol` bounds bytes, counts and times, and refuses with the same JSON error as the application. It knows no
route and no rule of OJS.

How it stays cheap: a request that arrives in one piece costs a few comparisons and no timer. Once a second every
connection of the process is looked at (`Limits.sweep_s`), which also keeps uvicorn's keep-alive time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from math import inf
from typing import Any, ClassVar, Final, cast
from weakref import WeakKeyDictionary

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ojs_api.transport import JoinedWrites
from ojs_core.clock import SystemClock
from ojs_core.errors import EnvelopeTooLargeError, InvalidRequestError, OJSError
from ojs_core.ids import uuid7

log = logging.getLogger("ojs.protocol")

# The parser gets at most this much at a time, so that a limit is noticed soon after it is passed.
SLICE_BYTES: Final = 16 * 1024
# Requests one connection may have waiting behind the one being answered.
PIPELINED_MAX: Final = 64
# Connections above the limit that are still told so; those beyond are dropped without a word.
REFUSALS_MAX: Final = 64
# How long a refused client may go on sending into the void. Closing at once would reset the connection, and the answer
# would be lost to a client that sends everything before it reads.
LINGER_S: Final = 5.0

# What the connection waits for: the first byte of a request, the rest of its header, the rest of its body. In UPGRADE
# the header is about to be read again (see `_read_again`); in CLOSING whatever comes is thrown away.
IDLE, HEADER, BODY, UPGRADE, CLOSING = range(5)

# Fields that decide where a request ends, and what its client expects before and after that.
FRAMING: Final = frozenset({b"content-length", b"expect", b"transfer-encoding", b"upgrade"})

_clock = SystemClock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one connection, and one server process, will take.

    Attributes:
        header_max_bytes: all header lines of a request together (names, values, separators); more gets 431. Trailers of
            a chunked body count the same way. At least `SLICE_BYTES`.
        headers_max: header lines of a request; more gets 431.
        url_max_bytes: the target in the request line; more gets 414.
        body_max_bytes: a body, declared or counted; more gets 413.
        header_timeout_s: from the first byte of a request to the end of its header; then 408.
        body_timeout_s: from the end of the header to the end of the body; then 408. The clock stands still while the
            application is the one who does not read, and does not run at all once the body is complete.
        connections_max: open connections of one process; a further one gets 503 and is closed.
        sweep_s: how often the times are looked at; a deadline is kept to within this much.
    """

    header_max_bytes: int = 32 * 1024
    headers_max: int = 100
    url_max_bytes: int = 8 * 1024
    body_max_bytes: int = 64 * 1024 * 1024
    header_timeout_s: float = 10
    body_timeout_s: float = 30
    connections_max: int = 10_000
    sweep_s: float = 1

    def __post_init__(self) -> None:
        if self.header_max_bytes < SLICE_BYTES:
            raise ValueError(f"header_max_bytes must be at least {SLICE_BYTES}, not {self.header_max_bytes}")


class HeaderTooLargeError(OJSError):
    """Too many header lines, or too many bytes in them."""

    code = "x_header_too_large"
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    retryable = False
    hint = "Send fewer and shorter header fields; data belongs in the body."


class UriTooLongError(OJSError):
    """The request target is over the limit."""

    code = "x_uri_too_long"
    status = HTTPStatus.REQUEST_URI_TOO_LONG
    retryable = False
    hint = "Shorten the path and the query; data belongs in the body."


class RequestTimeoutError(OJSError):
    """The rest of a request did not come in time."""

    code = "x_request_timeout"
    status = HTTPStatus.REQUEST_TIMEOUT
    retryable = True
    hint = "Send the whole request without pauses, on a new connection."


class TooManyConnectionsError(OJSError):
    """This server process has all the connections it will hold."""

    code = "x_too_many_connections"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    retryable = True
    retry_after_s = 1
    hint = "Keep connections open and reuse them, or add server processes."


class TooManyPipelinedError(OJSError):
    """The client sends requests on one connection faster than it takes answers."""

    code = "x_too_many_pipelined"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    retryable = True
    retry_after_s = 1
    hint = "Wait for answers before sending more, or use more connections."


def encode_refusal(error: OJSError, extra: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """Encode `error` as a whole HTTP/1.1 response that closes the connection, after the header lines `extra`."""
    # Not at the top of the file: it brings the web framework, which the parent of worker processes does without.
    from ojs_api.http import OJS_MEDIA_TYPE, VERSION, encode, error_body  # noqa: PLC0415

    request_id = f"req_{uuid7(_clock.now())}"
    body = encode(error_body(error, request_id))
    lines = [f"HTTP/1.1 {error.status:d} {HTTPStatus(error.status).phrase}".encode()]
    lines += [name + b": " + value for name, value in extra]
    lines += [b"content-type: " + OJS_MEDIA_TYPE, f"ojs-version: {VERSION}\r\nx-request-id: {request_id}".encode()]
    if error.retry_after_s is not None:
        lines.append(b"retry-after: %d" % error.retry_after_s)
    lines += [b"content-length: %d" % len(body), b"connection: close", b"", body]
    return b"\r\n".join(lines)


class _Sweeper:
    """Checks the times of every connection of one server each `interval_s`, for as long as there is one.

    One timer for all: setting and cancelling one for each request costs more than everything else in this file.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_s: float) -> None:
        self._loop = loop
        self._interval_s = interval_s
        self._scheduled = False
        self._connections: set[GuardedProtocol] = set()

    def add(self, connection: GuardedProtocol) -> None:
        self._connections.add(connection)
        if not self._scheduled:
            self._schedule()

    def remove(self, connection: GuardedProtocol) -> None:
        self._connections.discard(connection)

    def _schedule(self) -> None:
        self._scheduled = True
        self._loop.call_later(self._interval_s, self._sweep)

    def _sweep(self) -> None:
        self._scheduled = False
        if self._connections:
            self._schedule()
        now = self._loop.time()
        for connection in tuple(self._connections):
            connection.check_time(now)


_sweepers: WeakKeyDictionary[ServerState, _Sweeper] = WeakKeyDictionary()


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection with `limits`; pass the class, or `guarded(limits)`, as uvicorn's `http`.

    Guarantees: limits hold per request, on kept-alive and pipelined connections too. A refusal is answered in its turn,
    after the answers owed to earlier requests, unless the answer to the refused request has already begun; then the
    connection is closed. A request refused before its header is complete never reaches the application; one refused
    later looks to the application like a client that has gone away. The memory of one connection is bounded by
    `header_max_bytes`, twice `SLICE_BYTES`, one read of the event loop and what uvicorn buffers of a body (64 KiB).
    """

    # Beyond thirty attributes CPython gives up its quick way to all of them, and uvicorn has twenty-eight.
    __slots__ = (
        "_body_bytes",
        "_deadline",
        "_earlier",
        "_is_chunked",
        "_is_declared",
        "_is_offer",
        "_phase",
        "_sweeper",
        "_unparsed_bytes",
    )

    limits: ClassVar[Limits] = Limits()
    url = b""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        sweeper = _sweepers.get(self.server_state)
        if sweeper is None:
            sweeper = _sweepers[self.server_state] = _Sweeper(self.loop, self.limits.sweep_s)
        self._sweeper = sweeper
        self._phase = IDLE
        # Loop time at which the present phase must be over. 0: no time set yet; inf: none to be set.
        self._deadline = 0.0
        # Bytes since the request, or the last piece of its body, began. An upper bound: whole slices are counted.
        self._unparsed_bytes = 0
        self._body_bytes = 0
        self._is_declared = self._is_chunked = self._is_offer = False
        # Cycles before `self.cycle` that are not answered yet; only pipelining clients have any.
        self._earlier: list[RequestResponseCycle] = []

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Take a new connection, unless there are too many."""
        super().connection_made(cast("asyncio.Transport", JoinedWrites(transport, self.loop)))
        self._sweeper.add(self)
        excess = len(self.connections) - self.limits.connections_max
        if excess > REFUSALS_MAX:
            transport.abort()
        elif excess > 0:
            self._refuse(TooManyConnectionsError("This server has no room for another connection."))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request of this connection that the client is gone."""
        self._sweeper.remove(self)
        # uvicorn tells only the last request; a stream answered before it would go on for ever.
        for cycle in self._earlier:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close as soon as the requests in flight are answered; called when the server stops."""
        if self._phase == CLOSING and self._deadline < inf:
            self.transport.close()
        else:
            super().shutdown()

    # Bytes in

    def data_received(self, data: bytes) -> None:
        """Feed the parser in slices, so that what it holds can be bounded."""
        if len(data) <= SLICE_BYTES:
            self._feed(data)
        else:
            for start in range(0, len(data), SLICE_BYTES):
                self._feed(data[start : start + SLICE_BYTES])

    def _feed(self, data: bytes) -> None:
        if self._phase == IDLE:
            self._phase = HEADER
            self._deadline = 0.0
        elif self._phase == CLOSING:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            header_end = upgrade.args[0]
        except httptools.HttpParserError as failure:
            # The parser wraps what a callback raised.
            cause = failure.__context__
            self._refuse(cause if isinstance(cause, OJSError) else InvalidRequestError("This is not valid HTTP/1.1."))
            return
        else:
            if self._phase != IDLE:
                self._receive_more(len(data))
            return
        # Not in the handler above: it would become the context of what a callback raises, and hide the reason.
        self._upgrade(data[header_end:])

    def _receive_more(self, received_bytes: int) -> None:
        """Bound what the parser holds of an incomplete request, and the time the rest of it may take."""
        self._unparsed_bytes += received_bytes
        if len(self.url) > self.limits.url_max_bytes:
            self._refuse(self._uri_too_long())
        elif self._unparsed_bytes > self.limits.header_max_bytes + SLICE_BYTES:
            self._refuse(self._header_too_large())
        elif not self._deadline:
            limits = self.limits
            self._deadline = self.loop.time() + (
                limits.header_timeout_s if self._phase == HEADER else limits.body_timeout_s
            )

    # Callbacks of the parser; what they raise ends up in `_feed`

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        super().on_message_begin()
        self._phase = HEADER
        self._is_declared = self._is_chunked = self._is_offer = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header field. It is uvicorn's own method, but for those in `FRAMING`."""
        name = name.lower()
        if name in FRAMING:
            self._read_framing(name, value)
        self.headers.append((name, value))

    def _read_framing(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            self._is_declared = True
            if int(value) > self.limits.body_max_bytes:
                raise self._body_too_large()
        elif name == b"transfer-encoding":
            if self._is_chunked or value.lower() != b"chunked":
                raise InvalidRequestError("The only transfer coding supported is 'chunked', once.")
            self._is_chunked = True
        elif name == b"upgrade":
            self._is_offer = True
        elif value.lower() == b"100-continue":
            self.expect_100_continue = True
        # The parser sees to this as well; two readings of one length are how requests are smuggled past a proxy.
        if self._is_declared and self._is_chunked:
            raise InvalidRequestError("Content-Length and Transfer-Encoding exclude each other.")

    def on_headers_complete(self) -> None:
        """Refuse the request by its header, or have it answered."""
        limits = self.limits
        headers = self.headers
        if len(headers) > limits.headers_max:
            raise HeaderTooLargeError(f"The header has more than {limits.headers_max} fields.")
        if len(self.url) > limits.url_max_bytes:
            raise self._uri_too_long()
        # A header within one slice needs no adding up.
        if (
            self._unparsed_bytes
            and sum(len(name) + len(value) + 4 for name, value in headers) > limits.header_max_bytes
        ):
            raise self._header_too_large()
        if len(self.pipeline) >= PIPELINED_MAX:
            raise TooManyPipelinedError(f"More than {PIPELINED_MAX} requests wait on this connection.")
        if self._is_offer and self.parser.should_upgrade() and not self._should_upgrade():
            self._phase = UPGRADE
            return

        previous = self.cycle
        super().on_headers_complete()
        if self.pipeline:
            self._earlier = [cycle for cycle in self._earlier if not cycle.response_complete]
            self._earlier.append(previous)
        if self._is_chunked:
            # uvicorn would add the trailers to the header the application is looking at.
            self.headers = []
        self._phase = BODY
        self._deadline = 0.0

    def on_body(self, body: bytes) -> None:
        """Count a piece of the body."""
        self._unparsed_bytes = 0
        self._body_bytes += len(body)
        if self._body_bytes > self.limits.body_max_bytes:
            raise self._body_too_large()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        if self._phase == UPGRADE:
            return
        super().on_message_complete()
        self._phase = IDLE
        self._deadline = 0.0
        self._unparsed_bytes = 0
        self._body_bytes = 0

    def _uri_too_long(self) -> UriTooLongError:
        return UriTooLongError(f"The request target has more than {self.limits.url_max_bytes} bytes.")

    def _header_too_large(self) -> HeaderTooLargeError:
        return HeaderTooLargeError(f"The header has more than {self.limits.header_max_bytes} bytes.")

    def _body_too_large(self) -> EnvelopeTooLargeError:
        return EnvelopeTooLargeError(f"The body has more than {self.limits.body_max_bytes} bytes.")

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        if self.pipeline:
            super().on_response_complete()
            return
        # As in uvicorn, but the sweeper times the pause.
        self.server_state.total_requests += 1
        if self.flow.read_paused and not self.transport.is_closing():
            self.flow.resume_reading()

    # Offers to change the protocol

    def _upgrade(self, rest: bytes) -> None:
        if self._phase == UPGRADE:
            self._phase = HEADER
            self._feed(self._read_again() + rest)
        elif self._should_upgrade():
            self._sweeper.remove(self)
            self.handle_websocket_upgrade()
        else:
            self._refuse(InvalidRequestError("This server is not a proxy."))

    def _read_again(self) -> bytes:
        """Start a new parser and return the header just read, less its offer to upgrade, for it.

        A server may ignore the offer (RFC 9110 §7.8). The parser cannot: it takes everything after the header for the
        other protocol, so that the body would be lost and, worse, read as the next request. Java's own HTTP client
        makes the offer (h2c) with every first request.
        """
        start = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        lines = [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        if hasattr(self.parser, "set_dangerous_leniencies"):
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"".join([start, *lines, b"\r\n"])

    # Refusals and times

    def check_time(self, now: float) -> None:
        """End what has lasted too long at loop time `now`. Called every `Limits.sweep_s`."""
        if self.transport.is_closing():
            return
        if self._phase == IDLE:
            if self.cycle is not None and not self.cycle.response_complete:
                self._deadline = 0.0
            elif not self._deadline:
                self._deadline = now + self.timeout_keep_alive
            elif now >= self._deadline:
                self.transport.close()
        elif self.flow.read_paused or (self._phase == BODY and self.cycle.waiting_for_100_continue):
            # It is for the application to go on; the client's time stands still.
            self._deadline += self.limits.sweep_s
        elif now >= self._deadline:
            if self._phase == CLOSING:
                self.transport.abort()
            else:
                self._refuse(RequestTimeoutError("The rest of the request did not come in time."))

    def _refuse(self, error: OJSError) -> None:
        """Read no further, answer the request being received with `error` when its turn comes, and close."""
        log.debug("Refused a request of %s: %d %s.", self.client, error.status, error.code)
        cycle = self.cycle
        started = self._phase == BODY
        self._phase = CLOSING
        self._deadline = inf
        if cycle is None or (cycle.response_complete and not started):
            self._answer(error)
        elif not started:
            # `cycle` belongs to an earlier request, the last one that gets its answer.
            respond = cycle.on_response

            def then_refuse() -> None:
                respond()
                self._answer(error)

            cycle.on_response = then_refuse
        elif cycle.response_complete:
            self._linger()
        elif cycle.response_started:
            self.transport.close()
        else:
            self._abandon(cycle, error)

    def _abandon(self, cycle: RequestResponseCycle, error: OJSError) -> None:
        """Answer for the application, to which the client will seem to have gone."""

        async def answer(*_: object) -> None:
            self._answer(error)

        cycle.disconnected = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline[0] = (cycle, answer)
        else:
            self._answer(error)

    def _answer(self, error: OJSError) -> None:
        if not self.transport.is_closing():
            self.transport.write(encode_refusal(error, self.server_state.default_headers))
            self._linger()

    def _linger(self) -> None:
        """Say that there is nothing more to come, and wait a little for the client to hang up."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._deadline = self.loop.time() + LINGER_S


def guarded(limits: Limits) -> type[GuardedProtocol]:
    """Make the protocol class that keeps `limits`."""
    return type("GuardedProtocol", (GuardedProtocol,), {"__slots__": (), "limits": limits})
