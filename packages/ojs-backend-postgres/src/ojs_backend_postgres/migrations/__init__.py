"""The schema, as numbered steps forward (`0001_tables.sql`, ...); the table `migration` says which were taken."""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

from ojs_backend_postgres.queries import in_schema


class Step(NamedTuple):
    """One step: its number, from 1 without gaps, the name of its file and the text, written for the schema `ojs`."""

    number: int
    name: str
    text: str


def _load() -> tuple[Step, ...]:
    folder = files(__name__)
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(
        Step(int(name[:4]), name.removesuffix(".sql"), (folder / name).read_text(encoding="utf-8")) for name in names
    )


STEPS = _load()

CREATE = """\
CREATE SCHEMA IF NOT EXISTS ojs;
CREATE TABLE IF NOT EXISTS ojs.migration (
    number int PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""
"""Where steps are noted. Runs before the first one."""


def script(steps: tuple[Step, ...], schema: str) -> str:
    """Return steps as one script for psql: all of them happen, or none."""
    parts = ["BEGIN;", in_schema(CREATE, schema)]
    for step in steps:
        parts.append(f"-- {step.name}\n{in_schema(step.text, schema)}")
        parts.append(f"INSERT INTO {schema}.migration (number, name) VALUES ({step.number}, '{step.name}');\n")  # noqa: S608
    return "\n".join([*parts, "COMMIT;\n"])
