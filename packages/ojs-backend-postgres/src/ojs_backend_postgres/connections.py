"""Connections: made, lent, given up when they are not to be trusted any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg

from ojs_backend_postgres.config import PostgresConfig
from ojs_backend_postgres.errors import FAULTS, LOST_RACES, closed, unavailable
from ojs_core.errors import BackendUnavailableError

Answer = TypeVar("Answer")

ATTEMPTS = 5
"""How often a call is made that lost a race against another server. Nothing of a lost one happened."""
IDLE_S = 300.0
GRACE_MS = 1000
"""How much longer the client waits than the server works, so that the server's own word comes first."""


async def pause(seconds: float, unless: asyncio.Event | None = None) -> None:
    """Wait, but no longer than until `unless` is set. `asyncio.wait_for` before 3.12 may swallow a cancellation."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await (unless or asyncio.Event()).wait()


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg says nothing of its types
    """A connection that carries nothing from one borrower to the next, so that there is nothing to reset."""

    __slots__ = ()

    def get_reset_query(self) -> str:
        return ""


def session_settings(config: PostgresConfig) -> dict[str, str]:
    """Return the settings of each session."""
    settings = {
        "statement_timeout": str(config.timeout_ms),
        "idle_in_transaction_session_timeout": str(config.timeout_ms + 2 * GRACE_MS),
        # Plans are made when tables are small and kept when they are not.
        "enable_seqscan": "off",
        "jit": "off",
        # Whatever the role or the database has as its default: the functions take locks, and then look at what is there
        # by then. The snapshot of a stricter level is older than the locks.
        "default_transaction_isolation": "read committed",
    }
    if config.durability != "server":
        settings["synchronous_commit"] = config.durability
    return settings


async def connect(
    config: PostgresConfig, url: str | None = None, *, purpose: str, patient: bool = False
) -> asyncpg.Connection:
    """Connect directly. Raises what the driver raises.

    Args:
        config: the settings.
        url: where to, if not to where they say; then not through the pooler.
        purpose: what the database shows as the name of the connection.
        patient: let statements take as long as they take.
    """
    settings = {} if url is None and config.pooler else session_settings(config)
    if patient:
        settings.pop("statement_timeout", None)
    return await asyncpg.connect(
        url or config.url,
        timeout=config.connect_timeout_ms / 1000,
        command_timeout=None if patient else (config.timeout_ms + GRACE_MS) / 1000,
        server_settings={**settings, "application_name": purpose},
        statement_cache_size=0 if config.pooler else 100,
        connection_class=_Connection,
    )


class Connections:
    """A pool. Behind a pooler in transaction mode each call is a transaction, which keeps it on one connection."""

    def __init__(self, config: PostgresConfig, size: int, purpose: str) -> None:
        self._config = config
        self._size = size
        self._purpose = purpose
        self._pool: asyncpg.Pool | None = None
        settings = session_settings(config)
        self._begin = "BEGIN ISOLATION LEVEL READ COMMITTED; " + " ".join(
            f"SET LOCAL {name} = '{value}';" for name, value in settings.items()
        )

    async def open(self) -> None:
        """Make the first connection. Raises what the driver raises."""
        config = self._config
        self._pool = await asyncpg.create_pool(
            config.url,
            min_size=1,
            max_size=self._size,
            max_inactive_connection_lifetime=IDLE_S,
            timeout=config.connect_timeout_ms / 1000,
            command_timeout=(config.timeout_ms + GRACE_MS) / 1000,
            statement_cache_size=0 if config.pooler else 100,
            server_settings={
                "application_name": self._purpose,
                **({} if config.pooler else session_settings(config)),
            },
            connection_class=_Connection,
        )

    async def close(self) -> None:
        """Wait for what is under way, and disconnect."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout((self._config.timeout_ms + 2 * GRACE_MS) / 1000):
                    await pool.close()
            except FAULTS:
                pool.terminate()

    async def ping(self, seconds: float) -> None:
        """Return if the database answers in time. Raises `BackendUnavailableError`."""
        await self._call(lambda connection: connection.fetchval("SELECT 1", timeout=seconds), seconds)

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Run a statement and return its rows. Raises `BackendUnavailableError`."""
        rows: list[asyncpg.Record] = await self._call(lambda connection: connection.fetch(query, *arguments))
        return rows

    async def fetch_value(self, query: str, *arguments: object) -> Any:  # noqa: ANN401 - as the statement says
        """Run a statement and return the first value of its first row. Raises `BackendUnavailableError`."""
        return await self._call(lambda connection: connection.fetchval(query, *arguments))

    async def execute(self, script: str) -> None:
        """Run statements without parameters, all or none. Raises `BackendUnavailableError`."""
        await self._call(lambda connection: connection.execute(script))

    async def _call(
        self, call: Callable[[asyncpg.Connection], Awaitable[Answer]], patience_s: float | None = None
    ) -> Answer:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self._lent(patience_s or self._config.timeout_ms / 1000) as connection:
                    if not self._config.pooler:
                        return await call(connection)
                    await connection.execute(self._begin)
                    answer = await call(connection)
                    await connection.execute("COMMIT")
                    return answer
            except LOST_RACES as error:
                if attempt == ATTEMPTS:
                    raise unavailable(error) from error
            except FAULTS as error:
                raise unavailable(error) from error
        raise AssertionError  # the last attempt returned or raised

    @asynccontextmanager
    async def _lent(self, patience_s: float) -> AsyncIterator[asyncpg.Connection]:
        pool = self._pool
        if pool is None:
            raise closed()
        try:
            connection = await pool.acquire(timeout=patience_s)
        except TimeoutError as error:
            raise BackendUnavailableError("No connection to the database could be had in time.") from error
        try:
            yield connection
        except LOST_RACES:
            if self._config.pooler:
                connection.terminate()
            raise
        except FAULTS:
            # Whatever state it is in: a standby that was promoted, a statement that still runs, a type that changed.
            connection.terminate()
            raise
        finally:
            await pool.release(connection)
