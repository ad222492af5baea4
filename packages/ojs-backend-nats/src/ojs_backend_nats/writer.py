"""The turns of a server: requests that are waiting are decided together and become one entry of the log.

The entry is written on condition that it comes directly behind the last message the index has taken in. So whatever
was decided, was decided on the latest state there is: accepted or refused, empty queue or full. If another server was
faster, its entry is taken in and everything is decided anew. A turn that changes nothing asks instead whether the
stream has anything newer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ojs_backend_nats.draft import Draft, NeedsTexts
from ojs_backend_nats.entry import Entry, cut, encode_entry
from ojs_backend_nats.errors import closed
from ojs_backend_nats.eventlog import NeedsEvents
from ojs_backend_nats.follower import Follower
from ojs_backend_nats.index import Index, Location
from ojs_backend_nats.link import Link
from ojs_backend_nats.stream import Appended, Stream
from ojs_backend_nats.texts import Texts
from ojs_core.errors import BackendUnavailableError
from ojs_core.job import Job

Answer = TypeVar("Answer")
Decide = Callable[[Draft], Answer]
Look = Callable[[Index], Answer]

TURN_MAX = 500
"""Requests decided together."""
ATTEMPTS = 100
"""How often a turn is decided anew because another server was faster."""
LOADS = 20
"""How often one request may ask for records that are not in memory."""


class Request(Generic[Answer]):
    """One request: a decision to make on the draft, or a look at the index."""

    __slots__ = ("decide", "future", "loaded", "loads", "look")

    def __init__(self, decide: Decide[Answer] | None, look: Look[Answer] | None) -> None:
        self.decide = decide
        self.look = look
        self.future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.loaded: dict[Location | int, bytes] = {}
        self.loads = 0


class _Turn:
    """What was decided so far in one turn."""

    def __init__(self) -> None:
        self.answers: list[tuple[Request[Any], Any]] = []
        self.failures: list[tuple[Request[Any], Exception]] = []


class Writer:
    """Takes the turns, one at a time."""

    def __init__(self, link: Link, stream: Stream, follower: Follower, texts: Texts) -> None:
        self._link = link
        self._stream = stream
        self._follower = follower
        self._texts = texts
        self._waiting: list[Request[Any]] = []
        self._running: asyncio.Task[None] | None = None
        self._loading: set[asyncio.Task[None]] = set()
        self._closed = False
        self.after_write: Callable[[], None] = lambda: None
        """Called when something was written."""
        self._name = f"{os.getpid()}-{os.urandom(6).hex()}"
        self._number = 0

    def change(self, decide: Decide[Answer]) -> asyncio.Future[Answer]:
        """Have something decided on the latest state, and written; the future has the answer."""
        return self._submit(Request(decide, None))

    def look(self, look: Look[Answer]) -> asyncio.Future[Answer]:
        """Have something read off the latest state; the future has the answer."""
        return self._submit(Request(None, look))

    def _submit(self, request: Request[Answer]) -> asyncio.Future[Answer]:
        if self._closed:
            raise closed()
        self._waiting.append(request)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return request.future

    async def close(self) -> None:
        """Finish what is under way, and take nothing more."""
        self._closed = True
        while self._running is not None or self._loading:
            await asyncio.gather(*self._loading, *([self._running] if self._running else []), return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:TURN_MAX], self._waiting[TURN_MAX:]
                await self._take_turn(group)
        finally:
            self._running = None

    async def _take_turn(self, group: list[Request[Any]]) -> None:
        try:
            for _ in range(ATTEMPTS):
                await self._follower.ready()
                turn, group, draft = self._decide_all(group)
                if not group or await self._settle(draft):
                    _answer(turn)
                    return
            raise BackendUnavailableError("Other servers keep writing in between.")  # noqa: TRY301 - handed to callers
        except Exception as error:  # noqa: BLE001 - handed to every caller of the turn
            for request in group:
                if not request.future.done():
                    request.future.set_exception(error)

    def _decide_all(self, group: list[Request[Any]]) -> tuple[_Turn, list[Request[Any]], Draft]:
        turn = _Turn()
        index = self._follower.index
        loaded = {location: text for request in group for location, text in request.loaded.items()}
        draft = Draft(index, loaded)
        rest: list[Request[Any]] = []
        for request in group:
            if request.future.done():
                continue  # the caller was cancelled
            mark = draft.mark()
            try:
                answer = request.look(index) if request.decide is None else request.decide(draft)  # type: ignore[misc]
            except (NeedsTexts, NeedsEvents) as needs:
                draft.rewind(mark)
                self._load(request, needs)
                continue
            except Exception as error:  # noqa: BLE001 - handed to the caller
                draft.rewind(mark)
                turn.failures.append((request, error))
            else:
                turn.answers.append((request, answer))
            rest.append(request)
        return turn, rest, draft

    async def _settle(self, draft: Draft) -> bool:
        """Write the draft, or make sure that nothing newer was there; return whether its answers hold."""
        follower = self._follower
        changed = draft.entry()
        if changed is None:
            position = follower.index.position
            last = await follower.last()
            if last == position == follower.index.position:
                return True
            await follower.reach(last)
            return False
        entry, jobs = changed
        written = await self._write(entry, jobs)
        if written.refused:
            behind = written.sequence > follower.index.position
            await follower.reach(written.sequence if behind else await follower.last())
        return not written.refused

    async def _write(self, entry: Entry, jobs: list[Job]) -> Appended:
        follower = self._follower
        payload = encode_entry(entry)
        self._number += 1
        by = f"{self._name}-{self._number}"
        after = follower.index.position
        follower.own = by
        try:
            written = await self._stream.append(cut(payload, self._link.part_max), by, after)
        except BaseException:
            follower.not_written()
            follower.doubt()
            raise
        if written.refused:
            follower.not_written()
            return written
        follower.log_bytes += len(payload)
        follower.written(entry, jobs, by, after, written.sequence)
        self.after_write()
        return written

    def _load(self, request: Request[Any], needs: NeedsTexts | NeedsEvents) -> None:
        task = asyncio.create_task(self._load_and_repeat(request, needs))
        self._loading.add(task)
        task.add_done_callback(self._loading.discard)

    async def _load_and_repeat(self, request: Request[Any], needs: NeedsTexts | NeedsEvents) -> None:
        request.loads += 1
        try:
            if request.loads > LOADS:
                raise BackendUnavailableError("The records asked for keep moving.")  # noqa: TRY301 - handed to the caller
            request.loaded.update(await self._texts.needed(needs))
        except Exception as error:  # noqa: BLE001 - handed to the caller
            if not request.future.done():
                request.future.set_exception(error)
            return
        self._waiting.append(request)
        if self._running is None:
            self._running = asyncio.create_task(self._run())


def _answer(turn: _Turn) -> None:
    for request, answer in turn.answers:
        if not request.future.done():
            request.future.set_result(answer)
    for request, error in turn.failures:
        if not request.future.done():
            request.future.set_exception(error)
