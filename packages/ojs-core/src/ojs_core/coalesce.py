"""Group commit: requests that arrive together go to the store together.

The first caller starts a flush, those who come while it is under way ride along in the next one. Each gets its own
answer, and none is answered before the store has what it asked for. Few flushes of a kind are under way at a time, so
a busy server makes large groups and an idle one answers at once.

Clients that wait for their answers, as most do, come back all at once. Were the first of them sent by itself, the
others would wait for it, and half of all trips would be wasted. So a flush waits a moment for about its share of the
requests that were there around the last one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar, cast

from ojs_core.errors import BackendUnavailableError, PartlyUnavailableError

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")

GROUP_MAX = 500
"""Requests in one flush."""
COMPANY_S = 0.001
"""How long a flush waits for others to come, at most."""


class Coalescer(Generic[Asked, Answered]):
    """Turns many `ask` calls into few `send` calls. `send` answers with the same length and order.

    `at_once` flushes may be under way: while the store works on one group, the next is made.
    """

    def __init__(self, send: Callable[[Sequence[Asked]], Awaitable[Sequence[Answered]]], at_once: int = 1) -> None:
        self._send = send
        self._at_once = at_once
        self._waiting: list[tuple[Asked, asyncio.Future[Answered]]] = []
        self._flushing: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._enough = 0
        self._company: asyncio.Future[None] | None = None

    async def ask(self, request: Asked) -> Answered:
        """Return the store's answer to one request, or raise what the flush raised.

        A caller that is cancelled loses only its answer: the flush goes on for the others.
        """
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._company is not None:
            if len(self._waiting) >= self._enough:
                _end(self._company)
        elif len(self._flushing) < self._at_once:
            self._flushing.add(asyncio.create_task(self._flush()))
        return await future

    async def _flush(self) -> None:
        try:
            # Only one flush waits for company: whoever comes meanwhile is meant for that one.
            while self._waiting and self._company is None:
                if len(self._waiting) < self._enough:
                    await self._wait_for_company()
                group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
                self._under_way += len(group)
                await self._send_group(group)
                present = self._under_way + len(self._waiting)
                self._enough = min(present * 3 // (4 * self._at_once), GROUP_MAX)
                self._under_way -= len(group)
        finally:
            # Here and not in a callback: whoever asks next must not take it for one that is still at work.
            self._flushing.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _wait_for_company(self) -> None:
        loop = asyncio.get_running_loop()
        self._company = loop.create_future()
        timer = loop.call_later(COMPANY_S, _end, self._company)
        try:
            await self._company
        finally:
            # Only now: until this flush goes on, whoever else is done leaves it what it waited for.
            timer.cancel()
            self._company = None

    async def _send_group(self, group: list[tuple[Asked, asyncio.Future[Answered]]]) -> None:
        try:
            answers = await self._send([request for request, _ in group])
            for (_, future), answer in zip(group, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        except PartlyUnavailableError as error:
            for (_, future), answer in zip(group, error.answers, strict=True):
                if not future.done():
                    if answer is not None:
                        future.set_result(answer)
                    else:
                        # The answers of the others are nothing to hand on.
                        future.set_exception(BackendUnavailableError(error.message))
        except Exception as error:  # noqa: BLE001 - handed to every caller of the group
            for _, future in group:
                if not future.done():
                    future.set_exception(error)

    @property
    def idle(self) -> bool:
        """Whether nobody waits for the next flush."""
        return not self._waiting

    async def drain(self) -> None:
        """Wait until everything asked so far is answered."""
        while self._flushing:
            await asyncio.wait(self._flushing)


def _end(wait: asyncio.Future[None]) -> None:
    if not wait.done():
        wait.set_result(None)


class Lanes(Generic[Asked, Answered]):
    """A coalescer for each lane: what is slow in one does not hold up the others."""

    def __init__(
        self,
        send: Callable[[Sequence[Asked]], Awaitable[Sequence[Answered]]],
        lane_of: Callable[[Asked], int],
        at_once: int = 1,
    ) -> None:
        self._send = send
        self._lane_of = lane_of
        self._at_once = at_once
        self._lanes: dict[int, Coalescer[Asked, Answered]] = {}

    def ask(self, request: Asked) -> Awaitable[Answered]:
        """See `Coalescer.ask`."""
        lane = self._lane_of(request)
        coalescer = self._lanes.get(lane)
        if coalescer is None:
            coalescer = self._lanes[lane] = Coalescer(self._send, self._at_once)
        return coalescer.ask(request)

    @property
    def idle(self) -> bool:
        """Whether nobody waits for the next flush."""
        return all(coalescer.idle for coalescer in self._lanes.values())

    async def drain(self) -> None:
        """Wait until everything asked so far is answered."""
        for coalescer in tuple(self._lanes.values()):
            await coalescer.drain()
