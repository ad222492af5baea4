"""The settings of the SQLite backend: one table, read from `OJS_SQLITE_*`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from ojs_core.variables import Setting, choice, read_values, whole

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
        return cls(**read_values(SETTINGS, environ))


def _path(text: str) -> str:
    if "\0" in text:
        raise ValueError("the path of a file, or :memory:")
    return text


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "OJS_SQLITE_PATH",
        "path",
        _path,
        "The database file, on a local disk; its folder must exist. `:memory:` keeps everything in this process.",
        "ojs.db",
    ),
    Setting(
        "OJS_SQLITE_SYNCHRONOUS",
        "synchronous",
        choice("full", "normal", "off"),
        "`full`: every answered change survives a power loss. `normal`: it survives the end of the process, but a "
        "power loss may take the last moments. `off`: a power loss may destroy the database.",
        "full",
    ),
    Setting(
        "OJS_SQLITE_BUSY_TIMEOUT_MS",
        "busy_timeout_ms",
        whole(1, BUSY_TIMEOUT_MAX_MS),
        "How long a change waits in ms while another process writes, before it is answered with 503.",
        5000,
    ),
)
"""Every variable of this backend."""
