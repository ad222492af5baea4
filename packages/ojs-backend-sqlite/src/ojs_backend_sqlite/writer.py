"""The one writer of this process: group commit.

Everything that waits is done in one transaction, so that many changes share one sync of the disk; nobody is answered
before it. Several processes may have a writer each on one file: they take turns.

The statements run on the event loop, the COMMIT in a thread: it is the part that waits for the disk. A thread that ran
the statements too would have to win the interpreter back from the busy loop after each of them, which costs several
times what they do (ADR 0005). Only a transaction that has to wait for another process runs in the thread as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import apsw

from ojs_backend_sqlite import database, queries
from ojs_backend_sqlite.config import SQLiteConfig
from ojs_backend_sqlite.errors import closed, is_broken
from ojs_backend_sqlite.mailbox import GROUP_MAX, MailThread, Outcome, Request, Work, settle
from ojs_backend_sqlite.transaction import Transaction

WATCH_S = 0.03
"""How often an idle writer looks whether another process made jobs available."""

Answer = TypeVar("Answer")
Ring = Callable[[frozenset[str] | None], None]


class Writer:
    """Owns the writing connection. `ring` is called after a flush that made jobs available."""

    def __init__(self, config: SQLiteConfig, connection: database.Connection, ring: Ring) -> None:
        self._config = config
        self._connection: database.Connection | None = connection
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Request[Transaction]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._closed = False
        self._data_version: int = connection.pragma("data_version")
        self._seq: int = connection.execute(queries.LOAD_STORE).get[0]
        self._woken: set[str] = set()
        self._woken_elsewhere = False
        self._thread: MailThread[None] | None = None
        if not config.in_memory:
            connection.set_busy_timeout(0)
            self._thread = MailThread("ojs-sqlite-writer", _do_each)
            self._watching = self._loop.call_later(WATCH_S, self._watch)

    def submit(self, work: Work[Transaction, Answer]) -> asyncio.Future[Answer]:
        """Have some work done; the future has the answer. Raises `BackendUnavailableError` once closed."""
        if self._closed:
            raise closed()
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting.append(Request(work, future))
        if self._flushing is None:
            self._flushing = self._loop.create_task(self._flush_all())
        return future

    async def close(self) -> None:
        """Accept nothing more, do what was submitted, and close the connection."""
        self._closed = True
        if self._flushing is not None:
            await asyncio.wait({self._flushing})
        if self._thread is not None:
            self._watching.cancel()
            await self._thread.close()
        self._drop()

    # One flush.

    async def _flush_all(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
                settle(group, await self._flush([request.work for request in group]))
                self._ring_bell()
        finally:
            self._flushing = None

    async def _flush(self, works: Sequence[Work[Transaction, Any]]) -> list[Outcome]:
        """Do all the work in one transaction."""
        if self._thread is None:
            return self._flush_here(works)
        if self._connection is None:
            return await self._thread.run(lambda _: self._flush_waiting(works))
        try:
            transaction = self._begin()
        except apsw.BusyError:
            return await self._thread.run(lambda _: self._flush_waiting(works))
        except apsw.Error as error:
            return self._give_up(works, error)
        try:
            values = _do(works, transaction)
        except Exception as error:  # noqa: BLE001 - raised again where the caller waits
            failed = self._give_up(works, error)
            return failed if len(works) == 1 else await self._thread.run(lambda _: self._flush_singly(works))
        return await self._thread.run(lambda _: self._commit(works, transaction, values))

    def _flush_waiting(self, works: Sequence[Work[Transaction, Any]]) -> list[Outcome]:
        """Do all the work in one transaction, and wait before it as long as another process writes."""
        if self._connection is not None:
            self._connection.set_busy_timeout(self._config.busy_timeout_ms)
        try:
            return self._flush_here(works)
        finally:
            if self._connection is not None:
                self._connection.set_busy_timeout(0)

    def _flush_here(self, works: Sequence[Work[Transaction, Any]]) -> list[Outcome]:
        """Do all the work in one transaction, or, if some of it fails, each in one of its own."""
        try:
            transaction = self._begin()
        except apsw.Error as error:
            return self._give_up(works, error)
        try:
            values = _do(works, transaction)
        except Exception as error:  # noqa: BLE001 - as above
            failed = self._give_up(works, error)
            return failed if len(works) == 1 else self._flush_singly(works)
        return self._commit(works, transaction, values)

    def _flush_singly(self, works: Sequence[Work[Transaction, Any]]) -> list[Outcome]:
        """Find out which work failed the others' transaction: nothing of that one was written."""
        outcomes: list[Outcome] = []
        for work in works:
            locked = bool(outcomes) and isinstance(outcomes[-1].error, apsw.BusyError)
            # One wait for a lock is enough for everybody.
            outcomes += [outcomes[-1]] if locked else self._flush_waiting([work])
        return outcomes

    def _begin(self) -> Transaction:
        connection = self._connect()
        if not self._config.in_memory:
            database.check_in_place(connection, self._config.path)
        connection.execute("BEGIN IMMEDIATE")
        return Transaction(connection)

    def _commit(
        self, works: Sequence[Work[Transaction, Any]], transaction: Transaction, values: Sequence[object]
    ) -> list[Outcome]:
        try:
            transaction.connection.execute("COMMIT")
        except apsw.Error as error:
            # Not again: what the disk has of it is not known.
            return self._give_up(works, error)
        self._woken |= transaction.woken
        self._woken_elsewhere |= transaction.seq_found != self._seq
        self._seq = transaction.seq
        return [Outcome(value) for value in values]

    def _give_up(self, works: Sequence[Work[Transaction, Any]], error: Exception) -> list[Outcome]:
        """Undo what the transaction did, and fail all its work."""
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except apsw.Error:
            self._drop()  # closing it rolls back
        if is_broken(error) and not self._config.in_memory:
            self._drop()
        return [Outcome(error=error)] * len(works)

    # The connection.

    def _connect(self) -> database.Connection:
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
        self._watching = self._loop.call_later(WATCH_S, self._watch)
        if self._flushing is not None or self._connection is None:
            return  # a flush finds out by itself; without a connection, whoever writes next is told
        try:
            version = self._connection.pragma("data_version")
            if version != self._data_version:
                self._data_version = version
                seq: int = self._connection.execute(queries.LOAD_STORE).get[0]
                self._woken_elsewhere |= seq != self._seq
                self._seq = seq
                self._ring_bell()
        except apsw.BusyError:
            pass  # the next look will see it
        except apsw.Error:
            self._drop()

    def _ring_bell(self) -> None:
        """Wake those who wait for jobs, if any became available since the last time."""
        woken, self._woken = self._woken, set()
        elsewhere, self._woken_elsewhere = self._woken_elsewhere, False
        if woken or elsewhere:
            self._ring(None if elsewhere else frozenset(woken))


def _do(works: Sequence[Work[Transaction, Any]], transaction: Transaction) -> list[Any]:
    values = [work(transaction) for work in works]
    transaction.write()
    return values


def _do_each(works: Sequence[Work[None, Any]]) -> list[Outcome]:
    return [Outcome(work(None)) for work in works]
