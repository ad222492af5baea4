"""How many trips to the store something took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

from ojs_core.backend import Backend
from ojs_core.testing.wrapper import Answer, Asked, BackendWrapper


class CountingBackend(BackendWrapper):
    """Counts the calls of each method of the seam, refused and failed ones too.

    A test clears `calls`, does one thing, and compares: `assert backend.calls == {"commit": 1}`.
    """

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.calls: Counter[str] = Counter()

    async def around(
        self, method: Callable[Asked, Awaitable[Answer]], *args: Asked.args, **kwargs: Asked.kwargs
    ) -> Answer:
        """Count, then call."""
        self.calls[method.__name__] += 1
        return await method(*args, **kwargs)
