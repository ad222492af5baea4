"""Opening the file: where it must be, whose it is, how durable it is, and which schema it has."""

from __future__ import annotations

import ctypes
import logging
import os
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import apsw

from ojs_backend_sqlite import migrations
from ojs_backend_sqlite.config import SQLiteConfig
from ojs_backend_sqlite.errors import MissingError
from ojs_core.errors import SettingsError

APPLICATION_ID = 0x4F4A5331
"""Marks a file as ours ("OJS1" in ASCII); SQLite keeps it in the header."""
STATEMENTS_CACHED = 300
CACHE_KIB = 32 * 1024
"""Pages a connection keeps in memory, at most."""
CHECKPOINT_PAGES = 4000
"""The write-ahead log is copied into the database whenever it holds this many pages (16 MB)."""
JOURNAL_MAX_BYTES = 64 * 1024 * 1024
"""A longer log, left behind by a long read, is cut back to this."""

log = logging.getLogger("ojs.sqlite")

_creating = Lock()


class _SideFile(NamedTuple):
    path: Path
    identity: tuple[int, int] | None


class Connection(apsw.Connection):
    """Knows the side files it uses: at their paths there may be others by now."""

    log: _SideFile | None = None
    shared_memory: _SideFile | None = None


def connect(config: SQLiteConfig) -> Connection:
    """Open an existing database of ours, for use by one thread. Raises `apsw.Error`."""
    connection = _open(config)
    if not config.in_memory:
        # A copy that was put in place of the file may have lost it.
        connection.pragma("journal_mode", "wal")
        _note_side_files(connection, config.path)
    return connection


def _open(config: SQLiteConfig) -> Connection:
    # Without SQLITE_OPEN_CREATE: a file that was removed must not come back empty.
    connection = Connection(config.path, apsw.SQLITE_OPEN_READWRITE, statementcachesize=STATEMENTS_CACHED)
    connection.set_busy_timeout(config.busy_timeout_ms)
    connection.execute(f"PRAGMA synchronous = {config.synchronous}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_MAX_BYTES}")
    connection.execute("PRAGMA temp_store = memory")
    connection.wal_autocheckpoint(CHECKPOINT_PAGES)
    return connection


def _note_side_files(connection: Connection, path: str) -> None:
    connection.pragma("schema_version")  # the first look opens them
    connection.log, connection.shared_memory = (
        _SideFile(side, _identity(side)) for side in (Path(f"{path}-wal"), Path(f"{path}-shm"))
    )


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from all others as long as somebody has it open."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_in_place(connection: Connection, path: str) -> None:
    """Raise `apsw.CantOpenError` unless the file this connection has open is still the one at its path.

    SQLite would go on writing to a file that was deleted or replaced, and what it wrote would be gone with it.
    `MissingError` means that there is none to be used now; the connection is to be kept.
    """
    moved = ctypes.c_int()
    connection.file_control("main", apsw.SQLITE_FCNTL_HAS_MOVED, ctypes.addressof(moved))
    if not moved.value:
        return
    if _identity(Path(path)) is None:
        raise MissingError("the file was moved or deleted")
    try:
        _set_side_files_aside(connection)
    except OSError as error:
        raise MissingError("the write-ahead log of the old file is in the way") from error
    raise apsw.CantOpenError("the file was replaced")


def _set_side_files_aside(connection: Connection) -> None:
    """Take away what belongs to the file that was replaced: SQLite would write the old log into the new database.

    The log is kept, as it may hold changes that the old file does not.
    """
    side = connection.log
    if side is not None and side.identity is not None and _is_there(side):
        # Its number is that of no other file: this connection has it open.
        aside = side.path.with_name(f"{side.path.name}.{side.identity[1]}")
        with suppress(FileNotFoundError):  # another process was quicker
            side.path.replace(aside)
            log.warning("The database file was replaced. The write-ahead log of the old one is now %s.", aside)
    if connection.shared_memory is not None and _is_there(connection.shared_memory):
        connection.shared_memory.path.unlink(missing_ok=True)


