"""Who waits for work of which queue (long-poll fetches), and how they are woken.

Being woken is a hint, not a promise: whoever is woken asks the store. A ring says that there is work, not how much, and
waking everybody for every job would make each of them ask in vain. So a ring wakes a few, the longest waiting first;
each one that gets jobs wakes a few more, until there is nothing left to get.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

AT_ONCE = 2
"""Waiters woken by a ring. Two, because one may be told to take no more jobs, and because success then spreads fast."""


class Doorbell:
    """Waiters by queue, in the order in which they came. Belongs to one event loop."""

    def __init__(self) -> None:
        self._waiters: dict[str, dict[asyncio.Event, None]] = defaultdict(dict)
        self.closed = False

    def ring(self, queues: Iterable[str] | None) -> None:
        """Wake `AT_ONCE` of those who wait for each of the queues; None: everyone."""
        if queues is None:
            for waiters in self._waiters.values():
                for waiter in waiters:
                    waiter.set()
            return
        for queue in queues:
            asleep = (waiter for waiter in self._waiters.get(queue, ()) if not waiter.is_set())
            for waiter in list(islice(asleep, AT_ONCE)):
                waiter.set()

    def close(self) -> None:
        """Wake everyone for good: the server is about to stop."""
        self.closed = True
        self.ring(None)

    @contextmanager
    def waiting(self, queues: Iterable[str]) -> Iterator[asyncio.Event]:
        """Wait for work of the queues: the event is set when there may be some, from the beginning of the block on.

        Who leaves with the event set has not followed it up, and it goes to others.
        """
        waiter = asyncio.Event()
        names = set(queues)
        for queue in names:
            self._waiters[queue][waiter] = None
        try:
            yield waiter
        finally:
            for queue in names:
                del self._waiters[queue][waiter]
                if not self._waiters[queue]:
                    del self._waiters[queue]
            if waiter.is_set():
                self.ring(names)
