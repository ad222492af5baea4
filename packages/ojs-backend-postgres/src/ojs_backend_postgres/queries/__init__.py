"""The statements, one per file: what it answers, its parameters with their units, and the text.

In the files the schema is called `ojs`, so that each can be run as it is; `Queries` puts the configured one
in its place.
"""

from __future__ import annotations

import re
from importlib.resources import files

SCHEMA = re.compile(r"\bojs\b")


def in_schema(text: str, schema: str) -> str:
    """Return SQL written for the schema `ojs`, for another one. The name needs no quotes: see `config`."""
    return SCHEMA.sub(schema, text)


def _load() -> dict[str, str]:
    folder = files(__name__)
    names = sorted(entry.name.removesuffix(".sql") for entry in folder.iterdir() if entry.name.endswith(".sql"))
    texts = ((name, (folder / f"{name}.sql").read_text(encoding="utf-8")) for name in names)
    # The header is for people.
    return {name: "\n".join(line for line in text.splitlines() if not line.startswith("--")) for name, text in texts}


_TEXTS = _load()


class Queries:
    """The statements for one schema, as attributes named after their files."""

    def __init__(self, schema: str) -> None:
        self._texts = {name: in_schema(text, schema) for name, text in _TEXTS.items()}

    def __getattr__(self, name: str) -> str:
        """Return the text of a statement."""
        try:
            return self._texts[name]
        except KeyError:
            raise AttributeError(name) from None
