"""One connection that many requests share: commands go out as they come, replies come back in order.

Redis serves one command at a time, so a second connection would make nothing faster; what a pool costs per command is
more than Redis itself takes. A request that is not answered in time ends the connection, and with it what was sent
behind it: nobody knows any more what became of that.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ojs_backend_redis.route import Route, Verdict, hang_up

Command = tuple[str | bytes | int, ...]
SERVERS_MAX = 4
"""Servers that a request is sent to, one after the other, if each says that another one has the store."""
LARGE_BYTES = 32 * 1024
"""Below it a request goes into the buffers at once."""


class _NotSentError(RedisConnectionError):
    """The connection ended before it was the request's turn: nothing of it was run."""


class _Asked(NamedTuple):
    future: asyncio.Future[list[Any]]
    commands: int
    deadline: float
    replies: list[Any]


class Lane:
    """Connects when first asked, and anew after the connection was lost."""

    def __init__(self, route: Route, timeout_s: float) -> None:
        self._route = route
        self._timeout_s = timeout_s
        self._link: _Link | None = None
        self._left: list[_Link] = []
        self._connecting: asyncio.Task[_Link] | None = None
        self._closed = False

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one trip and return their replies; one that is an error reply is returned, not raised.

        Raises `redis.exceptions.ConnectionError` or `TimeoutError` if no answer came: the commands may have been run.
        """
        replies: list[Any] = []
        for left in reversed(range(SERVERS_MAX)):
            link = self._link
            if link is None or link.broken:
                link = await self._connected()
            try:
                replies = await link.ask(commands)
            except _NotSentError:
                if left and not self._closed:
                    continue
                raise
            verdict = self._route.judge(replies[0])
            if verdict is not Verdict.STAY and link is self._link:
                # What else is under way on it is still answered; those requests will see for themselves.
                self._link = None
                self._left = [*(other for other in self._left if not other.broken), link]
                link.retire()
            if verdict is not Verdict.ELSEWHERE:
                break
        return replies

    async def _connected(self) -> _Link:
        """Connect, once for all who wait for it."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._open())
            self._connecting.add_done_callback(self._forget_task)
        # Whoever is cancelled takes the connection from nobody else.
        return await asyncio.shield(self._connecting)

    def _forget_task(self, task: asyncio.Task[_Link]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # those who waited were told

    async def _open(self) -> _Link:
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._route.connect()
        except TimeoutError as error:
            raise RedisTimeoutError("no connection in time") from error
        except OSError as error:
            raise RedisConnectionError(str(error)) from error
        self._link = _Link(connection, self._timeout_s)
        return self._link

    async def close(self) -> None:
        """Disconnect. What is under way is not waited for."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        links = self._left if self._link is None else [*self._left, self._link]
        self._link, self._left = None, []
        for link in links:
            link.fail(RedisConnectionError("connection closed"))
            await link.ended()


class _Link:
    """A connection, those who wait for its replies, and the task that reads them."""

    def __init__(self, connection: AbstractConnection, timeout_s: float) -> None:
        self._failed = False
        self._retired = False
        self._large = 0
        self._connection = connection
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._asked: deque[_Asked] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._reader = self._loop.create_task(self._read())

    @property
    def broken(self) -> bool:
        """Whether no reply can come any more."""
        return self._failed or not self._connection.is_connected

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """See `Lane.ask`."""
        # Its stub takes a tuple of one.
        packed = [pack_command(command) for command in commands]  # type: ignore[arg-type]
        request = _Asked(self._loop.create_future(), len(commands), self._loop.time() + self._timeout_s, [])
        if self._large or sum(map(len, packed)) > LARGE_BYTES:
            # Sending may have to wait for Redis to take it. A caller who is cancelled then must not cut it off.
            await asyncio.shield(self._loop.create_task(self._send_large(request, packed)))
        else:
            await self._send(request, packed)
        return await request.future

    async def _send_large(self, request: _Asked, packed: list[bytes]) -> None:
        self._large += 1
        try:
            await self._send(request, packed)
        finally:
            self._large -= 1

    async def _send(self, request: _Asked, packed: list[bytes]) -> None:
        if self._failed:
            # Since it was asked, and nobody looks at the queue any more.
            request.future.set_exception(_NotSentError("connection lost"))
            return
        # Nothing is awaited before the bytes are on their way, so replies come in the order of the queue.
        self._asked.append(request)
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout_s, self._check_time)
        try:
            await self._connection.send_packed_command(packed, check_health=False)
        except (RedisError, OSError) as error:
            self.fail(error)

    async def _read(self) -> None:
        connection, asked = self._connection, self._asked
        try:
            while True:
                try:
                    reply = await connection.read_response(timeout=math.inf)
                except (RedisConnectionError, RedisTimeoutError):
                    raise
                except RedisError as error:
                    reply = error
                request = asked[0]
                request.replies.append(reply)
                if len(request.replies) == request.commands:
                    asked.popleft()
                    if not request.future.done():  # else the caller was cancelled
                        request.future.set_result(request.replies)
                    if self._retired and not asked:
                        raise RedisConnectionError("connection left")
        except (RedisError, OSError) as error:
            self.fail(error)

    def _check_time(self) -> None:
        """Give up if the oldest request has waited for too long."""
        self._watch = None
        if not self._asked or self._failed:
            return
        left = self._asked[0].deadline - self._loop.time()
        if left <= 0:
            self.fail(RedisTimeoutError("no reply in time"))
        else:
            self._watch = self._loop.call_later(left, self._check_time)

    def retire(self) -> None:
        """End the connection as soon as nobody waits for a reply any more."""
        self._retired = True
        if not self._asked:
            self.fail(RedisConnectionError("connection left"))

    def fail(self, error: Exception) -> None:
        """End the connection, and tell all who wait that no reply will come."""
        if not self._failed:
            self._failed = True
            self._ending = self._loop.create_task(self._disconnect())
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        while self._asked:
            future = self._asked.popleft().future
            if not future.done():
                future.set_exception(error)

    async def _disconnect(self) -> None:
        await hang_up(self._connection)
        self._reader.cancel()

    async def ended(self) -> None:
        """Wait until the connection that failed is closed."""
        if self._ending is not None:
            await asyncio.wait({self._ending, self._reader})
