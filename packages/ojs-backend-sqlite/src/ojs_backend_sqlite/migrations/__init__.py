"""The schema, as numbered steps forward (`0001_initial.sql`, ...); `PRAGMA user_version` says how far a file is."""

from __future__ import annotations

from importlib.resources import files

import apsw


def _load() -> tuple[str, ...]:
    folder = files(__name__)
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple((folder / name).read_text(encoding="utf-8") for name in names)


STEPS = _load()
"""The text of each step; the first leads to version 1."""


def apply_steps(connection: apsw.Connection) -> None:
    """Bring the schema up to the newest version. Must run in a transaction; does nothing if it is there already."""
    for version in range(connection.pragma("user_version"), len(STEPS)):
        connection.execute(STEPS[version])
        connection.pragma("user_version", version + 1)
