"""The writing thread: one transaction for many requests, each on its own if one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from ojs_backend_sqlite import backend as backend_module
from ojs_backend_sqlite.backend import SQLiteBackend
from ojs_backend_sqlite.errors import BROKEN, unavailable
from ojs_core.backend import Commit, Committed, JobQuery
from ojs_core.errors import BackendUnavailableError
from ojs_core.testing.contract.steps import insert_one, read
from ojs_core.testing.factories import make_new, raw

TOGETHER = 50


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep every writer waiting, as another process in the middle of a change does."""
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def start(backend: SQLiteBackend, *inserts) -> list[asyncio.Task]:
    """Ask for a commit of each insert, all at the same time."""
    return [asyncio.create_task(backend.commit([Commit(inserts=(new,))])) for new in inserts]


def remove(path: Path) -> None:
    path.unlink()


def exists(path: Path) -> bool:
    return path.exists()


async def asked(backend: SQLiteBackend) -> None:
    """Return when the requests of all tasks that were started have been handed to the threads."""
    await backend.ping()


async def test_requests_that_wait_share_a_transaction(open_backend, path: Path, monkeypatch) -> None:
    commits = []

    def count_commits(connection: apsw.Connection) -> None:
        connection.set_commit_hook(lambda: bool(commits.append(connection)))

    monkeypatch.setattr(apsw, "connection_hooks", [count_commits])
    backend = await open_backend()
    commits.clear()
    with locked(path):
        tasks = start(backend, *(make_new() for _ in range(TOGETHER)))
        await asked(backend)
        commits.clear()
    for [answer] in await asyncio.gather(*tasks):
        assert isinstance(answer, Committed)
    # The first was on its way already, alone; the others followed together.
    assert 1 <= len(commits) <= 2


async def test_a_request_that_fails_does_not_fail_its_neighbours(backend: SQLiteBackend, path: Path) -> None:
    poisoned = make_new(tags=(object(),))
    good = [make_new() for _ in range(4)]
    with locked(path):
        tasks = start(backend, make_new(), *good[:2], poisoned, *good[2:])
        await asked(backend)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [list, list, list, TypeError, list, list]
    assert await backend.get_jobs([poisoned.job.id]) == [None]
    assert None not in await backend.get_jobs([new.job.id for new in good])
    # Counted, ordered and logged as if the failed one had never been.
    page = await backend.list_jobs(JobQuery())
    assert page.total == len(page.jobs) == 5
    assert sorted(job.seq for job in page.jobs) == [1, 2, 3, 4, 5]


async def test_a_caller_that_is_cancelled_does_not_disturb_the_others(backend: SQLiteBackend, path: Path) -> None:
    with locked(path):
        tasks = start(backend, make_new(), make_new(), make_new())
        await asked(backend)
        tasks[1].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [list, asyncio.CancelledError, list]


async def test_a_lock_that_stays_is_an_outage(open_backend, path: Path) -> None:
    backend = await open_backend(busy_timeout_ms=20)
    job = await insert_one(backend)
    with locked(path):
        with pytest.raises(BackendUnavailableError, match="locked") as caught:
            await insert_one(backend)
        assert isinstance(caught.value.__cause__, apsw.BusyError)
        # Reading goes on.
        assert await read(backend, job.id) == job
    assert (await insert_one(backend)).seq == 2


async def test_one_wait_for_a_lock_fails_all_that_wait(open_backend, path: Path) -> None:
    backend = await open_backend(busy_timeout_ms=20)
    with locked(path):
        tasks = start(backend, *(make_new() for _ in range(TOGETHER)))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {BackendUnavailableError}
    await insert_one(backend)


async def test_a_full_disk_is_an_outage_until_there_is_room(open_backend, path: Path, monkeypatch) -> None:
    monkeypatch.setattr(apsw, "connection_hooks", [lambda connection: connection.pragma("max_page_count", 60)])
    backend = await open_backend()
    job = await insert_one(backend)
    with pytest.raises(BackendUnavailableError, match="full") as caught:
        await insert_one(backend, args=raw(["x" * 1_000_000]))
    assert isinstance(caught.value.__cause__, apsw.FullError)
    assert await read(backend, job.id) == job
    # A smaller one fits, together with one that does not.
    with locked(path):
        tasks = start(backend, make_new(), make_new(args=raw(["x" * 1_000_000])), make_new())
        await asked(backend)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [list, BackendUnavailableError, list]
    await backend.reset()
    assert (await insert_one(backend)).seq == 4


