"""A thread that reads: with a write-ahead log it neither waits for the writer nor holds it up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

import apsw

from ojs_backend_sqlite import database
from ojs_backend_sqlite.config import SQLiteConfig
from ojs_backend_sqlite.errors import MissingError, is_broken
from ojs_backend_sqlite.mailbox import MailThread, Outcome, Work

Answer = TypeVar("Answer")


class Reader:
    """Owns one connection. What waits is read from one snapshot, taken after the last of it was asked for."""

    def __init__(self, config: SQLiteConfig, name: str) -> None:
        self._config = config
        self._connection: database.Connection | None = None
        self._thread = MailThread(f"ojs-sqlite-{name}", self._read)

    def submit(self, work: Work[apsw.Connection, Answer]) -> asyncio.Future[Answer]:
        """Have something read; the future has the answer. Raises `BackendUnavailableError` once closed."""
        return self._thread.run(work)

    async def close(self) -> None:
        """Accept nothing more, read what was asked for, and close the connection."""
        await self._thread.close()
        self._drop()

    def _read(self, works: Sequence[Work[apsw.Connection, Any]]) -> list[Outcome]:
        try:
            if self._connection is None:
                self._connection = database.connect(self._config)
            connection = self._connection
            database.check_in_place(connection, self._config.path)
            connection.execute("BEGIN")
            outcomes = [_attempt(work, connection) for work in works]
            connection.execute("COMMIT")
        except MissingError as error:
            return [Outcome(error=error)] * len(works)
        except apsw.Error as error:
            self._drop()
            return [Outcome(error=error)] * len(works)
        if any(is_broken(outcome.error) for outcome in outcomes):
            self._drop()
        return outcomes

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close(force=True)
            self._connection = None


def _attempt(work: Work[apsw.Connection, Any], connection: apsw.Connection) -> Outcome:
    try:
        return Outcome(work(connection))
    except Exception as error:  # noqa: BLE001 - raised again where the caller waits
        return Outcome(error=error)
