"""LISTEN and NOTIFY: servers tell each other which queues got work.

A NOTIFY makes every commit that carries one wait for a lock of the whole database. So it is sent by itself, after the
commit, on a connection of its own, for everything that came together in the last moments.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import asyncpg
import msgspec

from ojs_backend_postgres.config import PostgresConfig
from ojs_backend_postgres.connections import connect, pause
from ojs_backend_postgres.errors import FAULTS

log = logging.getLogger("ojs.postgres")

PAUSE_S = 0.01
"""Shortest time between two notifications of one server."""
PAYLOAD_MAX = 7900
"""PostgreSQL takes less than 8000 bytes. What is longer becomes a call to everyone."""
CHECK_S = 10.0
"""How often a silent connection is asked whether it is still there."""
RETRY_S = (0.05, 2.0)
"""Pause before a connection is made again: at first, and at most."""

_decode_names = msgspec.json.Decoder(frozenset[str]).decode


def channel_of(schema: str) -> str:
    """Return the channel on which the servers of a schema talk."""
    return f"{schema}.wake"


class Wakeups:
    """The connection of one server for wake-ups, made again whenever it is lost.

    `ring` is called with the queues that another server, or an application, put work into; with None after a loss,
    since nobody knows what was missed.
    """

    def __init__(self, config: PostgresConfig, ring: Callable[[frozenset[str] | None], None]) -> None:
        self._config = config
        self._ring = ring
        self._channel = channel_of(config.schema)
        self._connection: asyncpg.Connection | None = None
        # A connection does one thing at a time.
        self._using = asyncio.Lock()
        self._lost = asyncio.Event()
        self._told = asyncio.Event()
        self._news: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        # Beside the cancellation of the tasks, which a connection attempt may swallow.
        self._closed = False

    async def open(self) -> None:
        """Listen. Raises what the driver raises."""
        self._closed = False
        await self._connect()
        self._tasks = [
            asyncio.create_task(self._keep_listening(), name="ojs-postgres-listen"),
            asyncio.create_task(self._keep_telling(), name="ojs-postgres-notify"),
        ]

    async def close(self) -> None:
        """Tell what was not told yet, and disconnect."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*FAULTS):
                await self._send(connection)
                await connection.close(timeout=1)
            connection.terminate()

    def tell(self, queues: set[str]) -> None:
        """Tell the other servers, soon."""
        self._news |= queues
        self._told.set()

    async def _connect(self) -> None:
        url = self._config.notify_url
        connection = await connect(self._config, url, purpose="ojs-server wake-ups")
        try:
            connection.add_termination_listener(lambda _: self._lost.set())
            await connection.add_listener(self._channel, self._heard)
        except BaseException:
            connection.terminate()
            raise
        self._lost.clear()
        self._connection = connection

    def _heard(self, connection: asyncpg.Connection, pid: int, channel: str, payload: str) -> None:  # noqa: ARG002
        if pid == connection.get_server_pid():
            return  # our own: rung before it was sent
        try:
            self._ring(_decode_names(payload) if payload else None)
        except msgspec.MsgspecError:
            self._ring(None)

    async def _keep_listening(self) -> None:
        while not self._closed:
            await pause(CHECK_S, unless=self._lost)
            if self._lost.is_set() or not await self._is_there():
                await self._connect_again()
                self._ring(None)

    async def _is_there(self) -> bool:
        connection = self._connection
        if connection is None:
            return False
        try:
            async with self._using:
                await connection.fetchval("SELECT 1", timeout=CHECK_S / 2)
        except FAULTS:
            connection.terminate()
            return False
        return True

    async def _connect_again(self) -> None:
        wait_s, longest_s = RETRY_S
        self._connection = None
        log.warning("The connection for wake-ups was lost; it is made again.")
        while not self._closed:
            try:
                await self._connect()
            except FAULTS:
                await pause(wait_s)
                wait_s = min(2 * wait_s, longest_s)
            else:
                return

    async def _keep_telling(self) -> None:
        while not self._closed:
            await self._told.wait()
            self._told.clear()
            connection = self._connection
            if connection is not None:
                with contextlib.suppress(*FAULTS):
                    await self._send(connection)
            await pause(PAUSE_S)

    async def _send(self, connection: asyncpg.Connection) -> None:
        if self._news:
            news, self._news = self._news, set()
            payload = msgspec.json.encode(sorted(news)).decode()
            if len(payload.encode()) > PAYLOAD_MAX:
                payload = ""
            async with self._using:
                await connection.execute("SELECT pg_notify($1, $2)", self._channel, payload)
