"""What only shows over a real connection."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

FETCH = b'{"queues":["default"],"wait_ms":30000}'
POST = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
PATIENCE_S = 30


@pytest.fixture
def server(live):
    return live()


@contextmanager
def asking(server, path: bytes, body: bytes) -> Iterator[socket.socket]:
    """Send a request and do not wait for its answer."""
    with socket.create_connection(server.address, timeout=PATIENCE_S) as connection:
        connection.sendall(POST % (path, len(body), body))
        yield connection


def answer_on(connection: socket.socket) -> tuple[bytes, bytes]:
    """Read an answer, in however many pieces it comes; return its head and its body."""
    with connection.makefile("rb") as stream:
        head = b"".join(iter(stream.readline, b"\r\n"))
        (length,) = re.findall(rb"content-length: (\d+)", head)
        return head, stream.read(int(length))


def until(client: httpx.Client, holds) -> None:
    """Keep the server busy with something else until a condition holds."""
    for _ in range(10_000):
        if holds():
            return
        client.get("/livez")
    raise AssertionError("It never came to hold.")


def waiting(server) -> int:
    return sum(map(len, list(server.service.context.doorbell._waiters.values())))  # noqa: SLF001 - it can be seen nowhere else


def test_a_waiting_fetch_is_woken_from_another_connection(server) -> None:
    with (
        httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client,
        asking(server, b"/ojs/v1/workers/fetch", FETCH) as worker,
    ):
        until(client, lambda: waiting(server) == 1)
        job = client.post("/ojs/v1/jobs", json={"type": "a", "args": []}).json()["job"]
        head, body = answer_on(worker)
    assert head.startswith(b"HTTP/1.1 200 OK")
    (fetched,) = json.loads(body)["jobs"]
    assert fetched["id"] == job["id"]


@pytest.mark.parametrize("politely", [True, False], ids=["closes", "resets"])
def test_a_worker_that_hangs_up_while_it_waits_gets_no_job(server, politely) -> None:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        with asking(server, b"/ojs/v1/workers/fetch", FETCH) as worker:
            until(client, lambda: waiting(server) == 1)
            if not politely:
                worker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        until(client, lambda: waiting(server) == 0)
        client.post("/ojs/v1/jobs", json={"type": "a", "args": []})
        (job,) = client.post("/ojs/v1/workers/fetch", json={"queues": ["default"]}).json()["jobs"]
        assert job["attempt"] == 1


def test_a_server_that_stops_answers_who_waits(live) -> None:
    server = live()
    with (
        httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client,
        asking(server, b"/ojs/v1/workers/fetch", FETCH) as worker,
    ):
        until(client, lambda: waiting(server) == 1)
        # What the command does when it is told to stop, before the server waits for its requests to end.
        server.service.stop_waiting()
        assert answer_on(worker)[1] == b'{"jobs":[]}'


def test_a_connection_serves_many_requests_whatever_their_answers(server) -> None:
    """An error must not leave a body unread, which would be taken for the next request."""
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        for _ in range(3):
            assert client.post("/ojs/v1/jobs", content=b"nonsense" * 10_000).status_code == 400
            assert client.post("/ojs/v1/jobs", content=b"{}", headers={"content-type": "text/plain"}).status_code == 400
            assert client.put("/ojs/v1/jobs", content=b"x" * 100_000).status_code == 405
            assert client.post("/nothing", content=b"x" * 100_000).status_code == 404
            assert client.request("DELETE", "/ojs/v1/jobs/x", content=b"x" * 100_000).status_code == 404
            assert client.head("/ojs/manifest").content == b""
            assert client.options("/ojs/v1/jobs").status_code == 204
            assert client.post("/ojs/v1/jobs", json={"type": "a", "args": []}).status_code == 201


def test_a_body_without_a_declared_length_is_read(server) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (b'{"type":"a",', b'"args":[', b"]}")

    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        assert client.post("/ojs/v1/jobs", content=chunks()).status_code == 201


def test_an_answer_has_each_header_once(server) -> None:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        for path in ("/ojs/manifest", "/ojs/v1/jobs/x", "/ojs/v1/docs", "/nothing"):
            names = [name.lower() for name, _ in client.get(path).headers.raw]
            assert len(names) == len(set(names))
            assert b"server" not in names
