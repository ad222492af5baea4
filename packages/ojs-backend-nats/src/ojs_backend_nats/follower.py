"""Keeps the index up with the stream: takes in every entry in order, and starts over when the thread is lost.

The server pushes each message to a consumer of this process. A gap between them, silence, another stream of the same
name, or a stream that went back behind what was read (a server that lost its last moments) mean that the index can no
longer be trusted; it is then rebuilt from the stream, which is the truth.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ojs_backend_nats.entry import (
    HEADER_BY,
    HEADER_PART,
    Assembler,
    Entry,
    Message,
    UnreadableEntryError,
    read_entry,
    read_part_header,
)
from ojs_backend_nats.errors import STREAM_NOT_FOUND, RefusedByStore, unavailable
from ojs_backend_nats.index import Index
from ojs_backend_nats.link import Link
from ojs_backend_nats.stream import HEARTBEAT_S, Stream, StreamInfo
from ojs_core.errors import BackendUnavailableError, SettingsError
from ojs_core.job import Job

SILENCE_S = 3 * HEARTBEAT_S
"""Without a message or a heartbeat for so long, the consumer is taken for lost."""
STALLED = "Nats-Consumer-Stalled"

_log = logging.getLogger("ojs.nats")

Ring = Callable[[set[str]], None]


class Follower:
    """The index, and the consumer that feeds it."""

    def __init__(self, link: Link, stream: Stream, ring: Ring, patience_s: float) -> None:
        self.index = Index()
        self.log_bytes = 0
        """Size of the stream, as far as known."""
        self.own = ""
        """What this process is writing: when the stream shows it, the answer to the write says what it means."""
        self._link = link
        self._stream = stream
        self._ring = ring
        self._patience_s = patience_s
        self._created = ""
        self._last_by = ""
        """Who wrote the message at `position`: no two messages are alike."""
        self._assembler = Assembler()
        self._pending: deque[Message] = deque()
        self._moved = asyncio.Event()
        self._trusted = False
        self._following = False
        self._failure: BackendUnavailableError | None = None
        self._consumer = ""
        self._subscription: Subscription | None = None
        self._heard_at = 0.0
        """Time of the loop when the consumer last gave a sign of life."""
        self._watchdog: asyncio.TimerHandle | None = None
        self._lock = asyncio.Lock()

    # What others ask.

    def doubt(self) -> None:
        """Note that the stream may have changed behind our back: the next use makes sure."""
        self._trusted = False
        self._moved.set()

    async def ready(self) -> None:
        """Make sure that the index is a true, if not the latest, picture of the stream.

        Raises `BackendUnavailableError`.
        """
        while not self._trusted:
            async with self._lock:
                if not self._trusted:
                    await self._verify()

    async def last(self) -> int:
        """Return the sequence of the stream's last message. Raises `BackendUnavailableError`."""
        position = self.index.position
        info = await self.info()
        if info.created != self._created or info.state.last < position:
            self.doubt()
            await self.ready()
        return info.state.last

    async def reach(self, sequence: int) -> None:
        """Wait until the message with that sequence was taken in. Raises `BackendUnavailableError`.

        However long that is, as long as messages keep coming.
        """
        try:
            while self.index.position < sequence and self._trusted:
                self._moved.clear()
                async with asyncio.timeout(self._patience_s):
                    await self._moved.wait()
        except TimeoutError as error:
            self.lost()
            raise BackendUnavailableError("NATS did not deliver what the stream has.") from error
        if self._failure is not None:
            raise self._failure

    def written(self, entry: Entry, jobs: Sequence[Job], by: str, after: int, sequence: int) -> None:
        """Take in what this process wrote itself behind position `after`."""
        self.own = ""
        # Otherwise the index was begun anew meanwhile, and meets the entry where it is.
        if self.index.position == after:
            self._take(entry, sequence, jobs)
            self._last_by = by
        self._drain()

    def not_written(self) -> None:
        """Note that the write failed, or that nobody knows."""
        self.own = ""
        self._drain()

    # Starting.

    async def info(self) -> StreamInfo:
        """Return the stream as it is. Raises `BackendUnavailableError`."""
        try:
            info = await self._stream.info()
        except RefusedByStore as error:
            self.doubt()
            if error.code == STREAM_NOT_FOUND:
                # Nothing of ours is left. The requests under way are refused; those to come meet an empty store.
                self._created = ""
            raise unavailable(error) from error
        self.log_bytes = info.state.size
        return info

    async def _verify(self) -> None:
        """Find out whether the index is still true; go on from where it is, or begin anew."""
        self._failure = None
        try:
            info = await self._stream.prepare()
        except SettingsError as error:
            # It was right when this server started, so somebody changed the stream.
            raise BackendUnavailableError(str(error)) from error
        continued = info.created == self._created and await self._is_continued(info)
        self._trusted = True  # whatever comes from here on may take that back
        try:
            if not continued:
                await self._rebuild(info)
            elif not self._following:
                await self._follow()
            await self.reach(info.state.last)
        except BaseException:
            self.doubt()
            raise

    async def _is_continued(self, info: StreamInfo) -> bool:
        position, by = self.index.position, self._last_by
        if position > info.state.last:
            return False
        if position < max(1, info.state.first):
            return position == info.state.last  # empty, and we have seen the end of it
        message = await self._stream.read(position)
        return message is not None and message.by == by

    async def _rebuild(self, info: StreamInfo) -> None:
        if self._created:
            _log.warning("The stream is not the one that was read: the index is rebuilt from it.")
        self.index.clear()
        self.index.position = max(0, info.state.first - 1)
        self._last_by = ""
        self._created = info.created
        self.log_bytes = info.state.size
        self._assembler.clear()
        await self._follow()

    async def _follow(self) -> None:
        await self._unfollow()
        self._pending.clear()
        # An entry of which only the first parts came is read from its beginning.
        self.index.position -= self._assembler.clear()
        self._consumer = os.urandom(12).hex()
        inbox = self._link.new_inbox()
        self._subscription = await self._link.subscribe(inbox, partial(self._on_message, self._consumer))
        self._following = True
        try:
            await self._stream.follow(self._consumer, inbox, self.index.position + 1)
        except BaseException as error:
            self._following = False
            if isinstance(error, RefusedByStore):
                raise unavailable(error) from error
            raise
        self._heard_at = asyncio.get_running_loop().time()
        if self._watchdog is None:
            self._watch()

    async def _unfollow(self) -> None:
        self._following = False
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with suppress(Exception):  # the connection it belonged to may be gone
                await subscription.unsubscribe()
            await self._stream.unfollow(self._consumer)

    async def close(self) -> None:
        """Stop following."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        await self._unfollow()

    def lost(self) -> None:
        """The connection went away or came back: nothing is sure."""
        self._following = False
        self.doubt()

    # What comes in.

    def _watch(self) -> None:
        """Look now and then whether anything was heard; a timer for each message would cost more than the message."""
        loop = asyncio.get_running_loop()
        if self._following and loop.time() > self._heard_at + SILENCE_S:
            _log.warning("NATS has been silent for %d s: following the stream anew.", SILENCE_S)
            self.lost()
        self._watchdog = loop.call_later(HEARTBEAT_S, self._watch)

    async def _on_message(self, consumer: str, message: Msg) -> None:
        if consumer != self._consumer:
            return  # one that was given up
        self._heard_at = asyncio.get_running_loop().time()
        headers = message.headers or {}
        if "Status" in headers:
            answer_to = message.reply or headers.get(STALLED)
            if answer_to:
                await self._link.publish(answer_to)
            return
        tokens = message.reply.split(".")
        # $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<..>.<time>.<pending>, with more tokens in newer servers
        sequence = int(tokens[5] if len(tokens) == 9 else tokens[7])  # noqa: PLR2004 - as in the line above
        part = read_part_header(headers.get(HEADER_PART))
        self._pending.append(Message(sequence, message.data, headers.get(HEADER_BY, ""), part))
        self._drain()

    def _drain(self) -> None:
        while self._pending and self._following:
            message = self._pending[0]
            if message.by == self.own and self.own:
                return  # the answer to the write comes any moment, and takes it in for less
            self._pending.popleft()
            if message.sequence <= self.index.position:
                continue
            if message.sequence != self.index.position + 1:
                _log.warning("A part of the stream was removed before it was read: the index is rebuilt.")
                self._created = ""
                self.lost()
                return
            self._read(message)

    def _read(self, message: Message) -> None:
        self._last_by = message.by
        self.log_bytes += len(message.payload)
        text = self._assembler.add(message) if message.by else None
        if text is None:
            # The first parts of an entry, parts that were given up, or something that is none of ours.
            self.index.position = message.sequence
            self._moved.set()
            return
        try:
            entry = read_entry(text)
        except UnreadableEntryError as error:
            self._failure = BackendUnavailableError(str(error))
            self.lost()
            return
        self._take(entry, message.sequence, None)

    def _take(self, entry: Entry, sequence: int, jobs: Sequence[Job] | None) -> None:
        woken = self.index.apply(entry, sequence, jobs)
        self.index.position = sequence
        self._moved.set()
        if woken:
            self._ring(woken)
