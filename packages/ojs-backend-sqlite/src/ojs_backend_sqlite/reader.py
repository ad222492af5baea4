"""A thread that reads: with a write-ahead log it neither waits for the writer nor holds it up."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Thread
from typing import Any

import apsw

from ojs_backend_sqlite import database
from ojs_backend_sqlite.config import SQLiteConfig
from ojs_backend_sqlite.errors import BROKEN
from ojs_backend_sqlite.mailbox import Mailbox, Outcome, Work


class Reader:
    """Owns one connection. What waits is read from one snapshot, taken after the last of it was asked for."""

    def __init__(self, config: SQLiteConfig, name: str) -> None:
        self.mailbox: Mailbox[apsw.Connection] = Mailbox()
        self._config = config
        self._connection: apsw.Connection | None = None
        self.thread = Thread(target=self._run, name=f"ojs-sqlite-{name}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.mailbox.finished:
            requests = self.mailbox.take()
            if requests:
                self.mailbox.answer(requests, self._read([request.work for request in requests]))
        self._drop()

    def _read(self, works: Sequence[Work[apsw.Connection, Any]]) -> list[Outcome]:
        try:
            if self._connection is None:
                self._connection = database.connect(self._config)
            connection = self._connection
            database.check_in_place(connection)
            connection.execute("BEGIN")
            outcomes = [_attempt(work, connection) for work in works]
            connection.execute("COMMIT")
        except apsw.Error as error:
            self._drop()
            return [Outcome(error=error)] * len(works)
        if any(isinstance(outcome.error, BROKEN) for outcome in outcomes):
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
