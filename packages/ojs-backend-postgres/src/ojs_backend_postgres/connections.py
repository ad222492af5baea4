"""Connections: made, lent, given up when they are not to be trusted any more."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import asyncpg

from ojs_backend_postgres.config import PostgresConfig, one_by_one
from ojs_backend_postgres.errors import FAULTS, LOST_RACES, closed, unavailable
from ojs_core.errors import BackendUnavailableError

Answer = TypeVar("Answer")

ATTEMPTS = 5
"""How often a call is made that lost a race against another server. Nothing of a lost one happened."""
IDLE_S = 300.0
"""How long a connection may lie unused: what lies between may forget it without a word."""
GRACE_MS = 1000
"""How much longer the client waits than the server works, so that the server's own word comes first."""


async def pause(seconds: float, unless: asyncio.Event | None = None) -> None:
    """Wait, but no longer than until `unless` is set. `asyncio.wait_for` before 3.12 may swallow a cancellation."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await (unless or asyncio.Event()).wait()


def _now() -> float:
    return asyncio.get_running_loop().time()


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

    Of several hosts each gets its share of the time: one that hangs does not keep the others from being asked.

    Args:
        config: the settings.
        url: where to, if not to where they say; then not through the pooler.
        purpose: what the database shows as the name of the connection.
        patient: let statements take as long as they take.
    """
    settings = {} if url is None and config.pooler else session_settings(config)
    if patient:
        settings.pop("statement_timeout", None)
    hosts = one_by_one(url or config.url)

    def dial(host: str) -> Awaitable[asyncpg.Connection]:
        dialling: Awaitable[asyncpg.Connection] = asyncpg.connect(
            host,
            timeout=config.connect_timeout_ms / 1000 / len(hosts),
            command_timeout=None if patient else (config.timeout_ms + GRACE_MS) / 1000,
            server_settings={**settings, "application_name": purpose},
            statement_cache_size=0 if config.pooler else 100,
        )
        return dialling

    for host in hosts[:-1]:
        with suppress(*FAULTS):
            return await dial(host)
    return await dial(hosts[-1])


class Connections:
    """Up to `size` connections, each lent to one call at a time. They are made when they are needed.

    Behind a pooler in transaction mode each call is a transaction, so that it stays on one. This is not asyncpg's pool:
    a task, a timer and a proxy for each call take more of this process's time than the call itself.
    """

    def __init__(self, config: PostgresConfig, size: int, purpose: str) -> None:
        self._config = config
        self._size = size
        self._purpose = purpose
        settings = session_settings(config)
        self._begin = "BEGIN ISOLATION LEVEL READ COMMITTED; " + " ".join(
            f"SET LOCAL {name} = '{value}';" for name, value in settings.items()
        )
        self._is_open = False
        self._connections: set[asyncpg.Connection] = set()
        # With the time each was used; the last one first, so that those that are not needed grow old.
        self._idle: deque[tuple[float, asyncpg.Connection]] = deque()
        self._waiting: deque[asyncio.Future[asyncpg.Connection | None]] = deque()
        self._places = size
        self._all_back = asyncio.Event()

    async def open(self) -> None:
        """Make the first connection. Raises what the driver raises."""
        self._is_open = True
        self._give_back(await self._get())

    async def close(self) -> None:
        """Wait for what is under way, and disconnect."""
        self._is_open = False
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(closed())
        self._waiting.clear()
        try:
            async with asyncio.timeout((self._config.timeout_ms + 2 * GRACE_MS) / 1000):
                while len(self._idle) + self._places < self._size:
                    self._all_back.clear()
                    await self._all_back.wait()
                for _, connection in self._idle:
                    await connection.close()
        except FAULTS:
            pass
        finally:
            for connection in self._connections:
                connection.terminate()
            self._connections.clear()
            self._idle.clear()
            self._places = self._size

    async def ping(self, query: str, seconds: float) -> None:
        """Return if the database runs a statement in time. Raises `BackendUnavailableError`."""
        await self._call(lambda connection: connection.execute(query, timeout=seconds), seconds)

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
            connection = await self._lend(patience_s or self._config.timeout_ms / 1000)
            try:
                if self._config.pooler:
                    return await self._in_transaction(connection, call)
                return await call(connection)
            except LOST_RACES as error:
                if attempt == ATTEMPTS:
                    raise unavailable(error) from error
            except FAULTS as error:
                # Whatever state it is in: a standby that was promoted, a statement that runs on, a type that changed.
                connection.terminate()
                raise unavailable(error) from error
            finally:
                # If the caller was cancelled, so is the statement; the driver waits for that before the next one.
                self._give_back(connection)
        raise AssertionError  # the last attempt returned or raised

    async def _in_transaction(
        self, connection: asyncpg.Connection, call: Callable[[asyncpg.Connection], Awaitable[Answer]]
    ) -> Answer:
        try:
            await connection.execute(self._begin)
            answer = await call(connection)
            await connection.execute("COMMIT")
        except BaseException:
            connection.terminate()
            raise
        return answer

    async def _lend(self, patience_s: float) -> asyncpg.Connection:
        """Return a connection that nobody uses. Raises `BackendUnavailableError`."""
        if not self._is_open:
            raise closed()
        while self._idle:
            used_at, connection = self._idle.pop()
            if not connection.is_closed() and _now() - used_at < IDLE_S:
                return connection
            self._give_up(connection)
        try:
            async with asyncio.timeout(patience_s):
                return await self._get()
        except TimeoutError as error:
            raise BackendUnavailableError("No connection to the database could be had in time.") from error
        except FAULTS as error:
            raise unavailable(error) from error

    async def _get(self) -> asyncpg.Connection:
        """Make a connection, or wait for one."""
        if self._places > 0:
            self._places -= 1
        else:
            waiter: asyncio.Future[asyncpg.Connection | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                connection = await waiter
            except asyncio.CancelledError:
                if not waiter.cancelled() and waiter.exception() is None:
                    self._pass_on(waiter.result())
                raise
            if connection is not None:
                return connection
        try:
            connection = await connect(self._config, purpose=self._purpose)
        except BaseException:
            self._pass_on(None)
            raise
        self._connections.add(connection)
        return connection

    def _give_back(self, connection: asyncpg.Connection) -> None:
        if connection.is_closed():
            self._give_up(connection)
        else:
            self._pass_on(connection)

    def _give_up(self, connection: asyncpg.Connection) -> None:
        connection.terminate()
        if connection in self._connections:  # not if `close` was quicker
            self._connections.remove(connection)
            self._pass_on(None)

    def _pass_on(self, connection: asyncpg.Connection | None) -> None:
        """Hand a connection, or (None) the place of one, to who waits longest, or keep it."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if connection is None:
            self._places += 1
        else:
            now = _now()
            self._idle.append((now, connection))
            if now - self._idle[0][0] > IDLE_S:
                self._give_up(self._idle.popleft()[1])
        self._all_back.set()
