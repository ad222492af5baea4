"""The stream, as the operations on it that this backend needs. JetStream is spoken as plain requests."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from ojs_backend_nats.config import NATSConfig
from ojs_backend_nats.entry import HEADER_BY, HEADER_PART, Message, part_header, read_part_header
from ojs_backend_nats.errors import (
    NAME_IN_USE,
    NO_MESSAGE_FOUND,
    PASSING,
    STREAM_NOT_FOUND,
    WRONG_LAST_SEQUENCE,
    WRONG_LAST_SEQUENCE_CONSTANT,
    RefusedByStore,
    unavailable,
)
from ojs_backend_nats.link import UNHEARD_S, UNHEARD_WAIT_S, Link
from ojs_core.errors import BackendUnavailableError, SettingsError

EXPECTED = "Nats-Expected-Last-Sequence"
HEARTBEAT_S = 5
READ_AT_ONCE_BYTES = 4 * 1024 * 1024
"""Parts of large entries asked for at a time. The server drops a connection for which 64 MB wait to be sent: with all
that is asked for again meanwhile, and what it tells of by itself, this has to stay far below."""
_NS = 1_000_000_000

_log = logging.getLogger("ojs.nats")

Answer = TypeVar("Answer")


class StreamState(Struct, frozen=True):
    """Where the stream begins and ends, and its size. `first` is above `last` while it is empty."""

    first: int = msgspec.field(name="first_seq")
    last: int = msgspec.field(name="last_seq")
    size: int = msgspec.field(name="bytes")


class StreamConfig(Struct, frozen=True):
    """What matters of a stream's settings."""

    name: str
    subjects: tuple[str, ...] = ()
    retention: str = "limits"
    storage: str = "file"
    num_replicas: int = 1
    max_age: int = 0
    max_msgs: int = -1
    max_msgs_per_subject: int = -1
    discard: str = "old"
    max_bytes: int = -1


class Copy(Struct, frozen=True):
    """A server beside the leader that holds the stream; `current`: it has all of it."""

    current: bool = False


class Copies(Struct, frozen=True):
    """Who holds the stream: its leader, if there is one at the moment, and the others."""

    leader: str = ""
    replicas: tuple[Copy, ...] = ()


class StreamInfo(Struct, frozen=True):
    """What JetStream says of the stream. `created` tells one stream from a later one of the same name.

    `ts`: when it said so, by the clock of the leader.
    """

    config: StreamConfig
    created: str
    state: StreamState
    ts: datetime
    cluster: Copies | None = None
    """None: the server is alone."""

    @property
    def is_settled(self) -> bool:
        """Whether there is a leader, and most of the copies that the settings ask for have everything."""
        if self.cluster is None:
            return True
        others = self.cluster.replicas
        complete = 1 + sum(copy.current for copy in others)
        number = self.config.num_replicas
        return bool(self.cluster.leader) and len(others) == number - 1 and 2 * complete > number


class _Answer(Struct, frozen=True):
    error: dict[str, Any] | None = None
    seq: int = 0


class _Stored(Struct, frozen=True):
    seq: int
    data: str = ""
    hdrs: str = ""


class _Message(Struct, frozen=True):
    message: _Stored


class Appended(Struct, frozen=True):
    """What became of a write: the sequence of its (last) message, or (`refused`) of the one that came before it.

    The latter is 0 where the server does not say.
    """

    sequence: int
    refused: bool = False


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_info = msgspec.json.Decoder(StreamInfo).decode
_decode_message = msgspec.json.Decoder(_Message).decode


