"""Whole servers on one database: whatever is killed, what was answered holds, and nothing happens twice.

The audit is that of `tests/crash`; here several servers share the store, and the store is killed too.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.crash.history import Store, summary, violations
from tests.crash.load import CRON, Load
from tests.crash.servers import Client, Server
from tests.servers.postgres import PostgresServer

from ojs_backend_postgres.backend import PostgresBackend
from ojs_backend_postgres.config import PostgresConfig
from ojs_core.backend import JobQuery
from ojs_core.job import Job, encode_record
from ojs_core.testing.conformance.servers import free_ports

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "1"))
SEED = int(os.environ.get("CRASH_SEED", "1"))


class PostgresBacked(Server):
    """The command on a database."""

    def __init__(self, url: str, **variables: object) -> None:
        super().__init__(Path("unused"), OJS_BACKEND="postgres", DATABASE_URL=url, **variables)
        self.url = url

    def read_store(self, events: list[dict[str, Any]], stats: dict[str, dict[str, int]]) -> Store:
        jobs = asyncio.run(self._jobs())
        with psycopg.connect(self.url) as connection:
            workflows = connection.execute("SELECT key, record FROM ojs.workflow").fetchall()
            counted = connection.execute(
                "SELECT queue, state, sum(jobs)::bigint"
                " FROM (SELECT * FROM ojs.counted UNION ALL SELECT * FROM ojs.tally) t"
                " GROUP BY 1, 2 HAVING sum(jobs) > 0"
            ).fetchall()
        return Store(
            jobs={job.id: json.loads(encode_record(job)) for job in jobs},
            workflows={key: json.loads(record) for key, record in workflows},
            counted={(queue, state): number for queue, state, number in counted},
            integrity="ok",
            events=events,
            stats=stats,
        )

    async def _jobs(self) -> tuple[Job, ...]:
        backend = PostgresBackend(PostgresConfig(url=self.url))
        await backend.open()
        page = await backend.list_jobs(JobQuery(limit=1_000_000))
        await backend.close()
        return page.jobs


@pytest.fixture
def make_server(own_server: PostgresServer) -> Iterator[Callable[..., PostgresBacked]]:
    with ExitStack() as stack:

        def make(**variables: object) -> PostgresBacked:
            server = PostgresBacked(own_server.url, **variables)
            stack.callback(server.end)
            return server.start()

        yield make


@pytest.mark.timeout(540 + 60 * ROUNDS)
def test_audit(own_server: PostgresServer, make_server: Callable[..., PostgresBacked]) -> None:
    servers = [make_server(), make_server(OJS_WORKERS=2)]
    client = Client(servers[0])
    client.ask("POST", "/ojs/v1/cron", {"name": "tick", **CRON})
    client.close()
    rng = random.Random(SEED)  # noqa: S311 - nothing secret
    with Load(servers, SEED * 1000).running() as load:
        for _ in range(ROUNDS):
            victim = rng.choice(servers)
            load.await_answers(rng.randint(30, 150), lambda: victim.signal(signal.SIGKILL))  # noqa: B023 - called at once
            victim.await_end()
            victim.start()
            load.await_answers(rng.randint(30, 150), own_server.kill)
            own_server.start()
            load.await_answers(200)
    client = Client(servers[0])
    client.ask("DELETE", "/ojs/v1/cron/tick")
    client.close()
    store = load.settle(servers[0])
    print(summary(load.history, store))  # noqa: T201 - shown with -s, and when it fails
    assert violations(load.history, store) == []


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "ojs_api.cli", *arguments],
        env={**os.environ, "OJS_BACKEND": "postgres", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_migrating_from_the_command_line(own_server: PostgresServer) -> None:
    url = own_server.url
    looked = command("migrate", "--check", DATABASE_URL=url)
    assert (looked.returncode, "to do: 0001_tables" in looked.stdout) == (1, True)
    refused = command("check", DATABASE_URL=url, OJS_POSTGRES_MIGRATE="never")
    assert (refused.returncode, "Run 'ojs-server migrate'" in refused.stderr) == (2, True)
    done = command("migrate", DATABASE_URL=url)
    assert (done.returncode, "done: 0001_tables" in done.stdout) == (0, True)
    again = command("migrate", DATABASE_URL=url)
    assert (again.returncode, again.stdout) == (0, "The schema is up to date.\n")
    assert command("migrate", "--check", DATABASE_URL=url).returncode == 0
    checked = command("check", DATABASE_URL=url, OJS_POSTGRES_MIGRATE="never")
    assert (checked.returncode, "store: postgres answers" in checked.stdout) == (0, True)
    assert url not in checked.stdout
    printed = command("migrate", "--sql", OJS_POSTGRES_SCHEMA="jobs")
    assert "CREATE TABLE jobs.job (" in printed.stdout
    own_server.execute(printed.stdout)
    assert command("migrate", "--check", DATABASE_URL=url, OJS_POSTGRES_SCHEMA="jobs").returncode == 0


def test_a_database_that_is_not_there(postgres: PostgresServer) -> None:
    away = command("check", DATABASE_URL=f"postgresql://postgres:secret@127.0.0.1:{free_ports(1)[0]}/postgres")
    assert (away.returncode, "store: cannot be used: The database cannot be reached." in away.stdout) == (1, True)
    assert "secret" not in away.stdout + away.stderr
    unknown = command("migrate", DATABASE_URL=postgres.url_of("nothing"))
    assert (unknown.returncode, "There is no such database." in unknown.stdout) == (1, True)
