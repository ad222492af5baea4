"""A server in the test's own process, on the reference backend, with a clock that stands still until it is moved.

The background loops are not started: a test that needs the clock's work asks for it (`api.tick`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
import uvicorn

from ojs_api import shapes
from ojs_api.app import create_app
from ojs_api.protocol import Limits, guarded
from ojs_core.backend import Backend
from ojs_core.clock import SystemClock
from ojs_core.memory import MemoryBackend
from ojs_core.service import Service
from ojs_core.settings import Settings
from ojs_core.testing.clock import FakeClock

OJS = "application/openjobspec+json"


class Current:
    """Stands for the service of the test that runs: an application takes 40 ms to make, so the usual one is shared."""

    def __init__(self) -> None:
        self.service = Service(MemoryBackend(), FakeClock(), Settings())
        self.app: Any = create_app(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.service, name)


class Answer(NamedTuple):
    """What an application sent."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Api:
    """A server, and what tests do with one."""

    def __init__(self, app: Any, service: Service, clock: FakeClock) -> None:
        self.service = service
        self.backend = service.backend
        self.clock = clock
        self.app = app
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def send(self, method: str, path: str, body: object = None, **rest: Any) -> httpx.Response:
        """Send a request. A body that is not bytes is sent as JSON."""
        if body is not None:
            rest["content"] = body if isinstance(body, bytes) else msgspec.json.encode(body)
            rest["headers"] = {"content-type": OJS, **rest.get("headers", {})}
        return await self.client.request(method, path, **rest)

    async def ask(self, method: str, path: str, body: object = None, **rest: Any) -> dict[str, Any]:
        """Send a request that is to succeed; return the body of the answer."""
        response = await self.send(method, path, body, **rest)
        assert response.status_code < 300, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def raw(self, method: str, path: str, receive: Any = None, **scope: Any) -> Answer | None:
        """Call the application without a client in between; return its answer, if it gave one."""
        sent: list[dict[str, Any]] = []

        async def nothing() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        whole = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
            **scope,
        }
        await self.app(whole, receive or nothing, send)
        if not sent:
            return None
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return Answer(sent[0]["status"], dict(sent[0]["headers"]), body)

    async def push(self, job_type: str = "test.job", *args: Any, **rest: Any) -> dict[str, Any]:
        """Enqueue a job; return it."""
        answer = await self.ask("POST", "/ojs/v1/jobs", {"type": job_type, "args": list(args), **rest})
        job: dict[str, Any] = answer["job"]
        return job

    async def fetch(self, *queues: str, **rest: Any) -> list[dict[str, Any]]:
        """Fetch jobs of the queues (`default`)."""
        body = {"queues": queues or ("default",), **rest}
        jobs: list[dict[str, Any]] = (await self.ask("POST", "/ojs/v1/workers/fetch", body))["jobs"]
        return jobs

    async def fetch_one(self, *queues: str, **rest: Any) -> dict[str, Any]:
        """Fetch the one job there is to fetch."""
        (job,) = await self.fetch(*queues, **rest)
        return job

    async def job(self, job_id: str) -> dict[str, Any]:
        """Read a job."""
        job: dict[str, Any] = (await self.ask("GET", f"/ojs/v1/jobs/{job_id}"))["job"]
        return job

    async def dead(self, job_type: str = "test.job", **rest: Any) -> dict[str, Any]:
        """Make a dead letter; return its job."""
        options = {"retry": {"max_attempts": 1, "on_exhaustion": "dead_letter"}, **rest.pop("options", {})}
        error = rest.pop("error", {"message": "It failed."})
        job = await self.push(job_type, options=options, **rest)
        taken = await self.fetch_one(job["queue"])
        answer = await self.ask("POST", "/ojs/v1/workers/nack", {"job_id": taken["id"], "error": error})
        dead: dict[str, Any] = answer["job"]
        return dead

    async def tick(self, ms: int = 0) -> None:
        """Let time pass, and the server notice."""
        self.clock.advance(ms)
        while await self.service.maintenance.look():
            """There was more than one look can handle."""

    async def stored(self) -> tuple[int, ...]:
        """Count what the store holds."""
        events = await self.ask("GET", "/ojs/v1/events?limit=1000")
        queues = await self.ask("GET", "/ojs/v1/queues")
        crons = await self.ask("GET", "/ojs/v1/cron")
        workers = await self.ask("GET", "/ojs/v1/admin/workers")
        return len(events["events"]), queues["pagination"]["total"], crons["count"], workers["count"]


