"""Serialization failures: the backend's own isolation level has none, and what fails all the same is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from asyncpg import exceptions as pg
from tests.backends.postgres.conftest import Opener
from tests.backends.postgres.test_faults import until_somebody_waits
from tests.servers.missing import missing
from tests.servers.postgres import PgBouncer, PostgresServer

from ojs_backend_postgres.backend import PostgresBackend
from ojs_backend_postgres.connections import ATTEMPTS
from ojs_core.backend import Commit, Committed
from ojs_core.errors import BackendUnavailableError
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.contract.steps import claim_ids, counts, event_types, insert_one, snapshot
from ojs_core.testing.factories import make_claim, make_new, make_transition, make_unique

LEVELS = ["repeatable read", "serializable"]
FAILURE = "could not serialize access"
CALLERS = 6
Connect = Callable[..., Awaitable[asyncpg.Connection]]


async def tries(call: Callable[[], Awaitable[list[object]]]) -> list[object]:
    """Do what a client does with a 503: ask again."""
    while True:
        try:
            return await call()
        except BackendUnavailableError as error:
            assert "kept losing" in str(error)  # noqa: PT017 - this one and no other


async def insert_unique(backends: list[PostgresBackend], number: int) -> None:
    """Have all insert a job of one fingerprint, and check that one of them did."""
    answers = await asyncio.gather(
        *(
            tries(lambda: backends[n % len(backends)].commit([Commit(inserts=(make_unique(f"{number:064}"),))]))  # noqa: B023
            for n in range(CALLERS)
        )
    )
    assert sorted(type(answer).__name__ for [answer] in answers) == ["Committed", *["Refused"] * (CALLERS - 1)]


async def work_off(backends: list[PostgresBackend], jobs: int) -> None:
    """Have all claim and acknowledge at once, and check that every job was done once."""
    done: list[str] = []

    async def work(n: int) -> None:
        backend = backends[n % len(backends)]
        while len(done) < jobs:
            [claimed] = await tries(lambda: backend.claim([make_claim(count=2, worker_id=f"w{n}")]))
            for job in claimed.jobs:  # type: ignore[attr-defined]
                ack = Commit(transitions=(make_transition(LifecycleEvent.ACK, job.id, fence=job.fence),))
                [answer] = await tries(lambda: backend.commit([ack]))  # noqa: B023 - called at once
                assert isinstance(answer, Committed)
                done.append(job.id)

    await asyncio.gather(*(work(n) for n in range(CALLERS)))
    assert len(done) == len(set(done)) == jobs
    assert await counts(backends[0]) == {"completed": jobs}
    assert (await event_types(backends[0])).count("job.started") == jobs


async def fail_with_bare_statements(connect: Connect, url: str) -> None:
    """Show that the level holds for whoever does not set it."""
    one, two = [await connect(url) for _ in range(2)]
    async with one.transaction():
        await one.fetch("SELECT FROM ojs.queue")
        await two.execute("UPDATE ojs.queue SET created_at = created_at")
        with pytest.raises(pg.SerializationError):
            await one.execute("UPDATE ojs.queue SET created_at = created_at")


@pytest.mark.parametrize("level", LEVELS)
async def test_the_default_of_the_role_does_not_matter(
    own_server: PostgresServer, open_backend: Opener, connect: Connect, level: str
) -> None:
    own_server.execute(f"ALTER ROLE postgres SET default_transaction_isolation = '{level}'")
    # Both migrate, of which one waits for the other.
    backends = list(await asyncio.gather(*(open_backend(url=own_server.url) for _ in range(2))))
    for number in range(20):
        await insert_unique(backends, number)
    assert FAILURE not in own_server.log()
    await fail_with_bare_statements(connect, own_server.url)
    await work_off(backends, jobs=20)
    assert own_server.log().count(FAILURE) == 1


async def test_nor_behind_a_pooler(own_server: PostgresServer, open_backend: Opener) -> None:
    if not PgBouncer.BINARY.exists():
        missing("pgbouncer: apt-get install pgbouncer")
    own_server.execute("ALTER ROLE postgres SET default_transaction_isolation = 'repeatable read'")
    bouncer = PgBouncer(own_server, connections=CALLERS)
    try:
        backends = [await open_backend(url=bouncer.url, pooler=True) for _ in range(2)]
        for number in range(20):
            await insert_unique(backends, number)
        for backend in backends:
            await backend.close()
    finally:
        bouncer.close()


@pytest.mark.parametrize("level", LEVELS)
async def test_transactions_that_do_fail_are_made_again(
    own_server: PostgresServer, open_backend: Opener, connect: Connect, level: str
) -> None:
    """No setting does this; something in the database that changes the level of our sessions does."""
    backends = [await open_backend(url=own_server.url, pool_size=1) for _ in range(2)]
    own_server.execute(
        "CREATE FUNCTION interfere() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" PERFORM set_config('default_transaction_isolation', '{level}', false); RETURN NULL; END $$;"
        "CREATE TRIGGER interfere AFTER INSERT ON ojs.worker FOR EACH STATEMENT EXECUTE FUNCTION interfere()"
    )
    for backend in backends:
        await backend.claim([make_claim("nothing", worker_id="w")])
    job = await insert_one(backends[0], queue="other")
    other, sql = [await connect(own_server.url) for _ in range(2)]
    await other.execute("BEGIN")
    await other.execute("UPDATE ojs.job SET version = version")
    asked = asyncio.create_task(
        backends[0].commit([Commit(transitions=(make_transition(LifecycleEvent.CANCEL, job.id),))])
    )
    await until_somebody_waits(sql)
    await other.execute("COMMIT")
    [answer] = await asked
    assert isinstance(answer, Committed)
    assert own_server.log().count(FAILURE) == 1
    # And as they come, as often as they do.
    for _ in range(30):
        await insert_one(backends[0])
    await work_off(backends, jobs=30)
    if level == "serializable":  # an old snapshot alone cannot tell what is unique
        for number in range(20):
            await insert_unique(backends, number)


@pytest.mark.parametrize("failures", [ATTEMPTS - 1, ATTEMPTS])
async def test_how_often_it_is_tried(own_server: PostgresServer, open_backend: Opener, failures: int) -> None:
    """The transaction fails late, when everything else has been written, as one does that fails at its commit."""
    backend = await open_backend(url=own_server.url)
    first = await insert_one(backend)
    before = await snapshot(backend)
    own_server.execute(
        "CREATE SEQUENCE calls; CREATE FUNCTION interfere() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF nextval('calls') <= {failures} THEN RAISE EXCEPTION 'no luck' USING ERRCODE = '40001'; END IF;"
        " RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER interfere AFTER INSERT ON ojs.job INITIALLY DEFERRED FOR EACH ROW"
        " EXECUTE FUNCTION interfere()"
    )
    commit = Commit(inserts=(make_new(),), transitions=(make_transition(LifecycleEvent.CANCEL, first.id),))
    if failures == ATTEMPTS:
        with pytest.raises(BackendUnavailableError, match="kept losing"):
            await backend.commit([commit])
        assert own_server.execute("SELECT last_value FROM calls") == str(ATTEMPTS)
        assert await snapshot(backend) == before
    [answer] = await backend.commit([commit])
    assert isinstance(answer, Committed)
    assert own_server.execute("SELECT last_value FROM calls") == str(failures + 1)
    assert await claim_ids(backend) == [commit.inserts[0].job.id]
