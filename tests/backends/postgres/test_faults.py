"""A database that fails: 503 and nothing half done, then on as before, without a restart of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from asyncpg import exceptions as pg
from tests.backends.postgres.conftest import Opener
from tests.servers.postgres import PostgresServer

from ojs_backend_postgres.backend import PostgresBackend
from ojs_backend_postgres.errors import unavailable
from ojs_core.backend import Commit, Committed
from ojs_core.errors import BackendUnavailableError
from ojs_core.job import JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.doorbell import Bell
from ojs_core.testing.contract.steps import claim, claim_ids, counts, insert_one, read, snapshot
from ojs_core.testing.factories import make_beat, make_claim, make_new, make_transition

PATIENCE_S = 30
Connect = Callable[..., Awaitable[asyncpg.Connection]]


async def until_it_works(backend: PostgresBackend) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await backend.ping()
                await backend.list_queues()
                await backend.claim([make_claim("nothing")])
            except BackendUnavailableError:
                await asyncio.sleep(0)
            else:
                return


async def hold_back(connect: Connect, job_id: str) -> asyncpg.Connection:
    """Lock a job, as an operator's open transaction would."""
    connection = await connect()
    await connection.execute("BEGIN")
    await connection.execute("SELECT FROM ojs.job WHERE id = $1 FOR UPDATE", job_id)
    return connection


async def until_somebody_waits(sql: asyncpg.Connection) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await sql.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            await asyncio.sleep(0)


async def test_a_restart_of_the_server(own_server: PostgresServer, open_backend: Opener) -> None:
    backend = await open_backend(url=own_server.url)
    job = await insert_one(backend)
    bell = Bell(backend)
    own_server.stop()
    for call in (
        backend.ping(),
        backend.commit([Commit(inserts=(make_new(),))]),
        backend.get_jobs([job.id]),
        backend.beat(make_beat("w")),
        backend.next_wake_at(),
        backend.list_queues(),
    ):
        with pytest.raises(BackendUnavailableError):
            await call
    own_server.start()
    await until_it_works(backend)
    assert await claim_ids(backend) == [job.id]
    # Nobody knows what was missed meanwhile, so everyone is called.
    async with asyncio.timeout(PATIENCE_S):
        while None not in bell.rings:
            await asyncio.sleep(0)


@pytest.mark.parametrize("hosts", [1, 2])
async def test_closing_does_not_wait_for_a_server_that_is_gone(
    own_server: PostgresServer, open_backend: Opener, hosts: int
) -> None:
    addresses = ",".join([f"127.0.0.1:{own_server.port}"] * hosts)
    for _ in range(5):
        # Whatever waits for the server waits for longer than we do.
        backend = await open_backend(url=f"postgresql://postgres@{addresses}/postgres")
        own_server.kill()
        with pytest.raises(BackendUnavailableError):
            await backend.claim([make_claim()])
        async with asyncio.timeout(PATIENCE_S):
            await backend.close()
        own_server.start()


async def test_what_was_answered_survives_a_crash(own_server: PostgresServer, open_backend: Opener) -> None:
    backend = await open_backend(url=own_server.url)
    answered: list[str] = []

    async def enqueue() -> None:
        try:
            while True:
                answered.append((await insert_one(backend)).id)
        except BackendUnavailableError:
            pass

    writers = [asyncio.create_task(enqueue()) for _ in range(4)]
    async with asyncio.timeout(PATIENCE_S):
        while len(answered) < 200:
            await asyncio.sleep(0)
    own_server.kill()
    await asyncio.gather(*writers)
    own_server.start()
    await until_it_works(backend)
    stored = await backend.get_jobs(answered)
    assert None not in stored
    total = (await snapshot(backend)).jobs
    assert await counts(backend) == {"available": len(total)}
    assert len(await claim_ids(backend, count=10_000)) == len(total)


async def test_a_frozen_server_is_not_waited_for(own_server: PostgresServer, open_backend: Opener) -> None:
    patient = await open_backend(url=own_server.url)
    job = await insert_one(patient)
    backend = await open_backend(url=own_server.url, timeout_ms=3000)
    own_server.pause()
    try:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(BackendUnavailableError):
                await backend.claim([make_claim()])
            for one in (backend, patient):
                with pytest.raises(BackendUnavailableError):
                    await one.ping()
    finally:
        own_server.resume()
    await until_it_works(backend)
    await until_it_works(patient)
    assert await claim_ids(patient) == [job.id]


async def test_connections_that_are_cut_off(backend: PostgresBackend, sql: asyncpg.Connection) -> None:
    job = await insert_one(backend)
    for _ in range(3):
        await sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'ojs-server%'"
        )
        await until_it_works(backend)
    assert await claim_ids(backend) == [job.id]


async def test_a_connection_cut_off_in_the_middle_leaves_nothing_half_done(
    backend: PostgresBackend, sql: asyncpg.Connection, connect: Connect
) -> None:
    jobs = [await insert_one(backend, queue=f"q{n}") for n in range(3)]
    before = await snapshot(backend)
    lock = await hold_back(connect, jobs[-1].id)
    commit = Commit(
        inserts=(make_new(),),
        transitions=tuple(make_transition(LifecycleEvent.CANCEL, job.id) for job in jobs),
    )
    asked = asyncio.create_task(backend.commit([commit]))
    await until_somebody_waits(sql)
    await sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    with pytest.raises(BackendUnavailableError):
        await asked
    await lock.execute("ROLLBACK")
    assert await snapshot(backend) == before
    assert isinstance((await backend.commit([commit]))[0], Committed)


