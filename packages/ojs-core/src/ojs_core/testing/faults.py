"""A store that fails on cue, to test what core does about it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from ojs_core.backend import Backend
from ojs_core.errors import BackendUnavailableError
from ojs_core.testing.wrapper import Answer, Asked, BackendWrapper

Moment: TypeAlias = Literal["before", "after"]


class FaultyBackend(BackendWrapper):
    """Raises `BackendUnavailableError` where the test says so; otherwise hands calls through.

    The two faults look the same to the caller and are not: one `before` the call leaves the store as it was, one
    `after` it loses only the answer.
    """

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.down = False
        """While set, every call but `close` fails before it reaches the store."""
        self._planned: defaultdict[str, deque[Moment | None]] = defaultdict(deque)

    def fail(self, method: str, moment: Moment, *, after_calls: int = 0, times: int = 1) -> None:
        """Let calls of a method fail: `times` in a row, once `after_calls` more have gone well."""
        if not callable(getattr(self, method, None)):
            raise ValueError(f"'{method}' is not a method of the seam")  # noqa: TRY004 - the value is wrong
        planned = self._planned[method]
        planned.extend([None] * after_calls)
        planned.extend([moment] * times)

    async def around(
        self, method: Callable[Asked, Awaitable[Answer]], *args: Asked.args, **kwargs: Asked.kwargs
    ) -> Answer:
        """Call, unless a fault is planned."""
        planned = self._planned[method.__name__]
        moment = planned.popleft() if planned else None
        if self.down and method.__name__ != "close":
            moment = "before"
        if moment == "before":
            raise BackendUnavailableError("The store is unreachable (a fault made by a test).")
        answer = await method(*args, **kwargs)
        if moment == "after":
            raise BackendUnavailableError("The store did not answer (a fault made by a test).")
        return answer