def _is_there(side: _SideFile) -> bool:
    return side.identity is not None and _identity(side.path) == side.identity


def prepare(config: SQLiteConfig) -> Connection:
    """Create the file where there is none, bring its schema up to date, and return a connection for one thread.

    Several processes may do so at once. Raises `SettingsError` for a path that cannot be a database of ours, and
    `apsw.Error`.
    """
    if not config.in_memory:
        _create_file(config.path)
    try:
        connection = _open(config)
    except apsw.NotADBError as error:
        raise SettingsError(f"OJS_SQLITE_PATH={config.path} is not a SQLite database.") from error
    try:
        _refuse_foreign(connection, config.path)
        if not config.in_memory:
            _write_ahead(connection, config.path)
        # EXCLUSIVE, not a check first: whoever comes second waits, and then finds nothing to do.
        connection.execute("BEGIN EXCLUSIVE")
        try:
            migrations.apply_steps(connection)
            connection.pragma("application_id", APPLICATION_ID)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        if not config.in_memory:
            _note_side_files(connection, config.path)
    except BaseException:
        connection.close()
        raise
    return connection


def _create_file(path: str) -> None:
    if Path(path).is_dir():
        raise SettingsError(f"OJS_SQLITE_PATH={path} is a folder. Name a file in it, such as {Path(path, 'ojs.db')}.")
    # The job arguments are nobody else's business, hence the mode; SQLite gives its side files the same one.
    # The lock: closing a file drops the locks that SQLite holds on it elsewhere in this process.
    with _creating:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise SettingsError(f"OJS_SQLITE_PATH={path} cannot be created: {error.strerror}.") from error


def _refuse_foreign(connection: apsw.Connection, path: str) -> None:
    """Raise `SettingsError`, with nothing changed, unless the file is empty or ours and not from a newer server."""
    connection.execute("BEGIN")
    application: int = connection.pragma("application_id")
    version: int = connection.pragma("user_version")
    tables: int = connection.execute("SELECT count(*) FROM sqlite_schema").get
    connection.execute("COMMIT")
    if application == APPLICATION_ID:
        if version > len(migrations.STEPS):
            raise SettingsError(
                f"OJS_SQLITE_PATH={path} was written by a newer ojs-backend-sqlite (schema {version}; this one knows "
                f"{len(migrations.STEPS)}). Upgrade this server, or start it with another file."
            )
    elif application != 0 or tables:
        raise SettingsError(f"OJS_SQLITE_PATH={path} is the database of another application. Name another file.")


def _write_ahead(connection: apsw.Connection, path: str) -> None:
    mode = connection.pragma("journal_mode", "wal")
    if mode != "wal":
        raise SettingsError(
            f"OJS_SQLITE_PATH={path}: no write-ahead log is possible there (journal mode '{mode}'). Use a local disk."
        )


_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "fuse.sshfs"})
_MOUNTS = Path("/proc/self/mounts")


def warnings(config: SQLiteConfig) -> list[str]:
    """Return what an operator should know about these settings."""
    if config.in_memory:
        return ["OJS_SQLITE_PATH=:memory: keeps jobs in memory only; they end with this process."]
    found: list[str] = []
    if config.synchronous == "normal":
        found.append("OJS_SQLITE_SYNCHRONOUS=normal: a power loss may take the last moments of answered changes.")
    if config.synchronous == "off":
        found.append("OJS_SQLITE_SYNCHRONOUS=off: a power loss may destroy the database.")
    file_system = _file_system(Path(config.path).resolve())
    if file_system in _NETWORK_FILE_SYSTEMS:
        found.append(
            f"OJS_SQLITE_PATH is on a network file system ({file_system}), where locks fail. Use a local disk."
        )
    return found


def _file_system(path: Path) -> str | None:
    """Return the type of the file system a path is on, where the system says so (Linux)."""
    if not _MOUNTS.exists():
        return None
    mounts = [line.split()[1:3] for line in _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()]
    around = [(len(point), kind) for point, kind in mounts if path.is_relative_to(point)]
    return max(around)[1] if around else None
