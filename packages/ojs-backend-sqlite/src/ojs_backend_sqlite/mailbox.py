"""How the event loop hands work to a thread that owns a connection, and gets the answers back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
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


class Mailbox(Generic[Tool]):
    """Requests for one thread, in order. Their work is done on that thread, with the `Tool` it has."""

    def __init__(self) -> None:
        self.finished = False
        """The thread has seen the last request."""
        self._loop = asyncio.get_running_loop()
        self._requests: SimpleQueue[Request[Tool] | None] = SimpleQueue()
        self._closed = False

    # On the loop.

    def submit(self, work: Work[Tool, Answer]) -> asyncio.Future[Answer]:
        """Have some work done; the future has the answer. Raises `BackendUnavailableError` once closed."""
        if self._closed:
            raise closed()
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._requests.put(Request(work, future))
        return future

    def close(self) -> None:
        """Accept nothing more. What was submitted is still done."""
        self._closed = True
        self._requests.put(None)

    # On the thread.

    def take(self, timeout_s: float | None = None) -> list[Request[Tool]]:
        """Wait for a request, and return it with all others that came meanwhile.

        Returns an empty list if none came in time (`timeout_s`; None: wait for ever) or ever will (`finished`).
        """
        group: list[Request[Tool]] = []
        try:
            request = self._requests.get(timeout=timeout_s)
            while request is not None:
                group.append(request)
                if len(group) == GROUP_MAX:
                    return group
                request = self._requests.get_nowait()
        except Empty:
            return group
        self.finished = True
        return group

    def answer(
        self,
        requests: Sequence[Request[Tool]],
        outcomes: Sequence[Outcome],
        then: Callable[[], None] | None = None,
    ) -> None:
        """Wake the callers, all in one go, and do `then` on the loop."""
        with suppress(RuntimeError):  # the loop was closed, and with it went everyone who waited
            self._loop.call_soon_threadsafe(_settle, requests, outcomes, then)


def _settle(requests: Sequence[Request[Any]], outcomes: Sequence[Outcome], then: Callable[[], None] | None) -> None:
    for request, outcome in zip(requests, outcomes, strict=True):
        if request.future.done():
            continue  # the caller was cancelled
        if outcome.error is None:
            request.future.set_result(outcome.value)
        else:
            error = outcome.error
            request.future.set_exception(unavailable(error) if isinstance(error, apsw.Error) else error)
    if then is not None:
        then()
