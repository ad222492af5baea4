"""The PostgreSQL backend of ojs-server: the hook that makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ojs_backend_postgres.backend import PostgresBackend
from ojs_backend_postgres.config import SETTINGS, PostgresConfig
from ojs_core.backend import Backend
from ojs_core.hookspecs import hookimpl
from ojs_core.variables import Setting


@hookimpl
def ojs_make_backend(environ: Mapping[str, str]) -> Backend:
    """Make the PostgreSQL backend from `DATABASE_URL` and `OJS_POSTGRES_*`; nothing is opened yet."""
    return PostgresBackend(PostgresConfig.from_environ(environ))


@hookimpl
def ojs_backend_settings() -> Sequence[Setting]:
    """Return the variables this backend reads."""
    return SETTINGS