@asynccontextmanager
async def _serving(current: Current, backend: Backend | None = None, **settings: Any) -> AsyncIterator[Api]:
    clock = FakeClock()
    service = Service(backend or MemoryBackend(), clock, Settings(**settings))
    await service.backend.open()
    current.service = service
    # These two are read once, when the application is made.
    own = {"api_keys", "body_max_bytes"} & settings.keys()
    api = Api(create_app(service) if own else current.app, service, clock)
    async with api.client:
        yield api
    # Whatever the test left unfinished is finished now, or shows.
    await asyncio.wait_for(service.stop(), 30)


Serving = Callable[..., AbstractAsyncContextManager[Api]]


@pytest.fixture(scope="session")
def serving(current: Current) -> Serving:
    """Start servers with settings or a backend of their own, one at a time, as a context."""
    return partial(_serving, current)


@pytest.fixture(scope="session")
def current() -> Current:
    """The application that servers share."""
    return Current()


@pytest.fixture
async def api(current: Current) -> AsyncIterator[Api]:
    """A server with default settings."""
    async with _serving(current) as api:
        yield api


class Live:
    """A server behind a real socket, in a thread, with the clock of the machine."""

    def __init__(self, **settings: Any) -> None:
        self.service = Service(MemoryBackend(), SystemClock(), Settings(**settings))
        config = uvicorn.Config(
            create_app(self.service),
            port=0,
            http=guarded(Limits()),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._startup = self._server.startup
        self._server.startup = self._announce
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        assert self._started.wait(30)
        self.address: tuple[str, int] = self._server.servers[0].sockets[0].getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"

    async def _announce(self, sockets: Any = None) -> None:
        await self._startup(sockets)
        self._started.set()

    def stop(self) -> None:
        """Stop, and wait until it has."""
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def live() -> Iterator[Callable[..., Live]]:
    """Start servers that can be reached over the network; they are stopped when the test ends."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Live:
            server = Live(**settings)
            stack.callback(server.stop)
            return server

        yield start


def check_headers(response: httpx.Response, media_type: str = OJS) -> None:
    """Check what every answer carries (C-HTTP-02)."""
    assert response.headers.get_list("content-type") == [media_type]
    assert response.headers.get_list("ojs-version") == ["1.0"]
    assert len(response.headers.get_list("x-request-id")) == 1


@pytest.fixture(scope="session")
def check() -> Callable[..., Any]:
    """Check an answer: status, headers, and that it has the shape, with nothing that the shape does not name."""

    def check(response: httpx.Response, status: int, shape: Any, *, extra: bool = False) -> dict[str, Any]:
        assert response.status_code == status, response.text
        check_headers(response)
        body: dict[str, Any] = msgspec.json.decode(response.content)
        documented = msgspec.to_builtins(msgspec.convert(body, shape))
        assert extra or documented == body
        return body

    return check


@pytest.fixture(scope="session")
def refused(check: Callable[..., Any]) -> Callable[..., Any]:
    """Check an error (C-ERR-01, C-ERR-02): its status, its code, and these of its details; return it."""

    def refused(response: httpx.Response, status: int, code: str, **details: Any) -> dict[str, Any]:
        body = check(response, status, shapes.Error)
        error: dict[str, Any] = body["error"]
        assert error["code"] == code
        assert error["request_id"] == response.headers["x-request-id"]
        assert error["docs_url"] == error["doc_url"] == f"/ojs/v1/docs#error-{code}"
        assert error["hint"]
        found = error.get("details", {})
        assert {name: found.get(name) for name in details} == details
        return error

    return refused
