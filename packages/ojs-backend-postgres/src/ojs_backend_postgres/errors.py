"""From what asyncpg reports to what the seam promises."""

from __future__ import annotations

import asyncpg
from asyncpg import exceptions as pg

from ojs_core.errors import BackendUnavailableError

LOST_RACES = (pg.DeadlockDetectedError, pg.SerializationError, pg.UniqueViolationError)
"""Another server was quicker, and nothing happened: asking again is safe, and finds what the other one did."""

FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""Everything a call of the driver may raise. InternalClientError: a connection that broke at a bad moment."""

_MESSAGES: tuple[tuple[type[BaseException], str], ...] = (
    (pg.InvalidPasswordError, "The database refused the user or the password."),
    (pg.InvalidAuthorizationSpecificationError, "The database refused the user or the password."),
    (pg.InvalidCatalogNameError, "There is no such database."),
    (pg.TooManyConnectionsError, "The database has no connection left."),
    (pg.QueryCanceledError, "The database did not finish in time."),
    (pg.LockNotAvailableError, "The database did not finish in time: another transaction holds a lock."),
    (pg.DeadlockDetectedError, "The database is busy: the change kept meeting others in a circle."),
    (pg.SerializationError, "The database is busy: the change kept losing against others."),
    (pg.UniqueViolationError, "The database is busy: the change kept losing against others."),
    (pg.ReadOnlySQLTransactionError, "The database takes no changes: it is a standby, or set to read only."),
    (pg.DiskFullError, "The disk of the database is full."),
    (pg.OutOfMemoryError, "The database is out of memory, or of room for locks (max_locks_per_transaction)."),
    (pg.InsufficientResourcesError, "The database is out of resources."),
    (pg.OperatorInterventionError, "The database is shutting down or starting."),
    (pg.InsufficientPrivilegeError, "The database refused: the role of this server lacks a privilege."),
    (pg.UndefinedTableError, "The schema of this server is gone or incomplete. Run 'ojs-server migrate'."),
    (pg.UndefinedFunctionError, "The schema of this server is gone or incomplete. Run 'ojs-server migrate'."),
    (pg.InvalidSchemaNameError, "The schema of this server is gone or incomplete. Run 'ojs-server migrate'."),
    (pg.PostgresConnectionError, "The connection to the database was lost."),
    (asyncpg.InterfaceError, "The connection to the database was lost."),
    (asyncpg.InternalClientError, "The connection to the database was lost."),
    (asyncpg.PostgresError, "The database refused the operation."),
    (TimeoutError, "The database did not answer in time."),
    (OSError, "The database cannot be reached."),
)


def unavailable(error: BaseException) -> BackendUnavailableError:
    """Return what to raise for an error of the driver. The cause is chained; the message names no host or user."""
    message = next((text for kind, text in _MESSAGES if isinstance(error, kind)), "The database cannot be used.")
    wrapped = BackendUnavailableError(message)
    wrapped.__cause__ = error
    return wrapped


def closed() -> BackendUnavailableError:
    """Return what to raise for an operation on a store that is not open."""
    return BackendUnavailableError("The database is not open.")
