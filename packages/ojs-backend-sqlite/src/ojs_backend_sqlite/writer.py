"""The one thread of this process that writes: group commit.

Everything that waits is done in one transaction, so that many changes share one sync of the disk; nobody is answered
before it. Several processes may have a writer each on one file: they take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from threading import Thread
from typing import Any

import apsw

from ojs_backend_sqlite import database, queries
from ojs_backend_sqlite.config import SQLiteConfig
from ojs_backend_sqlite.errors import BROKEN
from ojs_backend_sqlite.mailbox import Mailbox, Outcome, Work
from ojs_backend_sqlite.transaction import Transaction

WATCH_S = 0.03
"""How often an idle writer looks whether another process made jobs available."""

Ring = Callable[[frozenset[str] | None], None]


class Writer:
    """Owns the writing connection. `ring` is called on the loop after a flush that made jobs available."""

    def __init__(self, config: SQLiteConfig, connection: apsw.Connection, ring: Ring) -> None:
        self.mailbox: Mailbox[Transaction] = Mailbox()
        self._config = config
        self._connection: apsw.Connection | None = connection
        self._ring = ring
        self._data_version: int = connection.pragma("data_version")
        self._seq: int = connection.execute(queries.LOAD_STORE).get[0]
        self._woken: set[str] = set()
        self._woken_elsewhere = False
        self.thread = Thread(target=self._run, name="ojs-sqlite-writer", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        watch_s = None if self._config.in_memory else WATCH_S
        while not self.mailbox.finished:
            requests = self.mailbox.take(watch_s)
            outcomes = self._flush([request.work for request in requests]) if requests else []
            if not requests:
                self._watch()
            if requests or self._woken_elsewhere:
                self.mailbox.answer(requests, outcomes, self._bell())
        self._drop()

    # One flush.

    def _flush(self, works: Sequence[Work[Transaction, Any]]) -> list[Outcome]:
        """Do all the work in one transaction, or, if some of it fails, each in one of its own."""
        try:
            connection = self._connect()
            if not self._config.in_memory:
                database.check_in_place(connection)
            connection.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            return self._give_up(works, error)
        try:
            transaction = Transaction(connection)
            values = [work(transaction) for work in works]
            transaction.write()
        except Exception as error:  # noqa: BLE001 - raised again where the caller waits
            outcomes = self._give_up(works, error)
            return outcomes if len(works) == 1 else self._flush_singly(works)
        try:
            connection.execute("COMMIT")
        except apsw.Error as error:
            # Not again: what the disk has of it is not known.
            return self._give_up(works, error)
        self._woken |= transaction.woken
        self._woken_elsewhere |= transaction.seq_found != self._seq
        self._seq = transaction.seq
        return [Outcome(value) for value in values]

    def _flush_singly(self, works: Sequence[Work[Transaction, Any]]) -> list[Outcome]:
        """Find out which work failed the others' transaction: nothing of that one was written."""
        outcomes: list[Outcome] = []
        for work in works:
            locked = bool(outcomes) and isinstance(outcomes[-1].error, apsw.BusyError)
            # One wait for a lock is enough for everybody.
            outcomes += [outcomes[-1]] if locked else self._flush([work])
        return outcomes

    def _give_up(self, works: Sequence[Work[Transaction, Any]], error: Exception) -> list[Outcome]:
        """Undo what the transaction did, and fail all its work."""
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except apsw.Error:
            self._drop()  # closing it rolls back
        if isinstance(error, BROKEN) and not self._config.in_memory:
            self._drop()
        return [Outcome(error=error)] * len(works)

    # The connection.

    def _connect(self) -> apsw.Connection:
        if self._connection is None:
            self._connection = database.connect(self._config)
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close(force=True)
            self._connection = None

    # The doorbell.

    def _watch(self) -> None:
        """Look whether another process made jobs available: then the order of the store has moved."""
        try:
            connection = self._connect()
            version = connection.pragma("data_version")
            if version != self._data_version:
                self._data_version = version
                seq: int = connection.execute(queries.LOAD_STORE).get[0]
                self._woken_elsewhere |= seq != self._seq
                self._seq = seq
        except apsw.Error:
            self._drop()  # whoever writes or reads next is told; this only listens

    def _bell(self) -> Callable[[], None] | None:
        """Return what wakes those who wait for jobs, if any became available since the last time."""
        woken, self._woken = self._woken, set()
        elsewhere, self._woken_elsewhere = self._woken_elsewhere, False
        if not woken and not elsewhere:
            return None
        return partial(self._ring, None if elsewhere else frozenset(woken))
