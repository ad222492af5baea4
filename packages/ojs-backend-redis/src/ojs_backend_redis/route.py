"""Which server has the store: the one named, the master that sentinels know, or the owner of a cluster's slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from enum import Enum
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, MovedError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from ojs_backend_redis.config import Address, RedisConfig, Target

ASKING_SHARE = 1 / 4
"""How much of the time for connecting one sentinel or node gets to say where the store is."""
_CLIENT_NAME = "ojs-server"


class Verdict(Enum):
    """Whether a server is the one to ask."""

    STAY = "stay"
    LEAVE = "leave"
    """It is not any more; it has refused the request."""
    ELSEWHERE = "elsewhere"
    """It is not any more; it has not run the request, which is to be sent to another."""


class Route:
    """Finds the server anew at each connection, so that a failover or a moved slot costs one reconnect."""

    def __init__(self, config: RedisConfig) -> None:
        self._target = config.target
        self._timeout_s = config.timeout_ms / 1000
        self._slot = key_slot(config.root.encode())
        self._known: tuple[Address, ...] = config.target.addresses
        self._owner: Address | None = None

    async def connect(self) -> AbstractConnection:
        """Return a connection to the server that has the store now.

        Raises `redis.exceptions.RedisError` and `OSError`.
        """
        target = self._target
        if target.path is not None:
            return await self._open(_socket_connection(target, self._timeout_s))
        if target.kind == "sentinel":
            return await self._dial(await self._ask_sentinels())
        if target.kind == "cluster":
            return await self._connect_owner()
        return await self._dial(target.addresses[0])

    def judge(self, reply: Any) -> Verdict:  # noqa: ANN401 - whatever Redis says
        """Return what a reply says of the server that gave it; the next connection goes where it points to."""
        if isinstance(reply, MovedError):
            self._owner = Address(reply.host, reply.port)
            return Verdict.ELSEWHERE
        if isinstance(reply, ReadOnlyError):
            # After a failover the old master may live on as a replica. Who is it now?
            self._owner = None
            return Verdict.LEAVE
        return Verdict.STAY

    async def _connect_owner(self) -> AbstractConnection:
        owner = self._owner or await self._ask_nodes()
        try:
            connection = await self._dial(owner)
        except BaseException:
            self._owner = None
            raise
        self._owner = owner
        return connection

    async def _ask_nodes(self) -> Address:
        """Ask the nodes of the cluster who owns the slot."""

        def owner(node: Address, ranges: Sequence[Any]) -> Address | None:
            # [first slot, last slot, master, replicas...]; a node is [host, port, ...], its host empty for "as I am".
            masters = {Address(found[2][0].decode() or node.host, found[2][1]): found[:2] for found in ranges}
            self._known = tuple(dict.fromkeys((node, *masters, *self._target.addresses)))
            for found in ranges:
                if found[0] <= self._slot <= found[1]:
                    return Address(found[2][0].decode() or node.host, found[2][1])
            return None

        nobody = ClusterDownError("nobody owns the slot", status_code="CLUSTERDOWN")
        return await self._ask_around(("CLUSTER", "SLOTS"), owner, nobody)

    async def _ask_sentinels(self) -> Address:
        """Ask the sentinels who is the master."""

        def master(_: Address, found: Sequence[Any] | None) -> Address | None:
            return Address(found[0].decode(), int(found[1])) if found else None

        nobody = RedisConnectionError("no sentinel knows a master of that name")
        return await self._ask_around(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._target.service), master, nobody)

    async def _ask_around(
        self, question: Sequence[str], named: Callable[[Address, Any], Address | None], nobody: Exception
    ) -> Address:
        """Ask one after the other, whoever answered last first, until one names a server.

        One that hangs gets a share of the time that there is, so that others are asked too.
        """
        error = nobody
        time_s = self._timeout_s * (1 if len(self._known) == 1 else ASKING_SHARE)
        for address in self._known:
            # To the end, before it is asked: if the caller's time ends with it, the next call begins with another.
            others = tuple(other for other in self._known if other != address)
            self._known = (*others, address)
            try:
                async with asyncio.timeout(time_s), self._asking(address) as connection:
                    answer = await _ask(connection, *question)
            except (RedisError, OSError) as failed:
                error = failed
                continue
            self._known = (address, *others)
            found = named(address, answer)
            if found is not None:
                return found
            error = nobody
        raise error

    @asynccontextmanager
    async def _asking(self, address: Address) -> AsyncIterator[AbstractConnection]:
        connection = await self._dial(address, asking=True)
        try:
            yield connection
        finally:
            await hang_up(connection)

    async def _dial(self, address: Address, *, asking: bool = False) -> AbstractConnection:
        target = self._target
        kind = SSLConnection if target.tls else Connection
        # Sentinels have no databases, and passwords of their own: their port is nothing to show to strangers.
        sentinel = asking and target.kind == "sentinel"
        options: dict[str, Any] = _options(target, self._timeout_s)
        if sentinel:
            options |= {"db": 0, "username": None, "password": None}
        return await self._open(kind(host=address.host, port=address.port, socket_keepalive=True, **options))

    async def _open(self, connection: AbstractConnection) -> AbstractConnection:
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await hang_up(connection)
            raise
        return connection


async def hang_up(connection: AbstractConnection) -> None:
    """Close a connection at once; what the other end has not taken yet is thrown away."""
    writer = connection._writer  # noqa: SLF001 - `disconnect` would wait for the other end, which may hang, and leave it open
    if writer is not None:
        writer.transport.abort()
    with suppress(RedisError, OSError):
        await connection.disconnect()


def _socket_connection(target: Target, timeout_s: float) -> AbstractConnection:
    return UnixDomainSocketConnection(path=target.path or "", **_options(target, timeout_s))


def _options(target: Target, timeout_s: float) -> dict[str, Any]:
    return {
        "db": target.db,
        "username": target.username,
        "password": target.password,
        "socket_timeout": None,  # the lane watches the time
        "socket_connect_timeout": timeout_s,
        # What may be repeated is known here and not in the client.
        "retry": Retry(NoBackoff(), 0),
        "client_name": _CLIENT_NAME,
        "protocol": 2,
    }


async def _ask(connection: AbstractConnection, *command: str) -> Sequence[Any]:
    await connection.send_command(*command, check_health=False)
    found: Sequence[Any] = await connection.read_response()
    return found
