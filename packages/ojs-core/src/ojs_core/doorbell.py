"""Who waits for work of which queue (long-poll fetches), and how they are woken.

Being woken is a hint, not a promise: several waiters may be woken for one job, and whoever was woken asks the store.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Doorbell:
    """Waiters by queue. Belongs to one event loop."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[asyncio.Event]] = defaultdict(set)
        self.closed = False

    def ring(self, queues: Iterable[str] | None) -> None:
        """Wake everyone who waits for one of the queues; None: everyone."""
        for queue in list(self._waiters) if queues is None else queues:
            for waiter in self._waiters.get(queue, ()):
                waiter.set()

    def close(self) -> None:
        """Wake everyone for good: the server is about to stop."""
        self.closed = True
        self.ring(None)

    @contextmanager
    def waiting(self, queues: Iterable[str]) -> Iterator[asyncio.Event]:
        """Wait for work of the queues: the event is set when there may be some, from the beginning of the block on."""
        waiter = asyncio.Event()
        names = set(queues)
        for queue in names:
            self._waiters[queue].add(waiter)
        try:
            yield waiter
        finally:
            for queue in names:
                self._waiters[queue].discard(waiter)
                if not self._waiters[queue]:
                    del self._waiters[queue]
