"""A disk that is really full: 503, nothing half done, and on by itself when there is room again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.backends.postgres.conftest import Opener
from tests.backends.postgres.test_faults import until_it_works
from tests.backends.postgres.test_served import PostgresBacked
from tests.crash.servers import Client
from tests.servers.postgres import Account, PostgresServer

from ojs_backend_postgres.backend import PostgresBackend
from ojs_core.backend import Commit, Committed
from ojs_core.errors import BackendUnavailableError
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.contract.steps import claim_ids, counts, insert_one, listed, snapshot
from ojs_core.testing.factories import make_new, make_transition, make_unique, raw

ROOM = 24_000_000
LARGE = ["x" * 100_000]
HUGE = ["x" * 900_000]


@pytest.fixture
def small_server(postgres_binaries: Path) -> Iterator[PostgresServer]:
    """A server with a database `jobs` that has little room; all else of it has plenty."""
    if not Account().can_mount():
        pytest.skip("this system lets us mount nothing")
    server = PostgresServer(postgres_binaries, room=ROOM)
    try:
        server.start()
        server.execute(f"CREATE TABLESPACE small LOCATION '{server.room}'")
        server.execute("CREATE DATABASE jobs TABLESPACE small")
        yield server
    finally:
        server.close()


async def insert_until_refused(backend: PostgresBackend, words: str) -> list[str]:
    """Insert large jobs until there is no room; return the ids that were answered."""
    answered: list[str] = []
    try:
        while True:
            answered.append((await insert_one(backend, args=raw(LARGE))).id)
    except BackendUnavailableError as error:
        assert words in str(error)  # noqa: PT017 - how many came before it is asked for, too
    return answered


async def test_tables_that_have_no_room(small_server: PostgresServer, open_backend: Opener) -> None:
    backend = await open_backend(url=small_server.url_of("jobs"))
    first = await insert_one(backend)
    small_server.fill_room()
    answered = [first.id, *await insert_until_refused(backend, "disk of the database is full")]
    before = await snapshot(backend)
    # The large job is the last to be written: what comes before it is undone.
    commit = Commit(
        inserts=(make_unique("a" * 64), make_new(args=raw(HUGE))),
        transitions=(make_transition(LifecycleEvent.CANCEL, first.id),),
    )
    for commits in ([commit], [Commit(inserts=(make_new(),)), commit]):
        with pytest.raises(BackendUnavailableError, match="disk of the database is full"):
            await backend.commit(commits)
    await backend.ping()
    assert await snapshot(backend) == before
    assert await listed(backend) == answered[::-1]
    small_server.empty_room()
    assert [type(answer) for answer in await backend.commit([commit])] == [Committed]
    assert await counts(backend) == {"available": len(answered) + 1, "cancelled": 1}
    inserted = [new.job.id for new in commit.inserts]
    assert await claim_ids(backend) == [*answered[1:], *inserted]


def post(client: Client, path: str, body: dict[str, Any]) -> int:
    """Send a request and return its status; a refusal must say that it may be repeated."""
    answer = client.send("POST", path, body)
    assert answer is not None
    if answer.status >= 400:
        assert (answer.status, answer.body["error"]["retryable"]) == (503, True), answer
        assert answer.headers["retry-after"] == "1"
    return answer.status


def test_requests_meanwhile(small_server: PostgresServer) -> None:
    server = PostgresBacked(small_server.url_of("jobs"))
    large = {"type": "disk.job", "args": LARGE}
    huge = {"type": "disk.job", "args": HUGE}
    with ExitStack() as stack:
        stack.callback(server.end)
        server.start()
        client = Client(server)
        stack.callback(client.close)
        client.ask("POST", "/ojs/v1/jobs", {**large, "options": {"queue": "held"}})
        [held] = client.ask("POST", "/ojs/v1/workers/fetch", {"queues": ["held"]})["jobs"]
        small_server.fill_room()
        accepted = 0
        while post(client, "/ojs/v1/jobs", large) == 201:
            accepted += 1
        assert post(client, "/ojs/v1/jobs/batch", {"jobs": [large, huge]}) == 503
        assert post(client, "/ojs/v1/workers/ack", {"job_id": held["id"], "result": HUGE}) == 503
        assert post(client, "/ojs/v1/workflows", {"type": "chain", "steps": [huge]}) == 503
        assert client.ask("GET", f"/ojs/v1/jobs/{held['id']}")["job"]["state"] == "active"
        assert client.send("GET", "/readyz").status == 200  # type: ignore[union-attr]
        small_server.empty_room()
        assert post(client, "/ojs/v1/workers/ack", {"job_id": held["id"], "result": HUGE}) == 200
        assert post(client, "/ojs/v1/jobs/batch", {"jobs": [large, huge]}) == 201
        fetched = client.ask("POST", "/ojs/v1/workers/fetch", {"queues": ["default"], "count": 1000})["jobs"]
        assert len(fetched) == accepted + 2


async def test_a_log_that_has_no_room(own_server: PostgresServer, open_backend: Opener) -> None:
    """PostgreSQL gives up whatever it is doing when it cannot write its log, and comes up again by itself."""
    backend = await open_backend(url=own_server.url)
    first = await insert_one(backend)
    own_server.limit_files(1_000_000)
    commit = Commit(inserts=(make_new(),), transitions=(make_transition(LifecycleEvent.CANCEL, first.id),))
    with pytest.raises(BackendUnavailableError):
        await backend.commit([commit])
    await until_it_works(backend)
    assert "File too large" in own_server.log()
    assert await listed(backend) == [first.id]
    assert [type(answer) for answer in await backend.commit([commit])] == [Committed]
    assert await counts(backend) == {"available": 1, "cancelled": 1}
