"""Running scripts: one trip each, reloaded when Redis forgot them, and every fault as one error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from ojs_backend_redis.config import RedisConfig
from ojs_backend_redis.errors import closed, unavailable
from ojs_backend_redis.lane import Command, Lane
from ojs_backend_redis.route import Route
from ojs_backend_redis.scripts import Script
from ojs_core.errors import BackendUnavailableError


class Client:
    """The connections of one server process: for commits, for claims, for other writes, and for reads.

    With durability an answer may wait for a disk or a replica, and Redis makes everything behind it on a connection
    wait too; hence several.
    """

    def __init__(self, config: RedisConfig) -> None:
        self.route = Route(config)
        self._keys = (f"{config.root}store", f"{config.root}locks")[: 1 if config.shards == 1 else 2]
        self._timeout_s = config.timeout_ms / 1000
        self._wait = _wait_command(config)
        self._lanes: dict[str, Lane] = {}

    def open(self) -> None:
        """Allow requests. Nothing is connected before the first one."""
        self._lanes = {name: Lane(self.route, self._timeout_s) for name in ("commit", "claim", "write", "read")}

    async def close(self) -> None:
        """Disconnect."""
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            await lane.close()

    @property
    def is_open(self) -> bool:
        """Whether requests are allowed."""
        return bool(self._lanes)

    async def write(self, script: Script, *arguments: str | bytes | int) -> Any:  # noqa: ANN401 - as the script says
        """Run a script that may change something, and wait for what the durability asks for; return its result."""
        lane = script.name if script.name in self._lanes else "write"
        return await self._run(lane, script, arguments, () if self._wait is None else (self._wait,))

    async def read(self, script: Script, *arguments: str | bytes | int) -> Any:  # noqa: ANN401 - as the script says
        """Run a script that changes nothing, and return its result."""
        return await self._run("read", script, arguments, ())

    async def ask(self, *commands: Command) -> list[Any]:
        """Send plain commands in one trip and return their replies."""
        replies = await self.ask_leniently(*commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise unavailable(reply)
        return replies

    async def ask_leniently(self, *commands: Command) -> list[Any]:
        """Send plain commands in one trip; an error reply is returned in its place."""
        return await self._send("read", commands)

    async def _run(
        self, lane: str, script: Script, arguments: tuple[str | bytes | int, ...], behind: tuple[Command, ...]
    ) -> Any:  # noqa: ANN401 - as the script says
        command: Command = ("EVALSHA", script.digest, len(self._keys), *self._keys, *arguments)
        result, *waited = await self._send(lane, (command, *behind))
        if isinstance(result, NoScriptError):
            # Redis was restarted or told to forget. It has run nothing, so running it now is no repeat.
            command = ("EVAL", script.text, len(self._keys), *self._keys, *arguments)
            result, *waited = await self._send(lane, (command, *behind))
        if isinstance(result, Exception):
            raise unavailable(result)
        for reply in waited:
            self._check_waited(reply)
        return result

    def _check_waited(self, reply: Any) -> None:  # noqa: ANN401 - a number, numbers, or an error
        """Raise unless the change is as durable as asked for: Redis tells how many have it, which may be too few."""
        if isinstance(reply, Exception):
            raise unavailable(reply)
        name, *wanted, _ = self._wait or ("", 0, 0)
        found = reply if isinstance(reply, list) else [reply]
        if any(have < need for have, need in zip(found, wanted, strict=True) if isinstance(need, int)):
            what = "its disk" if name == "WAITAOF" else "enough replicas"
            raise BackendUnavailableError(f"Redis has the change in memory, but not on {what} in time.")

    async def _send(self, lane_name: str, commands: Sequence[Command]) -> list[Any]:
        lane = self._lanes.get(lane_name)
        if lane is None:
            raise closed()
        try:
            return await lane.ask(commands)
        except (RedisError, OSError) as error:
            raise unavailable(error) from error


def _wait_command(config: RedisConfig) -> Command | None:
    # Less than the request may take, so that Redis answers before the lane gives up.
    timeout_ms = max(1, config.timeout_ms * 3 // 4)
    if config.durability.aof:
        return ("WAITAOF", 1, 0, timeout_ms)
    if config.durability.replicas:
        return ("WAIT", config.durability.replicas, timeout_ms)
    return None
