"""The file: how it is made, whose it is, and which schema it has."""

from __future__ import annotations

import asyncio
import stat
import sys
from pathlib import Path

import apsw
import pytest

from ojs_backend_sqlite import migrations
from ojs_backend_sqlite.backend import SQLiteBackend
from ojs_backend_sqlite.config import SQLiteConfig
from ojs_backend_sqlite.database import APPLICATION_ID
from ojs_core.errors import BackendUnavailableError, SettingsError
from ojs_core.testing.contract.steps import insert_one, read

PROCESSES = 8
OPEN_AND_INSERT = """
import asyncio, sys
from ojs_backend_sqlite.backend import SQLiteBackend
from ojs_backend_sqlite.config import SQLiteConfig
from ojs_core.backend import Commit
from ojs_core.testing.factories import make_new

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    backend = SQLiteBackend(SQLiteConfig(path=sys.argv[1]))
    await backend.open()
    await backend.commit([Commit(inserts=(make_new(id=sys.argv[2]),))])
    await backend.close()

asyncio.run(main())
"""


def header(path: Path) -> tuple[int, int, str]:
    """Return the application id, the schema version and the journal mode of a file."""
    connection = apsw.Connection(str(path))
    try:
        names = ("application_id", "user_version", "journal_mode")
        application, version, journal = (connection.pragma(name) for name in names)
        return application, version, journal
    finally:
        connection.close()


async def test_a_new_file_is_ours_and_private(backend: SQLiteBackend, path: Path) -> None:
    await insert_one(backend)
    assert header(path) == (APPLICATION_ID, len(migrations.STEPS), "wal")
    for file in (path, path.with_name("ojs.db-wal"), path.with_name("ojs.db-shm")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_file_is_found_as_it_was_left(path: Path) -> None:
    ids = []
    for _ in range(3):
        backend = SQLiteBackend(SQLiteConfig(path=str(path)))
        await backend.open()
        await backend.open()  # does nothing
        ids.append((await insert_one(backend)).id)
        assert [(await read(backend, job_id)).seq for job_id in ids] == list(range(1, len(ids) + 1))
        await backend.close()
        # The log was copied into the database, and is gone.
        assert [file.name for file in path.parent.iterdir()] == ["ojs.db"]


async def test_eight_processes_may_make_it_at_once(path: Path, open_backend) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", OPEN_AND_INSERT, str(path), f"job-{number}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for number in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [process.returncode for process in processes] == [0] * PROCESSES
    backend = await open_backend()
    jobs = await backend.get_jobs([f"job-{number}" for number in range(PROCESSES)])
    assert sorted(job.seq for job in jobs if job is not None) == list(range(1, PROCESSES + 1))


async def test_it_is_the_same_file_wherever_the_process_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backend = SQLiteBackend(SQLiteConfig(path="ojs.db"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    await backend.open()
    await backend.close()
    assert (tmp_path / "ojs.db").exists()


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


async def refused(path: Path, reason: str) -> None:
    """Open what must be refused, with nothing changed."""
    before = content(path)
    with pytest.raises(SettingsError, match=reason) as caught:
        await SQLiteBackend(SQLiteConfig(path=str(path))).open()
    assert "OJS_SQLITE_PATH" in str(caught.value)
    assert content(path) == before


async def test_the_database_of_another_application_is_refused(path: Path) -> None:
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE bookmarks (url TEXT)")
    other.close()
    await refused(path, "another application")


async def test_a_marked_but_empty_database_of_another_application_is_refused(path: Path) -> None:
    other = apsw.Connection(str(path))
    other.pragma("application_id", 42)
    other.close()
    await refused(path, "another application")


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    await asyncio.to_thread(path.write_text, "Dear diary, " * 100)
    await refused(path, "not a SQLite database")


async def test_the_file_of_a_newer_server_is_refused(backend: SQLiteBackend, path: Path) -> None:
    await backend.close()
    newer = apsw.Connection(str(path))
    newer.pragma("user_version", len(migrations.STEPS) + 1)
    newer.close()
    await refused(path, "newer")


async def test_a_folder_is_refused(tmp_path: Path) -> None:
    await refused(tmp_path, "is a folder")


async def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    await refused(tmp_path / "nowhere" / "ojs.db", "No such file or directory")


async def test_a_place_without_a_write_ahead_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backend = SQLiteBackend(SQLiteConfig(path=":memory:"))
    monkeypatch.setattr(SQLiteConfig, "in_memory", False)
    with pytest.raises(SettingsError, match="OJS_SQLITE_PATH=:memory:: no write-ahead log"):
        await backend.open()


async def test_without_open_nothing_works(path: Path) -> None:
    backend = SQLiteBackend(SQLiteConfig(path=str(path)))
    with pytest.raises(BackendUnavailableError, match="not open"):
        await backend.next_wake_at()
    await backend.close()
