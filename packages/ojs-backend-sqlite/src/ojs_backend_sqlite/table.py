"""Tables of records as one transaction sees them: read in groups, changed in memory, written in groups.

A group is one statement, whatever its size. Around each step of a statement SQLite gives up the interpreter, and on a
busy server getting it back costs far more than the step itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Generic, TypeVar

import apsw
import msgspec

Record = TypeVar("Record")
Row = tuple[Any, ...]
Bindings = Row | dict[str, Any]

ROWS_MAX = 64
"""Rows in one INSERT. A statement is prepared for each power of two up to it."""
DUE_MAX_BYTES = 16 * 1024 * 1024
"""What is due at once may be hundreds of megabytes, after the servers were down: then it is read in portions."""
DUE_FIRST, DUE_GROWTH = 4, 4
"""Records in the first portion of a look, which tells how large they are, and how much larger the next one is."""
READ_MAX = 256
"""Records read at once, so that a long list does not take much memory several times over."""


class InsertRows:
    """An INSERT of any number of rows in few statements. `tail` is what follows the values."""

    def __init__(self, table: str, columns: Sequence[str], tail: str = "") -> None:
        row = f"({', '.join('?' * len(columns))})"
        head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES"
        sizes = (1 << power for power in reversed(range(ROWS_MAX.bit_length())))
        self._texts = [(size, f"{head} {', '.join([row] * size)} {tail}") for size in sizes]

    def run(self, connection: apsw.Connection, rows: Sequence[Row]) -> None:
        """Insert the rows."""
        done = 0
        for size, text in self._texts:
            while len(rows) - done >= size:
                connection.execute(text, tuple(chain.from_iterable(rows[done : done + size])))
                done += size


def read_array(connection: apsw.Connection, query: str, bindings: Bindings = ()) -> bytes:
    """Return the last column of all rows of a query, which is called `record`, as one JSON array in their order.

    One value is one step of SQLite and one call of the decoder.
    """
    # group_concat() takes the rows of a subquery as they come.
    together = f"SELECT CAST('[' || group_concat(record) || ']' AS BLOB) FROM ({query})"  # noqa: S608 - our own text
    try:
        array: bytes | None = connection.execute(together, bindings).get
    except apsw.TooBigError:  # over SQLite's limit of 1 GB for one value
        return b"[" + b",".join(row[-1] for row in connection.execute(query, bindings)) + b"]"
    return array or b"[]"


class Layout(Generic[Record]):
    """A table of records: its first column is the key, its last one is the record.

    `fixed` are columns that stay as they were inserted, so that a change of the row leaves their indexes alone.
    """

    def __init__(
        self,
        record_type: type[Record],
        table: str,
        columns: tuple[str, ...],
        row: Callable[[Record], Row],
        *,
        fixed: tuple[str, ...] = (),
    ) -> None:
        key = columns[0]
        changing = ", ".join(f"{name} = excluded.{name}" for name in columns if name != key and name not in fixed)
        keys = f"{key} IN (SELECT value FROM json_each(?))"  # noqa: S608 - our own text
        self.row = row
        self.save = InsertRows(table, columns, f"ON CONFLICT ({key}) DO UPDATE SET {changing}")
        self.load = f"SELECT record FROM {table} WHERE {keys}"  # noqa: S608 - our own text
        self.remove = f"DELETE FROM {table} WHERE {keys}"  # noqa: S608 - our own text
        self._decode = msgspec.json.Decoder(list[record_type]).decode  # type: ignore[valid-type]

    def read(self, connection: apsw.Connection, query: str, bindings: Bindings = ()) -> list[Record]:
        """Return the records of a query, whose last column is `record`."""
        return self._decode(read_array(connection, query, bindings))

    def read_due(self, connection: apsw.Connection, query: str, now: int, limit: int) -> list[Record]:
        """Return what is due: at most `limit` records, and no more once they have `DUE_MAX_BYTES`."""
        found: list[Record] = []
        size, portion = 0, DUE_FIRST
        while len(found) < limit and size < DUE_MAX_BYTES:
            wanted = min(portion, limit - len(found))
            array = read_array(connection, query, (now, wanted, len(found)))
            records = self._decode(array)
            found += records
            if len(records) < wanted:
                break
            size += len(array)
            portion *= DUE_GROWTH
        return found

    def find(self, connection: apsw.Connection, keys: Sequence[str]) -> list[Record]:
        """Return the records that have one of the keys, in any order."""
        found: list[Record] = []
        for start in range(0, len(keys), READ_MAX):
            found += self.read(connection, self.load, (encode_keys(keys[start : start + READ_MAX]),))
        return found


def encode_keys(keys: Sequence[str]) -> str:
    """Return the form in which a list is bound to `json_each(?)`."""
    return msgspec.json.encode(keys).decode()


class Table(Generic[Record]):
    """What one transaction knows of a table, and what it has still to write."""

    def __init__(self, connection: apsw.Connection, layout: Layout[Record]) -> None:
        self._connection = connection
        self._layout = layout
        self._known: dict[str, Record | None] = {}
        self._pending: dict[str, Record | None] = {}

    def load(self, keys: Iterable[str]) -> None:
        """Read ahead what will be asked for."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._known]
        if missing:
            self._known.update(dict.fromkeys(missing))
            for record in self._layout.find(self._connection, missing):
                self._known[self._layout.row(record)[0]] = record

    def get(self, key: str) -> Record | None:
        """Return a record with the changes of this transaction."""
        if key not in self._known:
            self.load((key,))
        return self._known[key]

    def put(self, key: str, record: Record) -> None:
        """Insert or change."""
        if key in self._pending and self._pending[key] is None:
            self.write()  # removed a moment ago: what comes now is a row of its own, fixed columns included
        self._known[key] = self._pending[key] = record

    def remove(self, key: str) -> None:
        """Remove the row, if there is one."""
        self._known[key] = self._pending[key] = None

    def write(self) -> None:
        """Bring the table up to what was put and removed."""
        pending, self._pending = self._pending, {}
        removed = [key for key, record in pending.items() if record is None]
        if removed:
            self._connection.execute(self._layout.remove, (encode_keys(removed),))
        rows = [self._layout.row(record) for record in pending.values() if record is not None]
        if rows:
            self._layout.save.run(self._connection, rows)
