"""How settings are read from the environment: a table of variables, for the server and for each backend.

A value that makes no sense stops the start with a message that names the variable and what it may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ojs_core.errors import SettingsError


class Setting(NamedTuple):
    """One variable: the field it fills, how it is read, and what it means.

    `parse` raises `ValueError` with what is expected. `default` is only shown; the struct with the fields has it too.
    """

    variable: str
    field: str
    parse: Callable[[str], Any]
    meaning: str
    default: object = None
    secret: bool = False


def read_values(settings: Iterable[Setting], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that an environment sets; a variable that is empty counts as not set.

    Raises `SettingsError`, naming the variable and what it may be.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        text = environ.get(setting.variable, "").strip()
        if not text:
            continue
        try:
            values[setting.field] = setting.parse(text)
        except ValueError as error:
            shown = "" if setting.secret else f"={text}"
            raise SettingsError(f"{setting.variable}{shown}: must be {error}.") from None
    return values


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers between two bounds, both included."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return parse


def choice(*choices: str) -> Callable[[str], str]:
    """Return a parser of one of some words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return text.lower()

    return parse


def flag(text: str) -> bool:
    """Parse a yes or no."""
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError("true or false")
