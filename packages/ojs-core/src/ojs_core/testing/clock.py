"""A clock that tests move, so that no test sleeps."""

from __future__ import annotations

NOW = 1_770_892_200_000
"""2026-02-12T10:30:00Z, the instant at which tests begin."""
SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class FakeClock:
    """An `ojs_core.clock.Clock` whose time and chance are what the test says.

    >>> clock = FakeClock(1_000)
    >>> clock.advance(500)
    >>> clock.now(), clock.random()
    (1500, 0.5)
    """

    def __init__(self, now_ms: int = NOW, chance: float = 0.5) -> None:
        self.now_ms = now_ms
        self.chance = chance
        """What `random` answers; with jitter, 0.5 leaves a retry delay as computed."""

    def now(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return self.now_ms

    def random(self) -> float:
        """The number set as `chance`."""
        return self.chance

    def advance(self, ms: int) -> None:
        """Let time pass; a negative number turns the clock back."""
        self.now_ms += ms
