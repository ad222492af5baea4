"""The SQLite backend of ojs-server: the hook that makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ojs_backend_sqlite.backend import SQLiteBackend
from ojs_backend_sqlite.config import SETTINGS, SQLiteConfig
from ojs_core.backend import Backend
from ojs_core.hookspecs import hookimpl
from ojs_core.variables import Setting


@hookimpl
def ojs_make_backend(environ: Mapping[str, str]) -> Backend:
    """Make the SQLite backend from `OJS_SQLITE_*`; nothing is opened yet. Raises `SettingsError`."""
    return SQLiteBackend(SQLiteConfig.from_environ(environ))


@hookimpl
def ojs_backend_settings() -> Sequence[Setting]:
    """Return the variables this backend reads."""
    return SETTINGS
