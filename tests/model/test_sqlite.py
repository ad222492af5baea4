"""The embedded store against the reference backend, command by command."""

from __future__ import annotations

from ojs_backend_sqlite.backend import SQLiteBackend
from ojs_backend_sqlite.config import SQLiteConfig
from ojs_core.testing.model import model_test_case

TestSQLite = model_test_case(lambda: SQLiteBackend(SQLiteConfig(path=":memory:")))
