"""The settings of the PostgreSQL backend: one table, read from `DATABASE_URL` and `OJS_POSTGRES_*`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from ojs_core.variables import Setting, choice, flag, read_values, whole

POOL_MAX = 200
TIMEOUT_MAX_MS = 600_000

Migrate = Literal["auto", "never"]
Durability = Literal["server", "on", "local", "remote_write", "remote_apply", "off"]

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_AUTHORITY = re.compile(r"(?P<before>[^/]*//(?:[^/?#]*@)?)(?P<hosts>[^/?#]*)(?P<behind>.*)", re.DOTALL)


class PostgresConfig(Struct, frozen=True, kw_only=True):
    """The settings of one store; `SETTINGS` has the variable and the meaning of each."""

    url: str = "postgresql://127.0.0.1:5432/postgres"
    listen_url: str | None = None
    schema: str = "ojs"
    pool_size: int = 10
    timeout_ms: int = 10_000
    connect_timeout_ms: int = 5_000
    pooler: bool = False
    migrate: Migrate = "auto"
    durability: Durability = "server"

    @property
    def notify_url(self) -> str | None:
        """Where to listen for wake-ups; None: nowhere, because a pooler hands the connection to others."""
        return self.listen_url or (None if self.pooler else self.url)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> PostgresConfig:
        """Read the settings. Raises `SettingsError`, naming the variable, for a value that makes no sense."""
        return cls(**read_values(SETTINGS, environ))


def one_by_one(url: str) -> list[str]:
    """Return the URL once for each of the hosts in it, with that one alone.

    >>> one_by_one("postgresql://me@one,two:5433/jobs")
    ['postgresql://me@one/jobs', 'postgresql://me@two:5433/jobs']
    """
    parts = _AUTHORITY.fullmatch(url)
    if parts is None:
        return [url]
    return [parts["before"] + host + parts["behind"] for host in parts["hosts"].split(",")]


def _url(text: str) -> str:
    # Several hosts, and what follows the question mark, are the driver's to read: see `backend`.
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("a URL such as postgresql://user:password@host:5432/database")
    return text


def _schema(text: str) -> str:
    if _SCHEMA.fullmatch(text) is None or text.startswith("pg_"):
        raise ValueError("at most 40 of a-z, 0-9 and _, not beginning with a digit or pg_")
    return text


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "DATABASE_URL",
        "url",
        _url,
        "The database: `postgresql://user:password@host:5432/database`. What is left out comes from `PGHOST`, "
        "`PGUSER`, `PGPASSWORD` and so on; `?sslmode=verify-full` asks for TLS with a verified name.",
        "postgresql://127.0.0.1:5432/postgres",
        secret=True,
    ),
    Setting(
        "OJS_POSTGRES_SCHEMA",
        "schema",
        _schema,
        "The schema that holds everything of this server. Servers of one schema share its jobs.",
        "ojs",
    ),
    Setting(
        "OJS_POSTGRES_POOL_SIZE",
        "pool_size",
        whole(1, POOL_MAX),
        "Most connections of one server process for requests. Background work has two more, wake-ups one.",
        10,
    ),
    Setting(
        "OJS_POSTGRES_TIMEOUT_MS",
        "timeout_ms",
        whole(100, TIMEOUT_MAX_MS),
        "Longest time in ms that one statement, or the wait for a free connection, may take before it is answered "
        "with 503.",
        10_000,
    ),
    Setting(
        "OJS_POSTGRES_CONNECT_TIMEOUT_MS",
        "connect_timeout_ms",
        whole(100, TIMEOUT_MAX_MS),
        "Longest time in ms that making a connection may take.",
        5_000,
    ),
    Setting(
        "OJS_POSTGRES_POOLER",
        "pooler",
        flag,
        "`true` if DATABASE_URL leads to a pooler in transaction mode (PgBouncer): no prepared statements, no settings "
        "of the session, and wake-ups only with OJS_POSTGRES_LISTEN_URL.",
        False,  # noqa: FBT003 - the default shown
    ),
    Setting(
        "OJS_POSTGRES_LISTEN_URL",
        "listen_url",
        _url,
        "Where to listen for wake-ups if not at DATABASE_URL: the server behind the pooler, of the same database.",
        None,
        secret=True,
    ),
    Setting(
        "OJS_POSTGRES_MIGRATE",
        "migrate",
        choice("auto", "never"),
        "`auto`: bring the schema up to date at the start. `never`: refuse to start until `ojs-server migrate` did, "
        "for a server whose role may not create anything.",
        "auto",
    ),
    Setting(
        "OJS_POSTGRES_DURABILITY",
        "durability",
        choice("server", "on", "local", "remote_write", "remote_apply", "off"),
        "`synchronous_commit` of the sessions; `server` leaves it as the server, database or role has it. `off`: a "
        "crash of the database may take the last moments of answered changes.",
        "server",
    ),
)
"""Every variable of this backend."""
