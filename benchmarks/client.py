"""A cheap HTTP/1.1 client: ready-made requests on kept-alive connections, so that the server is what is measured.

It reads only what this server sends: a status, a content-length, a body. No redirects, no chunks.
"""

from __future__ import annotations

import asyncio
from time import perf_counter_ns
from typing import cast

import msgspec
from msgspec import Struct

PAYLOAD = "x" * 128
"""The first argument of every job; the second one is when its request was sent (`perf_counter_ns`)."""


class UnexpectedAnswerError(Exception):
    """The server answered, but not what was due."""


class JobId(Struct):
    """A job, as far as an enqueue is concerned."""

    id: str


class FetchedJob(Struct):
    """A job handed out. `args` holds what `job_text` put there."""

    id: str
    args: tuple[str, int]


class FinishedJob(Struct):
    """A job after its ack."""

    id: str
    state: str


class Enqueued(Struct):
    """Answer to an enqueue."""

    job: JobId


class BatchEnqueued(Struct):
    """Answer to a batch."""

    jobs: list[JobId]


class Fetched(Struct):
    """Answer to a fetch."""

    jobs: list[FetchedJob]


class Acknowledged(Struct):
    """Answer to an ack."""

    acknowledged: bool
    job: FinishedJob


decode_enqueued = msgspec.json.Decoder(Enqueued).decode
decode_batch = msgspec.json.Decoder(BatchEnqueued).decode
decode_fetched = msgspec.json.Decoder(Fetched).decode
decode_acknowledged = msgspec.json.Decoder(Acknowledged).decode


def post(path: str, body: bytes) -> bytes:
    """Return a whole POST request."""
    return (
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/openjobspec+json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
    )


def get(path: str) -> bytes:
    """Return a whole GET request."""
    return b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode()


def job_text(queue: str) -> bytes:
    """Return a job as a client writes it, stamped with the time."""
    return b'{"type":"bench.noop","args":["%b",%d],"options":{"queue":"%b"}}' % (
        PAYLOAD.encode(),
        perf_counter_ns(),
        queue.encode(),
    )


def enqueue_request(queue: str) -> bytes:
    """Return the request that enqueues one job."""
    return post("/ojs/v1/jobs", job_text(queue))


def batch_request(queue: str, size: int) -> bytes:
    """Return the request that enqueues `size` jobs at once."""
    return post("/ojs/v1/jobs/batch", b'{"jobs":[%b]}' % b",".join(job_text(queue) for _ in range(size)))


def fetch_request(queue: str, count: int, worker: str, wait_ms: int = 0) -> bytes:
    """Return the request that fetches up to `count` jobs, waiting up to `wait_ms` for the first."""
    body = {"queues": [queue], "count": count, "worker_id": worker}
    return post("/ojs/v1/workers/fetch", msgspec.json.encode({**body, "wait_ms": wait_ms} if wait_ms else body))


def ack_request(job_id: str) -> bytes:
    """Return the request that completes a job."""
    return post("/ojs/v1/workers/ack", b'{"job_id":"%b","result":{"ok":true}}' % job_id.encode())


class Connection(asyncio.Protocol):
    """One connection, with one request on it at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect to a server on this machine. Raises `OSError`."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; return status and body. Raises `ConnectionError` when the server hangs up."""
        if self._transport.is_closing():
            raise ConnectionResetError("the server has closed the connection")
        self._answer = self._loop.create_future()
        self._transport.write(request)
        return await self._answer

    async def expect(self, request: bytes) -> bytes:
        """Send a request; return the body. Raises `UnexpectedAnswerError` unless the status is 2xx."""
        status, body = await self.ask(request)
        if not 200 <= status < 300:
            line = request.partition(b" HTTP")[0].decode()
            raise UnexpectedAnswerError(f"{line}: {status} {body[:200].decode(errors='replace')}")
        return body

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand the answer over once all of it is here."""
        received = self._received + data if self._received else data
        head, found, body = received.partition(b"\r\n\r\n")
        if not found or len(body) < _content_length(head):
            self._received = received
            return
        self._received = b""
        self._settle((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that is under way."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server hung up"))

    def _settle(self, answer: tuple[int, bytes]) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


def _content_length(head: bytes) -> int:
    start = head.find(b"content-length: ") + len(b"content-length: ")
    end = head.find(b"\r\n", start)
    return int(head[start:] if end < 0 else head[start:end])
