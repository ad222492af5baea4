"""From what SQLite reports to what the seam promises."""

from __future__ import annotations

import apsw

from ojs_core.errors import BackendUnavailableError


class MissingError(apsw.CantOpenError):
    """There is no file where the database was, or none to use yet. The connection is kept: it may be put back."""


_MESSAGES: dict[type[apsw.Error], str] = {
    apsw.BusyError: "The database is locked: another process is writing and did not finish in time.",
    apsw.LockedError: "The database is locked.",
    apsw.FullError: "The disk, or the size set for the database, is full.",
    apsw.IOError: "Reading or writing the database file failed.",
    apsw.CantOpenError: "The database file cannot be opened.",
    MissingError: "The database file cannot be opened.",
    apsw.ReadOnlyError: "The database file is read-only.",
    apsw.PermissionsError: "The database file may not be accessed.",
    apsw.CorruptError: "The database file is damaged.",
    apsw.NotADBError: "The database file is not a SQLite database.",
    apsw.NoMemError: "The database ran out of memory.",
}

BROKEN = (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError, apsw.CorruptError, apsw.NotADBError)
"""After one of these the connection is not trusted any more, but for `MissingError`."""


def is_broken(error: BaseException | None) -> bool:
    """Return whether the connection is not to be trusted any more after this."""
    return isinstance(error, BROKEN) and not isinstance(error, MissingError)


def unavailable(error: apsw.Error) -> BackendUnavailableError:
    """Return what to raise for an error of SQLite. The cause is chained; the message names no path."""
    message = _MESSAGES.get(type(error), "The database refused the operation.")
    wrapped = BackendUnavailableError(message)
    wrapped.__cause__ = error
    return wrapped


def closed() -> BackendUnavailableError:
    """Return what to raise for an operation on a store that is not open."""
    return BackendUnavailableError("The database is not open.")
