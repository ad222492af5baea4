"""The settings of the SQLite backend: one table, read from `OJS_SQLITE_*`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, cast

from msgspec import Struct

from ojs_core.errors import SettingsError

MEMORY = ":memory:"
"""The path of a database that lives in this process only."""
BUSY_TIMEOUT_MAX_MS = 600_000

Synchronous = Literal["full", "normal", "off"]


class SQLiteConfig(Struct, frozen=True, kw_only=True):
    """The settings of one store; `SETTINGS` has the variable and the meaning of each."""

    path: str = "ojs.db"
    synchronous: Synchronous = "full"
    busy_timeout_ms: int = 5000

    @property
    def in_memory(self) -> bool:
        """Whether the database ends with this process."""
        return self.path == MEMORY

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> SQLiteConfig:
        """Read the settings. Raises `SettingsError`, naming the variable, for a value that makes no sense."""
        values: dict[str, Any] = {}
        for setting in SETTINGS:
            text = environ.get(setting.variable)
            if text is None:
                continue
            try:
                values[setting.field] = setting.parse(text.strip())
            except ValueError as error:
                raise SettingsError(f"{setting.variable}={text}: expected {error}.") from None
        return cls(**values)


class Setting(NamedTuple):
    """One variable: the field it fills, how it is read, and what it means."""

    variable: str
    field: str
    parse: Callable[[str], Any]
    meaning: str


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("the path of a file, or :memory:")
    return text


def _synchronous(text: str) -> Synchronous:
    if text.lower() not in ("full", "normal", "off"):
        raise ValueError("full, normal or off")
    return cast("Synchronous", text.lower())


def _timeout_ms(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= BUSY_TIMEOUT_MAX_MS:
        raise ValueError(f"a whole number from 1 to {BUSY_TIMEOUT_MAX_MS}")
    return int(text)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "OJS_SQLITE_PATH",
        "path",
        _path,
        "The database file, on a local disk; its folder must exist. `:memory:` keeps everything in this process.",
    ),
    Setting(
        "OJS_SQLITE_SYNCHRONOUS",
        "synchronous",
        _synchronous,
        "`full`: every answered change survives a power loss. `normal`: it survives the end of the process, but a "
        "power loss may take the last moments. `off`: a power loss may destroy the database.",
    ),
    Setting(
        "OJS_SQLITE_BUSY_TIMEOUT_MS",
        "busy_timeout_ms",
        _timeout_ms,
        "How long a change waits in ms while another process writes, before it is answered with 503.",
    ),
)
"""Every variable of this backend."""