async def test_a_broken_connection_is_replaced(open_backend, monkeypatch) -> None:
    connections = []
    monkeypatch.setattr(apsw, "connection_hooks", [connections.append])
    backend = await open_backend()
    await insert_one(backend)
    opened = len(connections)

    def break_down(*_: object) -> None:
        raise apsw.IOError("the cable was pulled")

    with monkeypatch.context() as patch:
        patch.setattr(backend_module, "apply_commits", break_down)
        with pytest.raises(BackendUnavailableError):
            await insert_one(backend)
    await insert_one(backend)
    assert len(connections) == opened + 1


async def test_a_file_that_vanished_does_not_come_back_empty(open_backend, path: Path, monkeypatch) -> None:
    backend = await open_backend()

    def break_down(*_: object) -> None:
        raise apsw.IOError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(backend_module, "apply_commits", break_down)
        with pytest.raises(BackendUnavailableError):
            await insert_one(backend)
    remove(path)
    with pytest.raises(BackendUnavailableError, match="cannot be opened"):
        await insert_one(backend)
    assert not exists(path)


def back_up(path: Path, copy: Path) -> None:
    """Write a copy that holds what the file holds now, and nothing is left in its write-ahead log."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("VACUUM INTO ?", (str(copy),))
    connection.close()


def restore(path: Path, copy: Path) -> None:
    copy.replace(path)


def logs_set_aside(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.name}-wal.*"))


def check_integrity(path: Path) -> None:
    connection = apsw.Connection(str(path))
    assert connection.pragma("integrity_check") == "ok"
    assert connection.pragma("journal_mode") == "wal"
    connection.close()


@pytest.mark.parametrize("deleted_first", [False, True])
async def test_a_file_that_is_replaced_by_a_copy(
    open_backend, path: Path, tmp_path: Path, *, deleted_first: bool
) -> None:
    """Nothing of the old one gets into it. What was in the log of the old one is kept beside it."""
    backends = [await open_backend() for _ in range(2)]
    for _ in range(300):
        await insert_one(backends[0])
    back_up(path, tmp_path / "copy.db")
    for backend in backends:
        await insert_one(backend, queue="later")
        assert (await backend.list_jobs(JobQuery())).total == 301 + backends.index(backend)
    if deleted_first:
        remove(path)
        for backend in backends:
            with pytest.raises(BackendUnavailableError, match="cannot be opened"):
                await insert_one(backend)
    restore(path, tmp_path / "copy.db")
    for backend in backends:
        with pytest.raises(BackendUnavailableError, match="cannot be opened"):
            await insert_one(backend)
        await insert_one(backend, queue="new")
    for backend in backends:
        with pytest.raises(BackendUnavailableError, match="cannot be opened"):
            await backend.list_jobs(JobQuery())
        page = await backend.list_jobs(JobQuery(limit=1000))
        assert len(page.jobs) == page.total == 302
        assert {job.queue for job in page.jobs} == {"default", "new"}
        await backend.close()
    check_integrity(path)
    assert len(logs_set_aside(path)) == 1


@pytest.mark.parametrize(
    "kind", [*BROKEN, apsw.BusyError, apsw.FullError, apsw.SQLError], ids=lambda kind: kind.__name__
)
def test_every_error_has_a_sentence(kind: type[apsw.Error]) -> None:
    cause = kind("/secret/path: details")
    error = unavailable(cause)
    assert error.__cause__ is cause
    assert error.message.endswith(".")
    assert "secret" not in error.message


async def test_close_finishes_what_was_asked(open_backend, path: Path) -> None:
    backend = await open_backend()
    with locked(path):
        tasks = start(backend, *(make_new() for _ in range(TOGETHER)))
        await asked(backend)
        closing = asyncio.create_task(backend.close())
    await closing
    answers = await asyncio.gather(*tasks)
    assert all(isinstance(answer, Committed) for [answer] in answers)
    with pytest.raises(BackendUnavailableError, match="not open"):
        await insert_one(backend)
    again = await open_backend()
    assert (await again.list_jobs(JobQuery())).total == TOGETHER
