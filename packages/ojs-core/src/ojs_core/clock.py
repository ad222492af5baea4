"""The one place that reads the clock and draws random numbers; everything else is handed the values."""

from __future__ import annotations

import random
import time
from typing import Protocol

SKEW_MAX_MS = 1000
"""How far the clocks of a server and its store may be apart before an operator is told."""


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


def wall_ms() -> float:
    """Return what the machine's clock shows, in ms since the epoch; it may be set back."""
    return time.time() * 1000


def skew_warnings(there: float | None, asked_at: float) -> list[str]:
    """Return what to tell an operator if the clock of this machine and that of the store disagree.

    Call it as soon as the store has answered.

    Args:
        there: the time of the store, in ms since the epoch; None: it does not say.
        asked_at: `wall_ms` before it was asked.
    """
    answered_at = wall_ms()
    if there is None:
        return []
    # Whenever between the two the store looked at its clock.
    skew = max(asked_at - there, 0) or min(answered_at - there, 0)
    if abs(skew) <= SKEW_MAX_MS:
        return []
    text = f"The clock of this machine is {abs(skew) / 1000:.1f} s {'ahead of' if skew > 0 else 'behind'} the store's."
    advice = "Leases, schedules and cron entries go wrong where servers disagree about the time: use NTP."
    return [f"{text} {advice}"]