async def test_a_statement_that_takes_too_long(
    backend: PostgresBackend, open_backend: Opener, sql: asyncpg.Connection, connect: Connect
) -> None:
    job = await insert_one(backend)
    lock = await hold_back(connect, job.id)
    hasty = await open_backend(timeout_ms=2000)
    with pytest.raises(BackendUnavailableError, match="in time"):
        await hasty.commit([Commit(transitions=(make_transition(LifecycleEvent.CANCEL, job.id),))])
    assert await claim_ids(backend) == []  # locked rows are passed over
    await lock.execute("ROLLBACK")
    assert (await read(backend, job.id)).state is JobState.AVAILABLE
    assert await claim_ids(backend) == [job.id]
    assert await sql.fetchval("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'") == 0


async def test_requests_that_wait_do_not_keep_the_background_waiting(
    open_backend: Opener, sql: asyncpg.Connection, connect: Connect
) -> None:
    backend = await open_backend(pool_size=2, timeout_ms=60_000)
    await backend.reset()
    job = await insert_one(backend)
    lock = await hold_back(connect, job.id)
    cancel = Commit(transitions=(make_transition(LifecycleEvent.CANCEL, job.id),))
    stuck = [asyncio.create_task(backend.commit([cancel])) for _ in range(5)]
    await until_somebody_waits(sql)
    await backend.ping()
    assert await backend.due_jobs(NOW, 10) == []
    assert await backend.next_wake_at() is None
    await lock.execute("ROLLBACK")
    answers = await asyncio.gather(*stuck)
    assert sum(isinstance(answer, Committed) for [answer] in answers) == 1


async def test_a_pool_that_stays_exhausted_is_503(
    backend: PostgresBackend, open_backend: Opener, connect: Connect
) -> None:
    job = await insert_one(backend)
    lock = await hold_back(connect, job.id)
    cancel = Commit(transitions=(make_transition(LifecycleEvent.CANCEL, job.id),))
    small = await open_backend(pool_size=1, timeout_ms=2000)
    answers = await asyncio.gather(*(small.commit([cancel]) for _ in range(4)), return_exceptions=True)
    assert all(isinstance(answer, BackendUnavailableError) for answer in answers)
    assert any("No connection" in str(answer) for answer in answers)
    await lock.execute("ROLLBACK")
    await until_it_works(small)


async def test_a_database_that_takes_no_changes(own_server: PostgresServer, open_backend: Opener) -> None:
    """As a standby after a failover: the connection is given up, so that the next one may find the new primary."""
    backend = await open_backend(url=own_server.url)
    job = await insert_one(backend)
    own_server.set("default_transaction_read_only", "on")
    own_server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'ojs-server%'"
    )
    await until_reading_works(backend, job.id)
    with pytest.raises(BackendUnavailableError, match="takes no changes"):
        await insert_one(backend)
    with pytest.raises(BackendUnavailableError, match="takes no changes"):
        await backend.ping()
    own_server.set("default_transaction_read_only", "off")
    await until_it_works(backend)
    assert len((await claim(backend, count=5)).jobs) == 1


async def test_a_failover(own_server: PostgresServer, open_backend: Opener) -> None:
    """The primary is killed, and a standby that confirmed every commit takes its place: nothing answered is lost."""
    standby = own_server.make_standby()
    try:
        standby.start()
        own_server.set("synchronous_standby_names", "*")
        hosts = f"127.0.0.1:{own_server.port},127.0.0.1:{standby.port}"
        backend = await open_backend(
            url=f"postgresql://{own_server.user}@{hosts}/postgres?target_session_attrs=primary", durability="on"
        )
        jobs = [await insert_one(backend) for _ in range(50)]
        own_server.kill()
        with pytest.raises(BackendUnavailableError):
            await insert_one(backend)
        standby.execute("SELECT pg_promote()")
        await until_it_works(backend)
        assert await claim_ids(backend) == [job.id for job in jobs]
    finally:
        standby.close()


async def until_reading_works(backend: PostgresBackend, job_id: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                assert await backend.get_jobs([job_id]) != [None]
            except BackendUnavailableError:
                await asyncio.sleep(0)
            else:
                return


async def test_transactions_that_meet_in_a_circle_are_tried_again(
    backend: PostgresBackend, sql: asyncpg.Connection, connect: Connect
) -> None:
    """The database ends one of the two; what is tried again finds the lock free."""
    first, second = [await insert_one(backend) for _ in range(2)]
    other = await hold_back(connect, second.id)
    commit = Commit(
        transitions=tuple(make_transition(LifecycleEvent.CANCEL, job.id) for job in (first, second)),
    )
    asked = asyncio.create_task(backend.commit([commit]))
    await until_somebody_waits(sql)
    # Whichever is ended, both must come through in the end: ours silently, the other one by its own doing.
    try:
        await other.execute("SELECT FROM ojs.job WHERE id = $1 FOR UPDATE", first.id)
    except pg.DeadlockDetectedError:
        pass
    finally:
        await other.execute("ROLLBACK")
    assert isinstance((await asked)[0], Committed)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (pg.OutOfMemoryError("out of shared memory"), "max_locks_per_transaction"),
        (pg.TooManyConnectionsError("sorry"), "no connection left"),
        (pg.AdminShutdownError("terminating"), "shutting down"),
        (pg.CannotConnectNowError("starting up"), "shutting down or starting"),
        (ConnectionResetError("peer"), "cannot be reached"),
    ],
)
def test_messages_say_what_is_wrong_and_nothing_of_the_driver(error: Exception, words: str) -> None:
    """These are the driver's own exceptions. A disk that is really full: `test_full_disk.py`."""
    wrapped = unavailable(error)
    assert words in str(wrapped)
    assert wrapped.__cause__ is error
    assert str(error) not in str(wrapped)