class Stream:
    """The one stream of a deployment."""

    def __init__(self, config: NATSConfig, link: Link) -> None:
        self._config = config
        self._link = link
        self._api = "$JS.API" if config.domain is None else f"$JS.{config.domain}.API"
        self._reading_parts: asyncio.Semaphore | None = None

    async def _ask(self, operation: str, body: object = None, *, repeatable: bool = False) -> bytes:
        payload = b"" if body is None else msgspec.json.encode(body)
        answer = (await self._link.request(f"{self._api}.{operation}", payload, repeatable=repeatable)).data
        error = _decode_answer(answer).error
        if error is not None:
            raise RefusedByStore(error)
        return answer

    async def prepare(self) -> StreamInfo:
        """Create the stream if it is not there, and see that it is what it has to be.

        Raises `SettingsError` or `BackendUnavailableError`.
        """
        try:
            # Of two servers that create it at once with different settings the second is refused, and finds it then.
            info = await self._insist(self._find_or_create, NAME_IN_USE)
        except RefusedByStore as error:
            raise unavailable(error) from error
        self._refuse_foreign(info.config)
        return info

    async def _insist(self, ask: Callable[[], Awaitable[Answer]], *codes: int) -> Answer:
        """Ask again for a moment if refused for a reason that passes: one of these, or a cluster without a leader.

        Raises `RefusedByStore` when it does not pass.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + UNHEARD_S
        while True:
            try:
                return await ask()
            except RefusedByStore as error:
                if error.code not in {*codes, *PASSING} or loop.time() >= deadline:
                    raise
            await asyncio.sleep(UNHEARD_WAIT_S)  # noqa: TID251 - nothing tells a client when it has passed

    async def _find_or_create(self) -> StreamInfo:
        return await self._find() or await self._create()

    async def _find(self) -> StreamInfo | None:
        try:
            return await self.info()
        except RefusedByStore as error:
            if error.code == STREAM_NOT_FOUND:
                return None
            raise

    async def _create(self) -> StreamInfo:
        # Two servers may do so at once: the second is told of the one there is.
        answer = await self._ask(f"STREAM.CREATE.{self._config.stream}", self._settings(), repeatable=True)
        return _decode_info(answer)

    async def set_replicas(self) -> None:
        """Let the stream have as many copies as the settings say; whatever else is set on it stays.

        Raises `BackendUnavailableError`.
        """
        try:
            # It is there, but another server may lead the cluster since, and hear of it only now.
            if await self._insist(self._change_replicas, STREAM_NOT_FOUND):
                await self._settle()
        except RefusedByStore as error:
            raise unavailable(error) from error

    async def _change_replicas(self) -> bool:
        found = msgspec.json.decode(await self._ask_info())["config"]
        if found["num_replicas"] == self._config.replicas:
            return False
        found["num_replicas"] = self._config.replicas
        await self._ask(f"STREAM.UPDATE.{self._config.stream}", found, repeatable=True)
        return True

    async def _settle(self) -> None:
        """Wait a while for the copies: what is asked of a stream that just gets more or less of them may be lost."""
        try:
            async with asyncio.timeout(self._config.timeout_s):
                while True:
                    if (await self._insist(self.info, STREAM_NOT_FOUND)).is_settled:
                        return
                    await asyncio.sleep(UNHEARD_WAIT_S)  # noqa: TID251 - as above
        except TimeoutError:
            _log.warning("The stream does not have its %d copies yet.", self._config.replicas)

    def _settings(self) -> dict[str, object]:
        return {
            "name": self._config.stream,
            "description": "The log of ojs-server. Written by guarded publishes only: keep other writers away.",
            "subjects": [self._config.subject],
            "retention": "limits",
            "storage": "file",
            "num_replicas": self._config.replicas,
            "discard": "new",
            "allow_direct": True,
            "duplicate_window": 100_000_000,
        }

    def _refuse_foreign(self, found: StreamConfig) -> None:
        name = self._config.stream
        if found.subjects != (self._config.subject,):
            raise SettingsError(f"OJS_NATS_STREAM={name}: that stream belongs to something else. Choose another name.")
        if found.discard == "old" and found.max_bytes > 0:
            raise SettingsError(
                f"OJS_NATS_STREAM={name}: the stream drops its oldest messages when it is full, and jobs with them. "
                "Set its discard policy to new."
            )
        if found.retention != "limits" or found.max_age or found.max_msgs > 0 or found.max_msgs_per_subject > 0:
            raise SettingsError(
                f"OJS_NATS_STREAM={name}: the stream's limits would remove jobs (retention, max_age, max_msgs or "
                "max_msgs_per_subject). Take them off."
            )

    async def info(self) -> StreamInfo:
        """Return the stream as it is, asked of its leader. Raises `RefusedByStore`."""
        return _decode_info(await self._ask_info())

    async def _ask_info(self) -> bytes:
        return await self._ask(f"STREAM.INFO.{self._config.stream}", repeatable=True)

    async def append(self, parts: Sequence[bytes], by: str, expected: int) -> Appended:
        """Write an entry directly behind the message with sequence `expected`, as one message per part.

        Refused: something else is there already, and nothing of the entry counts.
        """
        if len(parts) == 1:
            headers = {EXPECTED: str(expected), HEADER_BY: by}
            return await self._append(parts[0], headers)
        writes = []
        for number, part in enumerate(parts, 1):
            headers = {
                EXPECTED: str(expected + number - 1),
                HEADER_BY: by,
                HEADER_PART: part_header(number, len(parts)),
            }
            writes.append(self._append(part, headers))
        answers = await asyncio.gather(*writes)
        return next((answer for answer in answers if answer.refused), answers[-1])

    async def _append(self, payload: bytes, headers: dict[str, str]) -> Appended:
        answer = _decode_answer((await self._link.request(self._config.subject, payload, headers)).data)
        if answer.error is None:
            return Appended(answer.seq)
        error = RefusedByStore(answer.error)
        if error.code in (WRONG_LAST_SEQUENCE, WRONG_LAST_SEQUENCE_CONSTANT):
            _, _, last = error.description.rpartition(": ")
            return Appended(int(last) if last.isdigit() else 0, refused=True)
        raise unavailable(error)

    async def read(self, sequence: int) -> Message | None:
        """Return one message, or None if it was removed."""
        try:
            answer = await self._ask(f"STREAM.MSG.GET.{self._config.stream}", {"seq": sequence}, repeatable=True)
        except RefusedByStore as error:
            if error.code == NO_MESSAGE_FOUND:
                return None
            raise unavailable(error) from error
        stored = _decode_message(answer).message
        headers = _headers(base64.b64decode(stored.hdrs))
        return Message(
            stored.seq,
            base64.b64decode(stored.data),
            headers.get(HEADER_BY, ""),
            read_part_header(headers.get(HEADER_PART)),
        )

    async def read_entry(self, last: int) -> bytes | None:
        """Return the entry whose last message has that sequence, put together; None if it was removed."""
        message = await self.read(last)
        if message is None:
            return None
        _, parts = message.part
        if parts == 1:
            return message.payload
        others = await asyncio.gather(*(self._read_part(last - back) for back in range(parts - 1, 0, -1)))
        payloads = [part.payload for part in others if part is not None]
        return None if len(payloads) < parts - 1 else b"".join([*payloads, message.payload])

    async def _read_part(self, sequence: int) -> Message | None:
        if self._reading_parts is None:
            # How large a part is, a server says who is connected.
            self._reading_parts = asyncio.Semaphore(max(1, READ_AT_ONCE_BYTES // self._link.part_max))
        async with self._reading_parts:
            return await self.read(sequence)

    async def purge(self, before: int | None = None) -> None:
        """Remove all messages, or those with a lower sequence."""
        body = {} if before is None else {"seq": before}
        try:
            await self._ask(f"STREAM.PURGE.{self._config.stream}", body)
        except RefusedByStore as error:
            raise unavailable(error) from error

    async def follow(self, name: str, deliver_to: str, start: int) -> None:
        """Have every message from sequence `start` on sent to a subject, as it comes. Raises `RefusedByStore`."""
        stream = self._config.stream
        consumer = {
            "name": name,
            "deliver_subject": deliver_to,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(1, start),
            "ack_policy": "none",
            "max_deliver": 1,
            "flow_control": True,
            "idle_heartbeat": HEARTBEAT_S * _NS,
            "inactive_threshold": 4 * HEARTBEAT_S * _NS,
            "mem_storage": True,
            "num_replicas": 1,
        }
        body = {"stream_name": stream, "config": consumer}
        await self._insist(lambda: self._ask(f"CONSUMER.CREATE.{stream}.{name}", body), STREAM_NOT_FOUND)

    async def unfollow(self, name: str) -> None:
        """Remove a consumer; one that cannot be removed goes away by itself when nobody listens."""
        try:
            await self._ask(f"CONSUMER.DELETE.{self._config.stream}.{name}")
        except (RefusedByStore, BackendUnavailableError):
            return


def _headers(text: bytes) -> dict[str, str]:
    lines = text.decode(errors="replace").split("\r\n")[1:]
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
