"""How the event loop hands work to a thread, and gets the answers back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, NamedTuple, TypeVar

import apsw

from ojs_backend_sqlite.errors import closed, unavailable

Tool = TypeVar("Tool")
Answer = TypeVar("Answer")
Work = Callable[[Tool], Answer]

GROUP_MAX = 256
"""Requests taken at once."""


class Outcome(NamedTuple):
    """What became of a piece of work: its value, or the error to raise."""

    value: Any = None
    error: Exception | None = None


class Request(NamedTuple, Generic[Tool]):
    """One piece of work, and the future of the caller who waits for it."""

    work: Work[Tool, Any]
    future: asyncio.Future[Any]


def settle(requests: Sequence[Request[Any]], outcomes: Sequence[Outcome]) -> None:
    """Wake the callers."""
    for request, outcome in zip(requests, outcomes, strict=True):
        if request.future.done():
            continue  # the caller was cancelled
        if outcome.error is None:
            request.future.set_result(outcome.value)
        else:
            error = outcome.error
            request.future.set_exception(unavailable(error) if isinstance(error, apsw.Error) else error)


class MailThread(Generic[Tool]):
    """A thread that does work in the order in which it was asked for, all that waits in one go.

    `do_all` runs on the thread: it returns an outcome for each piece of work, and raises nothing.
    """

    def __init__(self, name: str, do_all: Callable[[Sequence[Work[Tool, Any]]], Sequence[Outcome]]) -> None:
        self._do_all = do_all
        self._loop = asyncio.get_running_loop()
        self._requests: SimpleQueue[Request[Tool] | None] = SimpleQueue()
        self._closed = False
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # On the loop.

    def run(self, work: Work[Tool, Answer]) -> asyncio.Future[Answer]:
        """Have some work done; the future has the answer. Raises `BackendUnavailableError` once closed."""
        if self._closed:
            raise closed()
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._requests.put(Request(work, future))
        return future

    async def close(self) -> None:
        """Accept nothing more, and wait until what was asked for is done."""
        self._closed = True
        self._requests.put(None)
        await asyncio.to_thread(self._thread.join)

    # On the thread.

    def _run(self) -> None:
        last = False
        while not last:
            group, last = self._take()
            if group:
                outcomes = self._do_all([request.work for request in group])
                with suppress(RuntimeError):  # the loop was closed, and with it went everyone who waited
                    self._loop.call_soon_threadsafe(settle, group, outcomes)

    def _take(self) -> tuple[list[Request[Tool]], bool]:
        """Wait for a request, and return it with all others that came meanwhile; and whether they are the last."""
        group: list[Request[Tool]] = []
        try:
            request = self._requests.get()
            while request is not None:
                group.append(request)
                if len(group) == GROUP_MAX:
                    return group, False
                request = self._requests.get_nowait()
        except Empty:
            return group, False
        return group, True
