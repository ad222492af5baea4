"""Hearing of work that other servers made available: one subscription, renewed for as long as the store is open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from ojs_backend_redis.layout import decode_text
from ojs_backend_redis.route import Route, hang_up

log = logging.getLogger("ojs.redis")

PING_S = 5.0
"""A line that is silent for so long is asked for a sign of life; as much later it is given up."""
RETRY_FIRST_S, RETRY_MAX_S = 0.05, 2.0

Ring = Callable[[frozenset[str] | None], None]


class Doorbell:
    """Calls `ring` for the messages of others. After a lost connection everybody is rung: some may have been missed."""

    def __init__(self, route: Route, channel: str, origin: str, ring: Ring, timeout_s: float) -> None:
        self._route = route
        self._channel = channel
        self._own = f"{origin}\n".encode()
        self._ring = ring
        self._timeout_s = timeout_s
        self._closed = asyncio.Event()
        self._connection: AbstractConnection | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Subscribe. Raises `redis.exceptions.RedisError` and `OSError`."""
        self._connection = await self._subscribe()
        self._task = asyncio.create_task(self._listen(), name="ojs-redis-doorbell")

    async def close(self) -> None:
        """End the subscription."""
        self._closed.set()
        if self._connection is not None:
            await hang_up(self._connection)
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _subscribe(self) -> AbstractConnection:
        async with asyncio.timeout(self._timeout_s):
            connection = await self._route.connect()
            try:
                await connection.send_command("SUBSCRIBE", self._channel, check_health=False)
                await connection.read_response()
            except BaseException:
                await hang_up(connection)
                raise
        return connection

    async def _listen(self) -> None:
        while self._connection is not None:
            try:
                await self._hear(self._connection)
            except (RedisError, OSError) as error:
                if not self._closed.is_set():
                    log.info("The subscription to wake-ups was lost (%s); it is renewed.", type(error).__name__)
            await hang_up(self._connection)
            self._connection = await self._renew()
            if self._connection is not None:
                self._ring(None)

    async def _hear(self, connection: AbstractConnection) -> None:
        asked = False
        while True:
            message = await connection.read_response(timeout=PING_S)
            if message is not None:
                asked = False
                self._take(message)
            elif asked:
                raise RedisConnectionError("no sign of life")
            else:
                await connection.send_command("PING", check_health=False)
                asked = True

    def _take(self, message: Any) -> None:  # noqa: ANN401 - a reply of Redis: [b"message", channel, text], or a pong
        if message[0] == b"message" and not message[2].startswith(self._own):
            _, *names = message[2].split(b"\n")
            self._ring(frozenset(map(decode_text, names)))

    async def _renew(self) -> AbstractConnection | None:
        """Subscribe again, however long it takes; None: the store was closed meanwhile."""
        pause_s = RETRY_FIRST_S
        while not self._closed.is_set():
            try:
                connection = await self._subscribe()
            except (RedisError, OSError, TimeoutError):
                # Not a sleep: closing ends it.
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closed.wait(), pause_s)
                pause_s = min(RETRY_MAX_S, pause_s * 2)
                continue
            if not self._closed.is_set():
                return connection
            await hang_up(connection)
        return None
