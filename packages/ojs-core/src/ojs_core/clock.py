"""The one place that reads the clock and draws random numbers; everything else is handed the values."""

from __future__ import annotations

import random
import time
from typing import Protocol


class Clock(Protocol):
    """Time and chance as seen by core."""

    def now(self) -> int:
        """Milliseconds since the epoch, UTC."""

    def random(self) -> float:
        """A number in [0, 1)."""


class SystemClock:
    """The machine's clock. `now` never goes backwards within a process, so that leases do not either."""

    def __init__(self) -> None:
        self._last = 0
        self._random = random.Random()  # noqa: S311 - jitter, not a secret

    def now(self) -> int:
        """Milliseconds since the epoch, UTC; never less than the answer before."""
        self._last = max(self._last, time.time_ns() // 1_000_000)
        return self._last

    def random(self) -> float:
        """A number in [0, 1), not for secrets."""
        return self._random.random()
